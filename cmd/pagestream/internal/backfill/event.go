package backfill

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/messenger"
)

// The message of a webhook item that a message is made into.
type (
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
)

// event makes the event that the message's delivery would have been, and counts
// it. It returns false for one that is left out.
func (w *walk) event(m graph.Message, platform string, own domain.PageID) (domain.Event, bool, error) {
	w.sum.Messages++
	item, ok := w.item(m, own)
	if !ok {
		w.sum.Odd++
		return domain.Event{}, false, nil
	}
	object := "page"
	if platform == Instagram {
		object = "instagram"
	}
	e, ok, err := meta.Delivered(object, own, item, messenger.Options{App: w.access.App, Source: "backfill"})
	if err != nil {
		return domain.Event{}, false, err
	}
	if !ok || e.Data.Message == nil {
		w.sum.Odd++
		return domain.Event{}, false, nil
	}
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
func (w *walk) item(m graph.Message, own domain.PageID) (meta.Messaging, bool) {
	ours := func(id string) bool { return id == string(own) || id == string(w.Page) }
	other := slices.IndexFunc(m.To, func(id string) bool { return id != "" && !ours(id) })
	from, to := m.From, string(own)
	out := message{MID: m.ID, Text: m.Text, Unsupported: m.Unsupported}
	switch {
	case m.ID == "" || m.Created.IsZero():
		return meta.Messaging{}, false
	case ours(m.From) && other >= 0:
		from, to, out.Echo = string(own), m.To[other], true
	case m.From != "" && !ours(m.From) && (len(m.To) == 0 || slices.ContainsFunc(m.To, ours)):
	default:
		return meta.Messaging{}, false
	}
	for _, a := range m.Attachments {
		out.Attachments = append(out.Attachments, attachment{a.Type, payload{a.URL, a.Name}})
	}
	if m.Sticker != "" {
		out.Attachments = append(out.Attachments, attachment{"sticker", payload{URL: m.Sticker}})
	}
	if m.ReplyTo != "" {
		out.ReplyTo = &replyTo{m.ReplyTo}
	}
	return meta.Messaging{
		Sender: meta.Party{ID: from}, Recipient: meta.Party{ID: to}, Timestamp: m.Created.UnixMilli(), Message: out,
	}, true
}
