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

// ErrRequest is returned when a request lacks something or has it wrong. Nothing
// was sent.
var ErrRequest = errors.New("message can't be sent as it is")

// Errors after Graph was called.
var (
	// ErrUnsure is returned when it is not known whether the message was sent. Its
	// echo will tell, if the page is subscribed to echoes; sending again may send
	// twice.
	ErrUnsure = errors.New("no answer from graph: it is not known whether the message was sent")
	// ErrNotRecorded is returned when the message was sent and could not be
	// recorded. Its echo will be, if the page is subscribed to echoes. Don't send
	// it again.
	ErrNotRecorded = errors.New("message was sent but not recorded")
)

// recordTimeout bounds how long a message that was sent may take to be recorded.
const recordTimeout = 10 * time.Second

// Graph sends.
type Graph interface {
	// Send is never tried again once it may have reached Graph. After an error that
	// is no [meta.Error] the message may have been sent. The exceptions are
	// [meta.ErrNotConnected], [graph.ErrMessage] and [graph.ErrPageID].
	Send(ctx context.Context, a meta.Access, m graph.Outgoing) (graph.Sent, error)
}

// Options configure a [Sender]. Tokens, Graph and Publisher are required.
type Options struct {
	Tokens    meta.Tokens
	Graph     Graph
	Publisher streams.Storer
	Now       func() time.Time
}

// Sender sends. Make one with [New]; it is safe for concurrent use.
type Sender struct{ opts Options }

// New returns a sender. It panics if a required option is missing, which is a
// mistake in the wiring.
func New(o Options) *Sender {
	if o.Tokens == nil || o.Graph == nil || o.Publisher == nil {
		panic("outbound: Tokens, Graph and Publisher are required")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Sender{opts: o}
}

// Request asks for one message or action. It has either a Recipient or a
// Contact, and either a Message or a SenderAction.
type Request struct {
	// Page sends: a Page, or the Instagram account linked to one.
	Page domain.PageID `json:"-"`
	// Recipient is Meta's object: {"id":…}, {"user_ref":…}, {"comment_id":…}, …
	Recipient json.RawMessage `json:"recipient,omitempty"`
	// Contact is short for the recipient with that id.
	Contact domain.ContactID `json:"contact,omitempty"`
	// Message is Meta's object: {"text":…}, {"attachment":…}, …
	Message json.RawMessage `json:"message,omitempty"`
	// MessagingType and Tag are Meta's; Graph judges them.
	MessagingType string `json:"messaging_type,omitempty"`
	Tag           string `json:"tag,omitempty"`
	// SenderAction is mark_seen, typing_on, typing_off, react or unreact.
	SenderAction string `json:"sender_action,omitempty"`
}

// Sent says what became of a request.
type Sent struct {
	// RecipientID and MID are Graph's, empty where it gave none. The echo has the
	// same MID.
	RecipientID string `json:"recipient_id,omitempty"`
	MID         string `json:"message_id,omitempty"`
	// Seq is the event of the message: 0 if none was recorded.
	Seq uint64 `json:"seq,omitempty"`
	// Known says that the echo was there before us: Seq is its event.
	Known bool `json:"-"`
	// Warning says that the message was sent and could not be recorded.
	Warning string `json:"warning,omitempty"`
}

// Send sends the message once and records it.
//
// Graph's refusal comes back as it is, wrapped, and then nothing was sent; nor was
// it after [ErrRequest], [meta.ErrNotConnected] and [meta.ErrTokenDead]. After
// [ErrUnsure] it may have been. After [ErrNotRecorded] it was, and Sent has
// Graph's ids. An action is not recorded, nor is a message for which Graph names
// no id or no person: only its echo can say what it was.
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
	// The message is out: the caller's going does not keep it from the record.
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

// check returns the recipient and, where that is one by id, the contact.
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

// isObject reports whether raw is a JSON object with something in it.
func isObject(raw json.RawMessage) bool {
	var o map[string]json.RawMessage
	return json.Unmarshal(raw, &o) == nil && len(o) > 0
}

// digits reads an id, which may be text or a number and never a float.
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

// failure says of an error of Graph's what it means for the message.
func classify(err error) error {
	switch {
	case errors.Is(err, graph.ErrMessage), errors.Is(err, graph.ErrPageID):
		return fmt.Errorf("%w: %w", ErrRequest, err)
	case maybeSent(err):
		return fmt.Errorf("%w: %w", ErrUnsure, err)
	}
	return err
}

// unsure reports whether the message may have been sent all the same: Graph was
// called and did not answer, or said only that it failed (1, 2, or no code at
// all). A rate limit is a plain no.
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

// echoedMembers are the members of a message that its echo has as well, or that would be
// lost without us.
var echoedMembers = []string{"text", "metadata", "quick_replies", "attachments"}

// echo makes the event that the message's echo would be.
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
	if a.AppID != "" && d.Object == "page" { // echoes of Instagram don't say it
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
	e, ok, err := d.Event(messenger.Options{App: a.App, Source: "send"})
	if err != nil {
		return nil, fmt.Errorf("make echo: %w", err)
	}
	if !ok || e.Type != domain.MessageEchoed {
		return nil, fmt.Errorf("make echo: %w", ErrRequest)
	}
	return []domain.Event{e}, nil
}
