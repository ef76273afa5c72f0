package graph

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
)

const (
	// defaultConversations and maxConversations are the default and the largest number
	// of conversations in one page of a listing.
	defaultConversations = 25
	maxConversations     = 100
	// messagesAtOnce is how many messages of a conversation are requested at a time.
	messagesAtOnce = 20
	// maxHalvings is how often the page size is halved if Graph finds it too large.
	maxHalvings = 2
)

const messageFields = "id,created_time,from,to,message,attachments,sticker,reply_to,is_unsupported"

// Conversation is a page's conversation with its newest messages.
type Conversation struct {
	ID string
	// Updated is the time of the newest message, in whole seconds.
	Updated time.Time
	// Messages are in Graph's order, newest first.
	Messages []Message
	// After is the cursor of the older messages for [Client.Messages], empty if there
	// are none.
	After string
}

// Message is a message of the Conversations API.
type Message struct {
	// ID is the mid, the same as in the webhook.
	ID string
	// Created is in whole seconds, so several messages may have the same; it is zero if
	// Graph gives none.
	Created time.Time
	From    string
	To      []string
	Text    string
	// Attachments are empty for a message that has only text.
	Attachments []Attachment
	// Sticker is the URL of its picture.
	Sticker string
	// Unsupported reports that this API can't show the message's content.
	Unsupported bool
	// ReplyTo is the mid that this message answers.
	ReplyTo string
	// Raw is Graph's JSON of the message.
	Raw json.RawMessage
}

// Attachment is a file with a message.
type Attachment struct {
	// Type is "image", "video", "audio" or "file".
	Type string
	// URL expires within days.
	URL  string
	Name string
}

// UnmarshalJSON decodes Graph's JSON of a message. A member of an unexpected type is
// left empty; Raw has it. [ErrAnswer] is returned if b is not an object.
func (m *Message) UnmarshalJSON(b []byte) error {
	var fields map[string]json.RawMessage
	if json.Unmarshal(b, &fields) != nil {
		return ErrAnswer
	}
	var (
		mid  id
		at   string
		from struct {
			ID id `json:"id"`
		}
		to struct {
			Data []struct {
				ID id `json:"id"`
			} `json:"data"`
		}
		files struct {
			Data []file `json:"data"`
		}
		unsupported flag
		reply       struct {
			MID string `json:"mid"`
			ID  string `json:"id"`
		}
	)
	*m = Message{Raw: bytes.Clone(b)}
	for name, into := range map[string]any{
		"id": &mid, "created_time": &at, "from": &from, "to": &to, "message": &m.Text, "attachments": &files,
		"sticker": &m.Sticker, "reply_to": &reply, "is_unsupported": &unsupported,
	} {
		if v, ok := fields[name]; ok {
			_ = json.Unmarshal(v, into)
		}
	}
	m.ID, m.From, m.Unsupported, m.ReplyTo = string(mid), string(from.ID), bool(unsupported), cmp.Or(reply.MID, reply.ID)
	m.Created, _ = parseTime(at)
	for _, t := range to.Data {
		m.To = append(m.To, string(t.ID))
	}
	for _, f := range files.Data {
		m.Attachments = append(m.Attachments, f.attachment())
	}
	return nil
}

type file struct {
	MIME  string `json:"mime_type"`
	Name  string `json:"name"`
	URL   string `json:"file_url"`
	Image struct {
		URL string `json:"url"`
	} `json:"image_data"`
	Video struct {
		URL string `json:"url"`
	} `json:"video_data"`
}

func (f file) attachment() Attachment {
	kind, _, _ := strings.Cut(f.MIME, "/")
	switch {
	case f.Image.URL != "":
		return Attachment{Type: "image", URL: f.Image.URL, Name: f.Name}
	case f.Video.URL != "":
		return Attachment{Type: "video", URL: f.Video.URL, Name: f.Name}
	case kind == "image", kind == "video", kind == "audio":
		return Attachment{Type: kind, URL: f.URL, Name: f.Name}
	}
	return Attachment{Type: "file", URL: f.URL, Name: f.Name}
}

