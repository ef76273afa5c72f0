package outbound

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/messenger"
	"github.com/pagestream/pagestream/streams"
)

// Errors before anything was sent.
var (
	// ErrRequest says that a request lacks something or has it wrong.
	ErrRequest = errors.New("message can't be sent as it is")
	// ErrNotConnected says that the page has no connection.
	ErrNotConnected = errors.New("page is not connected; type: pagestream pages connect PAGE")
	// ErrTokenDead says that the page's token is known to be invalid.
	ErrTokenDead = errors.New("page token is not valid; type: pagestream pages login")
)

// Errors after Graph was called.
var (
	// ErrUnsure says that it is not known whether the message was sent. Its echo
	// will tell, if the page is subscribed to echoes; sending again may send twice.
	ErrUnsure = errors.New("no answer from graph: it is not known whether the message was sent")
	// ErrNotRecorded says that the message was sent and could not be recorded.
	// Its echo will be, if the page is subscribed to echoes. Don't send it again.
	ErrNotRecorded = errors.New("message was sent but not recorded")
)

// DefaultRecordTimeout bounds how long a message that was sent may take to be
// recorded.
const DefaultRecordTimeout = 10 * time.Second

// Access is how to send as a page.
type Access struct {
	// Page is what Graph is called for. It is another than was asked for where
	// that was the linked Instagram account.
	Page domain.PageID
	// Token is the page's own token.
	Token string
	// App is the configured app's name, AppID its id at Meta.
	App, AppID string
	// Instagram says that the one asked for is an Instagram account.
	Instagram bool
}

// String keeps the token out of logs.
func (a Access) String() string { return "access to page " + string(a.Page) }

// GoString keeps the token out of logs.
func (a Access) GoString() string { return a.String() }

// Pages has the access to each page, and to the Instagram account linked to it.
type Pages interface {
	// Access fails with [ErrNotConnected] or [ErrTokenDead] where there is none.
	Access(ctx context.Context, page domain.PageID) (Access, error)
}

// Outgoing is what Graph is asked to send. Recipient and Message are JSON
// objects as Meta documents them.
type Outgoing struct {
	Recipient, Message               json.RawMessage
	MessagingType, Tag, SenderAction string
}

// Graph sends.
type Graph interface {
	// Send returns the ids that Graph gave, either of which may be empty. It is
	// never tried again once it may have reached Graph. A refusal implements
	// [Refusal]; any other error is taken for one after which the message may
	// have been sent.
	Send(ctx context.Context, app string, page domain.PageID, token string, m Outgoing) (recipient, mid string, err error)
}

// Refusal is an error that Graph itself answered with, found by errors.As.
type Refusal interface {
	error
	// Codes returns Graph's code and subcode.
	Codes() (code, subcode int)
	// Words returns Graph's own message, without tokens.
	Words() string
	// Temporary reports whether the same call may be accepted later.
	Temporary() bool
}

// Publisher appends events; streams.Publisher is one.
type Publisher interface {
	Publish(ctx context.Context, events []domain.Event) ([]streams.Receipt, error)
}

// Options configure a [Sender]. Pages, Graph and Publisher are required.
type Options struct {
	Pages     Pages
	Graph     Graph
	Publisher Publisher
	// RecordTimeout bounds how long recording may take. It runs even if the
	// caller has gone.
	RecordTimeout time.Duration
	Now           func() time.Time
}

// Sender sends. Make one with [New]; it is safe for concurrent use.
type Sender struct{ opts Options }

