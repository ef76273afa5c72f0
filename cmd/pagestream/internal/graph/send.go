package graph

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// Outgoing is a message or a sender action to a person. Recipient and Message are
// JSON objects as Graph documents them; exactly one of Message and SenderAction is
// set.
type Outgoing struct {
	Recipient json.RawMessage
	Message   json.RawMessage
	// MessagingType is "RESPONSE", "UPDATE" or "MESSAGE_TAG"; the last needs Tag.
	MessagingType string
	Tag           string
	// SenderAction is "typing_on", "typing_off", "mark_seen", "react" or
	// "unreact".
	SenderAction string
}

// Sent is Graph's answer to a message that it accepted.
type Sent struct {
	// RecipientID is empty if the recipient was not given by id.
	RecipientID string
	// MessageID is the mid that the echo will have; it is empty for an action.
	MessageID string
}

// Send sends a message from the page. The call is not repeated if Graph may have the
// message: after [ErrUnreachable], [ErrAnswer] and an error of class
// [meta.Transient] it is unknown whether the message was sent, and the caller must
// decide. A rate limit error means that nothing was sent; Send waits and repeats the
// call.
// https://developers.facebook.com/docs/messenger-platform/reference/send-api
func (c *Client) Send(ctx context.Context, page, token string, m Outgoing) (Sent, error) {
	p := path(page, "messages")
	if !isObject(m.Recipient) || isObject(m.Message) == (m.SenderAction != "") ||
		len(m.Message) > 0 && !isObject(m.Message) {
		return Sent{}, ErrMessage
	}
	params := url.Values{"recipient": {string(m.Recipient)}}
	for name, v := range map[string]string{
		"message": string(m.Message), "messaging_type": m.MessagingType, "tag": m.Tag, "sender_action": m.SenderAction,
	} {
		if v != "" {
			params.Set(name, v)
		}
	}
	var out struct {
		Recipient id     `json:"recipient_id"`
		Message   string `json:"message_id"`
	}
	if err := c.do(ctx, call{
		method: http.MethodPost, path: p, edge: "messages", page: page, token: token, params: params, noRetry: true,
		secrets: texts(m.Message),
	}, &out); err != nil {
		return Sent{}, err
	}
	if out.Message == "" && m.SenderAction == "" {
		return Sent{}, fmt.Errorf("POST %s: %w: it has no message id", p, ErrAnswer)
	}
	return Sent{RecipientID: string(out.Recipient), MessageID: out.Message}, nil
}

func isObject(b json.RawMessage) bool {
	return bytes.HasPrefix(bytes.TrimLeft(b, " \t\r\n"), []byte("{")) && json.Valid(b)
}

// texts returns the texts of a message, which Graph may quote in an error.
func texts(message json.RawMessage) []string {
	var list []string
	var walk func(name string, v any)
	walk = func(name string, v any) {
		switch v := v.(type) {
		case string:
			switch name {
			case "text", "title", "subtitle", "payload", "metadata", "url":
				list = append(list, v)
			}
		case []any:
			for _, e := range v {
				walk(name, e)
			}
		case map[string]any:
			for n, e := range v {
				walk(n, e)
			}
		}
	}
	var v any
	if json.Unmarshal(message, &v) == nil {
		walk("", v)
	}
	return list
}

// Profile is what a person shows to the page. A part that they do not show is empty.
type Profile struct {
	Name string
	// Picture is a URL that expires within days.
	Picture string
}

// Profile reads the profile of a person who wrote to the page, by their page-scoped
// id. An error of class [meta.NoProfile], [meta.PersonUnreachable] or
// [meta.Permission] means that there is no profile, or that the page may not see it.
// https://developers.facebook.com/docs/messenger-platform/identity/user-profile
func (c *Client) Profile(ctx context.Context, page, token, contact string, instagram bool) (Profile, error) {
	if !isID(page) {
		return Profile{}, ErrPageID
	}
	fields := "name,first_name,last_name,profile_pic"
	if instagram {
		fields = "name,username,profile_pic"
	}
	var out struct {
		Name     string `json:"name"`
		First    string `json:"first_name"`
		Last     string `json:"last_name"`
		Username string `json:"username"`
		Picture  string `json:"profile_pic"`
	}
	if err := c.do(ctx, call{
		method: http.MethodGet, path: path(contact, ""), edge: "profile", page: page, token: token,
		params: url.Values{"fields": {fields}},
	}, &out); err != nil {
		return Profile{}, err
	}
	name := cmp.Or(out.Name, strings.TrimSpace(out.First+" "+out.Last), out.Username)
	return Profile{Name: name, Picture: out.Picture}, nil
}