// parseTime parses a time in Graph's format, which has no colon in the zone, or in
// RFC 3339.
func parseTime(s string) (time.Time, error) {
	t, err := time.Parse("2006-01-02T15:04:05-0700", s)
	if err != nil {
		t, err = time.Parse(time.RFC3339, s)
	}
	if err != nil {
		return time.Time{}, ErrAnswer
	}
	return t.UTC(), nil
}

// Conversations lists at most limit of the page's conversations, the one with the
// newest message first, starting at the cursor after. Next is the cursor of the
// following ones, empty at the end. Platform is "messenger" or "instagram". Graph
// offers no filter by time. It allows 2 calls a second for a page, and the call
// waits for that limit. If Graph finds the page of the listing too large, a smaller
// one is returned.
// https://developers.facebook.com/docs/graph-api/reference/page/conversations
func (c *Client) Conversations(
	ctx context.Context, page, token, platform, after string, limit int,
) (list []Conversation, next string, err error) {
	if limit <= 0 {
		limit = defaultConversations
	}
	type item struct {
		ID       id     `json:"id"`
		Updated  string `json:"updated_time"`
		Messages struct {
			Data   []Message `json:"data"`
			Paging paging    `json:"paging"`
		} `json:"messages"`
	}
	k := call{
		path: path(page, "conversations"), edge: "conversations", page: page, token: token, conversationsAPI: true,
		params: url.Values{
			"fields": {fmt.Sprintf("id,updated_time,messages.limit(%d){%s}", messagesAtOnce, messageFields)},
		},
	}
	if platform != "" {
		k.params.Set("platform", platform)
	}
	items, next, err := listAdaptive[item](ctx, c, k, after, min(limit, maxConversations))
	if err != nil {
		return nil, "", err
	}
	list = make([]Conversation, 0, len(items))
	for _, i := range items {
		// A caller stops reading at a time, so a conversation without one would end the
		// listing unnoticed.
		at, err := parseTime(i.Updated)
		if err != nil || !isConversation(string(i.ID)) {
			return nil, "", fmt.Errorf("GET %s: %w: a conversation has no id or no time", k.path, ErrAnswer)
		}
		older, err := i.Messages.Paging.after()
		if err != nil {
			return nil, "", fmt.Errorf("GET %s: %w", k.path, err)
		}
		list = append(list, Conversation{ID: string(i.ID), Updated: at, Messages: i.Messages.Data, After: older})
	}
	return list, next, nil
}

// Messages lists the messages of one of the page's conversations, newest first,
// starting at the cursor after. Next is the cursor of the following ones, empty at
// the end. Graph may return only the newest 20. The call counts against the same
// limit of 2 calls a second as [Client.Conversations].
// https://developers.facebook.com/docs/graph-api/reference/conversation
func (c *Client) Messages(
	ctx context.Context, page, token, conversation, after string,
) (list []Message, next string, err error) {
	switch {
	case !isID(page):
		return nil, "", ErrPageID
	case !isConversation(conversation):
		return nil, "", ErrConversation
	}
	return listAdaptive[Message](ctx, c, call{
		path: "/" + conversation + "/messages", edge: "conversation_messages", page: page, token: token,
		conversationsAPI: true, params: url.Values{"fields": {messageFields}},
	}, after, messagesAtOnce)
}

// isConversation reports whether s may be a conversation's id: Messenger's are "t_"
// and digits, Instagram's are base64. Graph's alias for the
// token's owner is too short to be accepted.
func isConversation(s string) bool {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-="
	return len(s) > 2 && len(s) <= 512 && strings.Trim(s, letters) == ""
}

// listAdaptive reads one page of a listing, and halves its size if Graph answers with
// code 1: Graph uses it for "reduce the amount of data", and also for temporary
// failures, after which a smaller page does no harm.
func listAdaptive[T any](ctx context.Context, c *Client, k call, after string, limit int) ([]T, string, error) {
	for n := 0; ; n++ {
		k.params.Set("limit", strconv.Itoa(limit))
		k.noRetryOnCode1 = n < maxHalvings && limit > 1
		list, next, err := listPage[T](ctx, c, k, after)
		refusal := meta.Refused(err)
		if !k.noRetryOnCode1 || refusal == nil || refusal.Code != 1 {
			return list, next, err
		}
		limit /= 2
	}
}
