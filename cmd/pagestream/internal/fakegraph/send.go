package fakegraph

import (
	"encoding/json"
	"net/http"
	"slices"
	"time"
	"unicode/utf8"
)

// CloseWindow makes a person's last message older than the page may answer.
func (g *Graph) CloseWindow(psid string) { g.mark(psid, func(c *contact) { c.closed = true }) }

// Block makes a person refuse their page's messages.
func (g *Graph) Block(psid string) { g.mark(psid, func(c *contact) { c.blocked = true }) }

func (g *Graph) mark(psid string, how func(*contact)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c := g.contacts[psid]; c != nil {
		how(c)
	}
}

// outside says why a person can't be written to.
func (g *Graph) outside(psid, tag string) *failure {
	g.mu.Lock()
	defer g.mu.Unlock()
	c, window := g.contacts[psid], 24*time.Hour
	if tag == "HUMAN_AGENT" {
		window = 7 * 24 * time.Hour
	}
	switch {
	case c.blocked:
		return oauth(http.StatusBadRequest, 551, 1545041, "(#551) This person isn't available right now.")
	case c.closed && tag == "", g.opts.Window && g.opts.Now().Sub(c.lastIn) > window:
		return oauth(http.StatusBadRequest, 10, 2018278, "(#10) This message is sent outside of allowed window.")
	}
	return nil
}

// send is the Send API: it takes a message of the page and makes the echo that
// every subscribed app hears, before or after the answer is read.
// https://developers.facebook.com/docs/messenger-platform/reference/send-api
func (g *Graph) send(q *request, t token, page string) (any, *failure) {
	if fail := notOf(page, t, "pages_messaging"); fail != nil {
		return nil, fail
	}
	var to struct{ ID string }
	if json.Unmarshal([]byte(q.params["recipient"]), &to) != nil || to.ID == "" {
		return nil, oauth(http.StatusBadRequest, 100, 0, "(#100) The parameter recipient is required")
	}
	if c := g.contacts[to.ID]; c == nil || c.page != page {
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
	if !slices.Contains([]string{"", "RESPONSE", "UPDATE", "MESSAGE_TAG"}, q.params["messaging_type"]) {
		return nil, oauth(http.StatusBadRequest, 100, 0, "(#100) Param messaging_type must be one of {RESPONSE, UPDATE, MESSAGE_TAG}")
	}
	var m struct {
		Text, Metadata string
		Attachment     *attachment
	}
	if json.Unmarshal([]byte(q.params["message"]), &m) != nil || m.Text == "" && m.Attachment == nil {
		return nil, oauth(http.StatusBadRequest, 100, 0, "(#100) Param message must not be empty")
	}
	if utf8.RuneCountInString(m.Text) > 2000 {
		return nil, oauth(http.StatusBadRequest, 100, 0, "(#100) Length of param message[text] must be less than or equal to 2000")
	}
	mid := "m_" + letters(g.hash("sent", page, g.nextSerial(), g.opts.Now().String()))
	message := map[string]any{"mid": mid, "is_echo": true, "app_id": json.Number(t.app)}
	if m.Text != "" {
		message["text"] = m.Text
	}
	if m.Metadata != "" {
		message["metadata"] = m.Metadata
	}
	var attachments []attachment
	if m.Attachment != nil {
		attachments = []attachment{*m.Attachment}
		message["attachments"] = attachments
	}
	platform := "messenger"
	if g.onInstagram(t.app, page, to.ID) {
		platform = objectInstagram
	}
	g.remember(historic{
		page: page, psid: to.ID, mid: mid, platform: platform, text: m.Text, fromPage: true, at: g.opts.Now(), attachments: attachments,
	})
	for _, e := range g.atWork() {
		e.sent(page, to.ID, message)
	}
	return map[string]any{"recipient_id": to.ID, "message_id": mid}, nil
}