// New returns a sender. It panics if a required option is missing, which is a
// mistake in the wiring.
func New(o Options) *Sender {
	if o.Pages == nil || o.Graph == nil || o.Publisher == nil {
		panic("outbound: Pages, Graph and Publisher are required")
	}
	if o.RecordTimeout <= 0 {
		o.RecordTimeout = DefaultRecordTimeout
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
	Page domain.PageID
	// Recipient is Meta's object: {"id":…}, {"user_ref":…}, {"comment_id":…}, …
	Recipient json.RawMessage
	// Contact is short for the recipient with that id.
	Contact domain.ContactID
	// Message is Meta's object: {"text":…}, {"attachment":…}, …
	Message json.RawMessage
	// MessagingType and Tag are Meta's; Graph judges them.
	MessagingType, Tag string
	// SenderAction is mark_seen, typing_on, typing_off, react or unreact.
	SenderAction string
}

// Sent says what became of a request.
type Sent struct {
	// RecipientID and MID are Graph's, empty where it gave none.
	RecipientID string
	MID         string
	// Seq is the event of the message: 0 if none was recorded.
	Seq uint64
	// Known says that the echo was there before us: Seq is its event.
	Known bool
}

// Send sends the message once and records it.
//
// Graph's refusal comes back as it is, wrapped, and then nothing was sent. After
// [ErrUnsure] it may have been. After [ErrNotRecorded] it was, and Sent has
// Graph's ids. An action is not recorded, nor is a message for which Graph names
// no id or no person: only its echo can say what it was.
func (s *Sender) Send(ctx context.Context, r Request) (Sent, error) {
	to, contact, err := r.check()
	if err != nil {
		return Sent{}, err
	}
	access, err := s.opts.Pages.Access(ctx, r.Page)
	if err != nil {
		return Sent{}, fmt.Errorf("get access to page %s: %w", r.Page, err)
	}
	recipient, mid, err := s.opts.Graph.Send(ctx, access.App, access.Page, access.Token, Outgoing{
		Recipient: to, Message: r.Message, MessagingType: r.MessagingType, Tag: r.Tag, SenderAction: r.SenderAction,
	})
	if err != nil {
		if unsure(err) {
			return Sent{}, fmt.Errorf("send as page %s: %w: %w", r.Page, ErrUnsure, err)
		}
		return Sent{}, fmt.Errorf("send as page %s: %w", r.Page, err)
	}
	sent := Sent{RecipientID: recipient, MID: mid}
	if contact == "" {
		contact = domain.ContactID(recipient)
	}
	if r.SenderAction != "" || mid == "" || contact == "" {
		return sent, nil
	}
	// The message is out: the caller's going does not keep it from the record.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.opts.RecordTimeout)
	defer cancel()
	events, err := echo(r, access, contact, mid, s.opts.Now())
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

// unsure reports whether the message may have been sent all the same: Graph did
// not answer, or only that it failed (1, 2, or no code at all). A rate limit is a
// plain no.
func unsure(err error) bool {
	var limited interface{ RetryAfter() time.Duration }
	if errors.As(err, &limited) && limited.RetryAfter() > 0 {
		return false
	}
	var refusal Refusal
	if !errors.As(err, &refusal) {
		return true
	}
	code, _ := refusal.Codes()
	return refusal.Temporary() && code <= 2
}

// told are the members of a message that its echo has as well, or that would be
// lost without us.
var told = []string{"text", "metadata", "quick_replies", "attachments"}

// echo makes the event that the message's echo would be.
func echo(r Request, a Access, contact domain.ContactID, mid string, now time.Time) ([]domain.Event, error) {
	var given map[string]json.RawMessage
	if err := json.Unmarshal(r.Message, &given); err != nil {
		return nil, fmt.Errorf("read message: %w", ErrRequest)
	}
	message := map[string]any{"mid": mid, "is_echo": true}
	if a.AppID != "" && !a.Instagram { // echoes of Instagram don't say it
		message["app_id"] = a.AppID
	}
	for _, name := range told {
		if v, ok := given[name]; ok {
			message[name] = v
		}
	}
	if v, ok := given["attachment"]; ok {
		message["attachments"] = []json.RawMessage{v}
	}
	object := "page"
	if a.Instagram {
		object = "instagram"
	}
	type id struct {
		ID string `json:"id"`
	}
	body, err := json.Marshal(map[string]any{
		"object": object,
		"entry": []any{map[string]any{
			"id": r.Page,
			"messaging": []any{map[string]any{
				"sender": id{string(r.Page)}, "recipient": id{string(contact)}, "timestamp": now.UnixMilli(), "message": message,
			}},
		}},
	})
	if err != nil {
		return nil, fmt.Errorf("make echo: %w", err)
	}
	events := messenger.Split(body, messenger.Options{App: a.App, Source: "send"}).Events
	if len(events) != 1 || events[0].Type != domain.MessageEchoed {
		return nil, fmt.Errorf("make echo: %w", ErrRequest)
	}
	return events, nil
}
