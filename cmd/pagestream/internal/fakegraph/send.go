package fakegraph

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// CloseWindow makes a person's last message older than the page may answer.
func (g *Graph) CloseWindow(psid string) { g.mark(g.closed, psid) }

// Block makes a person refuse their page's messages.
func (g *Graph) Block(psid string) { g.mark(g.blocked, psid) }

func (g *Graph) mark(set map[string]bool, psid string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	set[psid] = true
}

// Windows in which a page may answer.
const (
	standardWindow = 24 * time.Hour
	agentWindow    = 7 * 24 * time.Hour
)

// outside says why a person can't be written to.
func (g *Graph) outside(psid, tag string) *failure {
	g.mu.Lock()
	defer g.mu.Unlock()
	window := standardWindow
	if tag == "HUMAN_AGENT" {
		window = agentWindow
	}
	switch {
	case g.blocked[psid]:
		return oauth(http.StatusBadRequest, 551, 1545041, "(#551) This person isn't available right now.")
	case g.closed[psid] && tag == "", g.opts.Window && g.opts.Now().Sub(g.lastIn[psid]) > window:
		return oauth(http.StatusBadRequest, 10, 2018278, "(#10) This message is sent outside of allowed window.")
	}
	return nil
}

// send is the Send API: it takes a message of the page and makes the echo that
// every subscribed app hears, before or after the answer is read.
// https://developers.facebook.com/docs/messenger-platform/reference/send-api
func (g *Graph) send(q *request, t token, page string) (any, *failure) {
	switch {
	case t.kind != "PAGE":
		return nil, oauth(http.StatusBadRequest, 210, 0, "(#210) A page access token is required to request this resource.")
	case t.page != page:
		return nil, oauth(http.StatusForbidden, 200, 0, "(#200) The token is of another page; it must be the access token of page "+page)
	case !slices.Contains(t.scopes, "pages_messaging"):
		return nil, oauth(http.StatusForbidden, 200, 0, "(#200) Requires pages_messaging permission to manage the object")
	}
	var to struct {
		ID string `json:"id"`
	}
	if json.Unmarshal([]byte(q.params["recipient"]), &to) != nil || to.ID == "" {
		return nil, oauth(http.StatusBadRequest, 100, 0, "(#100) The parameter recipient is required")
	}
	if c, ok := g.contacts[to.ID]; !ok || c.page != page {
		return nil, oauth(http.StatusBadRequest, 100, 2018001, "(#100) No matching user found")
	}
	switch action := q.params["sender_action"]; action {
	case "":
	case "mark_seen", "typing_on", "typing_off", "react", "unreact":
		return map[string]any{"recipient_id": to.ID}, nil
	default:
		return nil, oauth(http.StatusBadRequest, 100, 0, "(#100) Param sender_action must be one of {mark_seen, typing_on, typing_off, react, unreact}")
	}
	if fail := g.outside(to.ID, q.params["tag"]); fail != nil {
		return nil, fail
	}
	switch kind := q.params["messaging_type"]; kind {
	case "", "RESPONSE", "UPDATE", "MESSAGE_TAG":
	default:
		return nil, oauth(http.StatusBadRequest, 100, 0, "(#100) Param messaging_type must be one of {RESPONSE, UPDATE, MESSAGE_TAG}")
	}
	var m struct {
		Text       string `json:"text"`
		Metadata   string `json:"metadata"`
		Attachment *struct {
			Type    string         `json:"type"`
			Payload map[string]any `json:"payload"`
		} `json:"attachment"`
	}
	if json.Unmarshal([]byte(q.params["message"]), &m) != nil || m.Text == "" && m.Attachment == nil {
		return nil, oauth(http.StatusBadRequest, 100, 0, "(#100) Param message must not be empty")
	}
	if len([]rune(m.Text)) > 2000 {
		return nil, oauth(http.StatusBadRequest, 100, 0, "(#100) Length of param message[text] must be less than or equal to 2000")
	}
	g.mu.Lock()
	g.serial++
	mid := "m_" + letters(g.hash("sent", page, strconv.FormatUint(g.serial, 10), g.opts.Now().String()))
	engines := make([]*Engine, 0, len(g.engines))
	for e := range g.engines {
		engines = append(engines, e)
	}
	g.mu.Unlock()
	message := map[string]any{"mid": mid, "is_echo": true, "app_id": json.Number(t.app)}
	if m.Text != "" {
		message["text"] = m.Text
	}
	if m.Metadata != "" {
		message["metadata"] = m.Metadata
	}
	var attachments []map[string]any
	if m.Attachment != nil {
		attachments = []map[string]any{{"type": m.Attachment.Type, "payload": m.Attachment.Payload}}
		message["attachments"] = attachments
	}
	platform := "messenger"
	if g.onInstagram(t.app, page, to.ID) {
		platform = objectInstagram
	}
	g.remember(historic{
		page: page, psid: to.ID, mid: mid, platform: platform, text: m.Text, fromPage: true, at: g.opts.Now(), attachments: attachments,
	})
	for _, e := range engines {
		e.sent(page, to.ID, message)
	}
	return map[string]any{"recipient_id": to.ID, "message_id": mid}, nil
}
