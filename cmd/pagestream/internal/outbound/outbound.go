package outbound

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/messenger"
	"github.com/pagestream/pagestream/streams"
)

// ErrRequest is returned when a part of a request is missing or invalid. Nothing was
// sent.
var ErrRequest = errors.New("message request is not valid")

// Errors after Graph was called.
var (
	// ErrUnsure is returned when it is unknown whether the message was sent. If it was,
	// an echo arrives, provided that the page is subscribed to echoes. Sending again
	// may send the message twice.
	ErrUnsure = errors.New("no answer from graph: it is not known whether the message was sent")
	// ErrNotRecorded is returned when the message was sent but could not be recorded.
	// Its echo is recorded if the page is subscribed to echoes. The message must not be
	// sent again.
	ErrNotRecorded = errors.New("message was sent but not recorded")
)

// recordTimeout limits the recording of a sent message.
const recordTimeout = 10 * time.Second

// Graph sends messages.
type Graph interface {
	// Send sends a message. It does not repeat a call that may have reached Graph.
	// After an error that is not a [meta.Error] the message may have been sent, except
	// after [meta.ErrNotConnected], [graph.ErrMessage] and [graph.ErrPageID].
	Send(ctx context.Context, a meta.Access, m graph.Outgoing) (graph.Sent, error)
}

// Options configure a [Sender]. Tokens, Graph and Publisher are required.
type Options struct {
	Tokens    meta.Tokens
	Graph     Graph
	Publisher streams.Storer
	Now       func() time.Time
}

// Sender sends messages and records them. It is safe for concurrent use. Create it
// with [New].
type Sender struct{ opts Options }

// New returns a sender. It panics if a required option is missing, which is a
// programming error.
func New(o Options) *Sender {
	if o.Tokens == nil || o.Graph == nil || o.Publisher == nil {
		panic("outbound: Tokens, Graph and Publisher are required")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Sender{opts: o}
}

// Request is a request to send one message or action. It has either a Recipient or a
// Contact, and either a Message or a SenderAction.
type Request struct {
	// Page is the sender: a page, or the Instagram account linked to one.
	Page domain.PageID `json:"-"`
	// Recipient is Meta's object: {"id":…}, {"user_ref":…}, {"comment_id":…}, …
	Recipient json.RawMessage `json:"recipient,omitempty"`
	// Contact is a short form of the recipient {"id":…}.
	Contact domain.ContactID `json:"contact,omitempty"`
	// Message is Meta's object: {"text":…}, {"attachment":…}, …
	Message json.RawMessage `json:"message,omitempty"`
	// MessagingType and Tag are Meta's; Graph validates them.
	MessagingType string `json:"messaging_type,omitempty"`
	Tag           string `json:"tag,omitempty"`
	// SenderAction is mark_seen, typing_on, typing_off, react or unreact.
	SenderAction string `json:"sender_action,omitempty"`
}

// Sent is the result of a request.
type Sent struct {
	// RecipientID and MID are Graph's, empty if it returned none. The echo has the same
	// MID.
	RecipientID string `json:"recipient_id,omitempty"`
	MID         string `json:"message_id,omitempty"`
	// Seq is the sequence of the message's event, 0 if none was recorded.
	Seq uint64 `json:"seq,omitempty"`
	// Known reports that the echo was stored first: Seq is that event.
	Known bool `json:"-"`
	// Warning is set if the message was sent but could not be recorded.
	Warning string `json:"warning,omitempty"`
}

// Send sends the message once and records it.
//
// An error of Graph is returned wrapped; then nothing was sent, as after [ErrRequest],
// [meta.ErrNotConnected] and [meta.ErrTokenDead]. After [ErrUnsure] the message may
// have been sent. After [ErrNotRecorded] it was sent, and Sent has Graph's ids.
//
// An action is not recorded. A message for which Graph returns no id or no person is
// not recorded either: only its echo has them.
func (s *Sender) Send(ctx context.Context, r Request) (Sent, error) {
	to, contact, err := r.check()
	if err != nil {
		return Sent{}, err
	}
	access, err := s.opts.Tokens.Access(ctx, r.Page)
	if err != nil {
		return Sent{}, fmt.Errorf("get access to page %s: %w", r.Page, err)
	}
	out, err := s.opts.Graph.Send(ctx, access, graph.Outgoing{
		Recipient: to, Message: r.Message, MessagingType: r.MessagingType, Tag: r.Tag, SenderAction: r.SenderAction,
	})
	if err != nil {
		return Sent{}, fmt.Errorf("send as page %s: %w", r.Page, classify(err))
	}
	sent := Sent{RecipientID: out.RecipientID, MID: out.MessageID}
	if contact == "" {
		contact = domain.ContactID(out.RecipientID)
	}
	if r.SenderAction != "" || sent.MID == "" || contact == "" {
		return sent, nil
	}
	// The message was sent, so it is recorded even if the caller's context ends.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	events, err := echo(r, access, contact, sent.MID, s.opts.Now())
	if err != nil {
		return sent, fmt.Errorf("%w: %w", ErrNotRecorded, err)
	}
	receipts, err := s.opts.Publisher.Publish(ctx, events)
	if err != nil {
		return sent, fmt.Errorf("%w: %w", ErrNotRecorded, err)
	}
	sent.Seq, sent.Known = receipts[0].Seq, receipts[0].Duplicate != streams.NotDuplicate
	return sent, nil
}

// check validates the request. It returns the recipient and, if that is given by id,
// the contact.
func (r Request) check() (to json.RawMessage, contact domain.ContactID, err error) {
	switch {
	case r.Page == "" || r.Page == domain.NoPage:
		return nil, "", fmt.Errorf("%w: it names no page", ErrRequest)
	case (len(r.Recipient) == 0) == (r.Contact == ""):
		return nil, "", fmt.Errorf("%w: it needs either a recipient or a contact", ErrRequest)
	case (len(r.Message) == 0) == (r.SenderAction == ""):
		return nil, "", fmt.Errorf("%w: it needs either a message or an action", ErrRequest)
	case len(r.Message) > 0 && !isObject(r.Message):
		return nil, "", fmt.Errorf("%w: message is not a JSON object", ErrRequest)
	}
	if r.Contact != "" {
		to, err = json.Marshal(map[string]string{"id": string(r.Contact)})
		return to, r.Contact, err
	}
	if !isObject(r.Recipient) {
		return nil, "", fmt.Errorf("%w: recipient is not a JSON object", ErrRequest)
	}
	var by struct {
		ID json.RawMessage `json:"id"`
	}
	if json.Unmarshal(r.Recipient, &by) != nil {
		return nil, "", fmt.Errorf("%w: recipient is not readable", ErrRequest)
	}
	return r.Recipient, domain.ContactID(digits(by.ID)), nil
}

// isObject reports whether raw is a JSON object that is not empty.
func isObject(raw json.RawMessage) bool {
	var o map[string]json.RawMessage
	return json.Unmarshal(raw, &o) == nil && len(o) > 0
}

// digits decodes an id, which may be a string or a number, without using a float.
func digits(raw json.RawMessage) string {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text
	}
	var n json.Number
	if json.Unmarshal(raw, &n) == nil {
		return n.String()
	}
	return ""
}

