package fakegraph

import (
	"encoding/json"
	"net/http"
	"slices"
	"time"
	"unicode/utf8"
)

// CloseWindow closes the messaging window of a person: only messages with a tag are
// accepted.
func (g *Graph) CloseWindow(psid string) { g.updateContact(psid, func(c *contact) { c.closed = true }) }

// Block makes a person block the page.
func (g *Graph) Block(psid string) { g.updateContact(psid, func(c *contact) { c.blocked = true }) }

func (g *Graph) updateContact(psid string, change func(*contact)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c := g.contacts[psid]; c != nil {
		change(c)
	}
}

// sendError returns why a page can't send a message to a person, nil if it can.
func (g *Graph) sendError(psid, tag string) *failure {
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

// send serves the Send API: it accepts a message of the page and makes the engines
// send its echo, before or after the reply.
// https://developers.facebook.com/docs/messenger-platform/reference/send-api
func (g *Graph) send(q *request, t token, page string) (any, *failure) {
	if fail := requirePageToken(page, t, "pages_messaging"); fail != nil {
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
		return nil, oauth(http.StatusBadRequest, 100, 0,
			"(#100) Param sender_action must be one of {mark_seen, typing_on, typing_off, react, unreact}")
	}
	if fail := g.sendError(to.ID, q.params["tag"]); fail != nil {
		return nil, fail
	}
	if !slices.Contains([]string{"", "RESPONSE", "UPDATE", "MESSAGE_TAG"}, q.params["messaging_type"]) {
		return nil, oauth(http.StatusBadRequest, 100, 0,
			"(#100) Param messaging_type must be one of {RESPONSE, UPDATE, MESSAGE_TAG}")
	}
	var m struct {
		Text, Metadata string
		Attachment     *attachment
	}
	if json.Unmarshal([]byte(q.params["message"]), &m) != nil || m.Text == "" && m.Attachment == nil {
		return nil, oauth(http.StatusBadRequest, 100, 0, "(#100) Param message must not be empty")
	}
	if utf8.RuneCountInString(m.Text) > 2000 {
		return nil, oauth(http.StatusBadRequest, 100, 0,
			"(#100) Length of param message[text] must be less than or equal to 2000")
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
	g.storeMessage(storedMessage{
		page: page, psid: to.ID, mid: mid, platform: platform, text: m.Text, fromPage: true, at: g.opts.Now(),
		attachments: attachments,
	})
	for _, e := range g.activeEngines() {
		e.queueEcho(page, to.ID, message)
	}
	return map[string]any{"recipient_id": to.ID, "message_id": mid}, nil
}
