package backfill

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/messenger"
)

// The parts of a webhook item that a message is made into. Package messenger
// reads it, so that the event's id is the delivery's.
type (
	end struct {
		ID string `json:"id"`
	}
	item struct {
		Sender    end     `json:"sender"`
		Recipient end     `json:"recipient"`
		Timestamp int64   `json:"timestamp"`
		Message   message `json:"message"`
	}
	message struct {
		MID         string       `json:"mid"`
		Echo        bool         `json:"is_echo,omitempty"`
		Text        string       `json:"text,omitempty"`
		Attachments []attachment `json:"attachments,omitempty"`
		ReplyTo     *replyTo     `json:"reply_to,omitempty"`
		Unsupported bool         `json:"is_unsupported,omitempty"`
	}
	attachment struct {
		Type    string  `json:"type"`
		Payload payload `json:"payload"`
	}
	payload struct {
		URL   string `json:"url,omitempty"`
		Title string `json:"title,omitempty"`
	}
	replyTo struct {
		MID string `json:"mid"`
	}
	entry struct {
		ID        domain.PageID `json:"id"`
		Messaging []item        `json:"messaging"`
	}
	delivery struct {
		Object string  `json:"object"`
		Entry  []entry `json:"entry"`
	}
)

// event makes the event that the message's delivery would have been, and counts
// it. It returns false for one that is left out.
func (w *walk) event(m graph.Message, platform string, own domain.PageID) (domain.Event, bool, error) {
	w.sum.Messages++
	it, ok := w.item(m, own)
	if !ok {
		w.sum.Odd++
		return domain.Event{}, false, nil
	}
	object := "page"
	if platform == Instagram {
		object = "instagram"
	}
	body, err := json.Marshal(delivery{Object: object, Entry: []entry{{ID: own, Messaging: []item{it}}}})
	if err != nil {
		return domain.Event{}, false, fmt.Errorf("make delivery of a message: %w", err)
	}
	events := messenger.Split(body, messenger.Options{App: w.access.App, Source: "backfill"}).Events
	if len(events) != 1 || events[0].Data.Message == nil {
		w.sum.Odd++
		return domain.Event{}, false, nil
	}
	e := events[0]
	if json.Valid(m.Raw) {
		e.Data.Raw = m.Raw
	}
	at, erased, err := w.opts.Erased(e.Page, e.Contact)
	if err != nil {
		return domain.Event{}, false, fmt.Errorf("ask for an erasure: %w", err)
	}
	if erased && !e.Time.After(at) {
		w.sum.Erased++
		return domain.Event{}, false, nil
	}
	return e, true, nil
}

// item turns a message into the item of its delivery. Whatever has the page at
// one end and somebody else at the other is one.
func (w *walk) item(m graph.Message, own domain.PageID) (item, bool) {
	ours := func(id string) bool { return id == string(own) || id == string(w.Page) }
	other := slices.IndexFunc(m.To, func(id string) bool { return id != "" && !ours(id) })
	it := item{
		Timestamp: m.Created.UnixMilli(),
		Message:   message{MID: m.ID, Text: m.Text, Unsupported: m.Unsupported},
	}
	switch {
	case m.ID == "" || m.Created.IsZero():
		return item{}, false
	case ours(m.From) && other >= 0:
		it.Sender.ID, it.Recipient.ID, it.Message.Echo = string(own), m.To[other], true
	case m.From != "" && !ours(m.From) && (len(m.To) == 0 || slices.ContainsFunc(m.To, ours)):
		it.Sender.ID, it.Recipient.ID = m.From, string(own)
	default:
		return item{}, false
	}
	for _, a := range m.Attachments {
		it.Message.Attachments = append(it.Message.Attachments, attachment{a.Type, payload{a.URL, a.Name}})
	}
	if m.Sticker != "" {
		it.Message.Attachments = append(it.Message.Attachments, attachment{"sticker", payload{URL: m.Sticker}})
	}
	if m.ReplyTo != "" {
		it.Message.ReplyTo = &replyTo{m.ReplyTo}
	}
	return it, true
}
