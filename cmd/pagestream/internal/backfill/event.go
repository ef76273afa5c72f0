package backfill

import (
	"encoding/json"
	"slices"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/messenger"
)

// These types are the JSON of a message in a webhook delivery.
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

// event returns the event that the message's delivery would have made, and counts the
// message. It returns false if the message is left out.
func (w *walk) event(m graph.Message, platform string, account domain.PageID) (domain.Event, bool, error) {
	w.sum.Messages++
	d, ok := w.delivery(m, account)
	if !ok {
		w.sum.Unusable++
		return domain.Event{}, false, nil
	}
	d.Object = "page"
	if platform == Instagram {
		d.Object = "instagram"
	}
	e, ok, err := d.Event(messenger.Options{App: w.access.App, Source: domain.SourceBackfill})
	if err != nil {
		return domain.Event{}, false, err
	}
	if !ok || e.Data.Message == nil {
		w.sum.Unusable++
		return domain.Event{}, false, nil
	}
	if json.Valid(m.Raw) {
		e.Data.Raw = m.Raw
	}
	return e, true, nil
}

// delivery returns the delivery of a message. It returns false if the message has no
// id or time, or is not between the page and somebody else.
func (w *walk) delivery(m graph.Message, account domain.PageID) (meta.Delivery, bool) {
	ours := func(id string) bool { return id == string(account) || id == string(w.Page) }
	other := slices.IndexFunc(m.To, func(id string) bool { return id != "" && !ours(id) })
	d := meta.Delivery{Page: account, From: m.From, To: string(account), At: m.Created}
	out := message{MID: m.ID, Text: m.Text, Unsupported: m.Unsupported}
	switch {
	case m.ID == "" || m.Created.IsZero():
		return d, false
	case ours(m.From) && other >= 0:
		d.From, d.To, out.Echo = string(account), m.To[other], true
	case m.From == "" || ours(m.From) || len(m.To) > 0 && !slices.ContainsFunc(m.To, ours):
		return d, false
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
	d.Message = out
	return d, true
}