// classify wraps an error of Graph.Send in [ErrRequest] or [ErrUnsure] if it means
// that.
func classify(err error) error {
	switch {
	case errors.Is(err, graph.ErrMessage), errors.Is(err, graph.ErrPageID):
		return fmt.Errorf("%w: %w", ErrRequest, err)
	case maybeSent(err):
		return fmt.Errorf("%w: %w", ErrUnsure, err)
	}
	return err
}

// maybeSent reports whether the message may have been sent despite the error: Graph
// was called and did not answer, or answered only that it failed (code 1, 2 or none).
// After a rate limit error nothing was sent.
func maybeSent(err error) bool {
	refusal := meta.Refused(err)
	switch {
	case errors.Is(err, meta.ErrNotConnected), meta.RetryAfter(err) > 0, meta.ClassOf(err) == meta.Throttled:
		return false
	case refusal == nil:
		return true
	}
	return refusal.Temporary() && refusal.Code <= 2
}

// echoedMembers are the members of a message that its echo has as well, or that only
// the request has.
var echoedMembers = []string{"text", "metadata", "quick_replies", "attachments"}

// echo returns the event that the message's echo would make.
func echo(r Request, a meta.Access, contact domain.ContactID, mid string, now time.Time) ([]domain.Event, error) {
	var given map[string]json.RawMessage
	if err := json.Unmarshal(r.Message, &given); err != nil {
		return nil, fmt.Errorf("read message: %w", ErrRequest)
	}
	d := meta.Delivery{Object: "page", Page: r.Page, From: string(r.Page), To: string(contact), At: now}
	if a.Page != r.Page { // it is the Instagram account linked to the page
		d.Object = "instagram"
	}
	message := map[string]any{"mid": mid, "is_echo": true}
	if a.AppID != "" && d.Object == "page" { // echoes of Instagram don't have it
		message["app_id"] = a.AppID
	}
	for _, name := range echoedMembers {
		if v, ok := given[name]; ok {
			message[name] = v
		}
	}
	if v, ok := given["attachment"]; ok {
		message["attachments"] = []json.RawMessage{v}
	}
	d.Message = message
	e, ok, err := d.Event(messenger.Options{App: a.App, Source: domain.SourceSend})
	if err != nil {
		return nil, fmt.Errorf("make echo: %w", err)
	}
	if !ok || e.Type != domain.MessageEchoed {
		return nil, fmt.Errorf("make echo: %w", ErrRequest)
	}
	return []domain.Event{e}, nil
}
