package backfill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
)

// Errors before anything was read.
var (
	// ErrRequest says that a request lacks something or has it wrong.
	ErrRequest = errors.New("gap can't be filled as it is given")
	// ErrNotConnected says that the page has no connection.
	ErrNotConnected = errors.New("page is not connected; type: pagestream pages connect PAGE")
	// ErrTokenDead says that the page's token is known to be invalid.
	ErrTokenDead = errors.New("page token is not valid; type: pagestream pages login")
	// ErrRunning says that a gap of the page is being filled already.
	ErrRunning = errors.New("a backfill of the page is running already")
)

// ErrTooMany says that more conversations were active than one run takes. What
// was read is stored.
var ErrTooMany = errors.New("too many conversations for one run; give a later start")

// Defaults of [Options]. Meta allows 2 calls a second for each page.
// https://developers.facebook.com/docs/graph-api/overview/rate-limiting
const (
	DefaultPerSecond = 2
	DefaultMaxWait   = 5 * time.Minute
	DefaultLimit     = 50
)

const (
	// maxConversations bounds one run, maxMessages what is held of one
	// conversation, maxBytes likewise: beyond it the oldest are not first.
	maxConversations = 200_000
	maxMessages      = 5000
	maxBytes         = 16 << 20
	// batch is how many events are appended together.
	batch = 500
	// maxThrottled is how often in a row a call may be put off.
	maxThrottled = 5
	// clocks is how far Meta's clock and ours may be apart.
	clocks = time.Minute
	// maxWalks bounds how often the list is read for what became active
	// meanwhile.
	maxWalks = 4
)

// Pauses while too much waits to be stored, since deliveries go first.
const (
	overloadPause = 250 * time.Millisecond
	overloadTries = 6
)

// The platforms of the Conversations API.
const (
	Messenger = "messenger"
	Instagram = "instagram"
)

// Access is how to read a page's conversations.
type Access struct {
	// Token is the page's own token.
	Token string
	// App is the configured app's name.
	App string
	// Instagram is the linked account, whose conversations are read too; empty if
	// there is none.
	Instagram domain.PageID
}

// String keeps the token out of logs.
func (a Access) String() string { return "access by app " + a.App }

// GoString keeps the token out of logs.
func (a Access) GoString() string { return a.String() }

// Pages has the access to each page.
type Pages interface {
	// Access fails with [ErrNotConnected] or [ErrTokenDead] where there is none.
	Access(ctx context.Context, page domain.PageID) (Access, error)
}

// Conversation is one conversation with its newest messages, the newest first.
type Conversation struct {
	ID       string
	Updated  time.Time
	Messages []Message
	// After is the cursor of older messages, empty at the end.
	After string
}

// Message is one message as Graph has it. Raw is its JSON.
type Message struct {
	ID          string
	Created     time.Time
	From        string
	To          []string
	Text        string
	Attachments []Attachment
	// Sticker is the URL of one.
	Sticker     string
	Unsupported bool
	// ReplyTo is the id of the message that this one answers.
	ReplyTo string
	Raw     json.RawMessage
}

// Attachment is one attachment: image, video, audio or file.
type Attachment struct{ Type, URL, Name string }

// Graph reads conversations. An error, or one that it wraps, may have
// RetryAfter() time.Duration: the call is then made again after so long. A
// refusal implements [Refusal].
type Graph interface {
	// Conversations returns those after a cursor, the most recently updated
	// first, and the next cursor, empty at the end. An empty list may have one.
	Conversations(ctx context.Context, app string, page domain.PageID, token, platform, after string, limit int) (list []Conversation, next string, err error)
	// Messages returns a conversation's messages after a cursor, the newest
	// first, and the next cursor, empty at the end.
	Messages(ctx context.Context, app string, page domain.PageID, token, conversation, after string) (list []Message, next string, err error)
}

// Refusal is an error that Graph itself answered with, found by errors.As.
type Refusal interface {
	error
	// Codes returns Graph's code and subcode.
	Codes() (code, subcode int)
	// Temporary reports whether the same call may be accepted later.
	Temporary() bool
}

// Publisher appends events; streams.Publisher is one.
type Publisher interface {
	Publish(ctx context.Context, events []domain.Event) ([]streams.Receipt, error)
}

// Options configure a [Filler]. Pages, Graph and Publisher are required.
type Options struct {
	Pages     Pages
	Graph     Graph
	Publisher Publisher
	// Erased returns when the contact was last erased from the page, false if
	// never: what is as old as that is not brought back. Nil is never.
	Erased func(page domain.PageID, contact domain.ContactID) (at time.Time, ok bool, err error)

	// PerSecond bounds the calls for one page.
	PerSecond float64
	// MaxWait is the longest that a rate limit is waited out.
	MaxWait time.Duration
	// Limit is how many conversations are asked for at once.
	Limit int
	Now   func() time.Time
}

// Filler fills gaps. Make one with [New]; it is safe for concurrent use.
type Filler struct {
	opts Options

	mu      sync.Mutex
	running map[domain.PageID]bool
}

// New returns a filler. It panics if a required option is missing, which is a
// mistake in the wiring.
func New(o Options) *Filler {
	if o.Pages == nil || o.Graph == nil || o.Publisher == nil {
		panic("backfill: Pages, Graph and Publisher are required")
	}
	if o.Erased == nil {
		o.Erased = func(domain.PageID, domain.ContactID) (time.Time, bool, error) { return time.Time{}, false, nil }
	}
	if o.PerSecond <= 0 {
		o.PerSecond = DefaultPerSecond
	}
	if o.MaxWait <= 0 {
		o.MaxWait = DefaultMaxWait
	}
	if o.Limit <= 0 {
		o.Limit = DefaultLimit
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Filler{opts: o, running: make(map[domain.PageID]bool)}
}

// Request names a gap of a page: the messages created from Since to Until, both
// taken as whole seconds and included.
type Request struct {
	Page  domain.PageID
	Since time.Time
	// Until is now if it is zero.
	Until time.Time
}

// Sum is what was done.
type Sum struct {
	// Conversations were active since the gap began, Messages are those in it.
	Conversations int `json:"conversations"`
	Messages      int `json:"messages"`
	// Stored were appended, Duplicates were in the stream already.
	Stored     int `json:"stored"`
	Duplicates int `json:"duplicates"`
	// Erased were left out for their contact was erased after them.
	Erased int `json:"erased"`
	// Unread are conversations of which Graph would not tell all of the gap.
	Unread int `json:"unread"`
	// Odd could not be made into an event: they lack an id, a time, or an end
	// that is the page.
	Odd int `json:"odd"`
}

// Progress is the sum so far, after each conversation.
type Progress struct {
	// Platform is what is being read, [Messenger] or [Instagram].
	Platform string `json:"platform"`
	// Reached is when the conversation just done was last active; it goes back
	// from now to the start of the gap.
	Reached time.Time `json:"reached,omitzero"`
	Sum
}

// Run fills a gap. It reads conversations, the most recently active first, up to
// the first that was not active since the gap began, and appends the messages
// of each, the oldest first. Then it reads again what became active meanwhile,
// which Graph's cursor would miss.
//
// After an error the sum says what was done until then; running it again is safe
// at any time. It takes as long as Graph's limits ask for: about half a second
// for each call. The context ends it. Progress may be nil.
func (f *Filler) Run(ctx context.Context, r Request, progress func(Progress)) (Sum, error) {
	if r.Until.IsZero() {
		r.Until = f.opts.Now()
	}
	r.Since, r.Until = r.Since.Truncate(time.Second), r.Until.Truncate(time.Second)
	switch {
	case r.Page == "" || r.Page == domain.NoPage:
		return Sum{}, fmt.Errorf("%w: it names no page", ErrRequest)
	case r.Since.IsZero():
		return Sum{}, fmt.Errorf("%w: it has no start", ErrRequest)
	case r.Until.Before(r.Since):
		return Sum{}, fmt.Errorf("%w: it ends before it starts", ErrRequest)
	}
	if !f.begin(r.Page) {
		return Sum{}, fmt.Errorf("page %s: %w", r.Page, ErrRunning)
	}
	defer f.end(r.Page)
	access, err := f.opts.Pages.Access(ctx, r.Page)
	if err != nil {
		return Sum{}, fmt.Errorf("get access to page %s: %w", r.Page, err)
	}
	if progress == nil {
		progress = func(Progress) {}
	}
	w := &walk{
		Filler: f, Request: r, access: access, progress: progress,
		limiter: rate.NewLimiter(rate.Limit(f.opts.PerSecond), 1),
		seen:    make(map[string]bool),
	}
	err = w.platform(ctx, Messenger, r.Page)
	if err == nil && access.Instagram != "" {
		err = w.platform(ctx, Instagram, access.Instagram)
	}
	if err != nil {
		return w.sum, fmt.Errorf("backfill page %s: %w", r.Page, err)
	}
	return w.sum, nil
}

func (f *Filler) begin(page domain.PageID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.running[page] {
		return false
	}
	f.running[page] = true
	return true
}

func (f *Filler) end(page domain.PageID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.running, page)
}

// walk is one run.
type walk struct {
	*Filler
	Request
	access   Access
	progress func(Progress)
	limiter  *rate.Limiter
	sum      Sum
	// seen has the conversations that were read.
	seen map[string]bool
}

// platform reads the conversations of one platform. Own is the id that the
// page's side has there.
func (w *walk) platform(ctx context.Context, platform string, own domain.PageID) error {
	since := w.Since
	for range maxWalks {
		began, fresh := w.opts.Now(), 0
		err := w.list(ctx, platform, since, func(c Conversation) error {
			key := platform + "|" + c.ID
			if w.seen[key] {
				return nil
			}
			if len(w.seen) >= maxConversations {
				return ErrTooMany
			}
			if err := w.conversation(ctx, platform, own, c); err != nil {
				return err
			}
			w.seen[key] = true
			w.sum.Conversations++
			fresh++
			w.progress(Progress{platform, c.Updated, w.sum})
			return nil
		})
		// What became active while the list was read has gone to its front,
		// where the cursor has passed already.
		if err != nil || fresh == 0 {
			return err
		}
		if since = began.Add(-clocks); since.Before(w.Since) {
			since = w.Since
		}
	}
	return nil
}

// list calls fn for the conversations that were active since, the newest first.
func (w *walk) list(ctx context.Context, platform string, since time.Time, fn func(Conversation) error) error {
	for after := ""; ; {
		var list []Conversation
		var next string
		err := w.call(ctx, func() (err error) {
			list, next, err = w.opts.Graph.Conversations(ctx, w.access.App, w.Page, w.access.Token, platform, after, w.opts.Limit)
			return err
		})
		if err != nil {
			return fmt.Errorf("list conversations: %w", err)
		}
		for _, c := range list {
			if c.Updated.Before(since) {
				return nil
			}
			if err := fn(c); err != nil {
				return err
			}
		}
		if next == "" || next == after {
			return nil
		}
		after = next
	}
}

// conversation appends the messages of one conversation that are in the gap.
func (w *walk) conversation(ctx context.Context, platform string, own domain.PageID, c Conversation) error {
	var events []domain.Event // the newest first
	size := 0
	list, after := c.Messages, c.After
	for first := true; ; first = false {
		for _, m := range list {
			if !m.Created.IsZero() && m.Created.Before(w.Since) {
				return w.store(ctx, events)
			}
			if m.Created.After(w.Until) {
				continue
			}
			e, ok, err := w.event(m, platform, own)
			if err != nil {
				return err
			}
			if ok {
				events = append(events, e)
				size += len(e.Data.Raw) + len(m.Text)
			}
		}
		if len(events) >= maxMessages || size >= maxBytes {
			if err := w.store(ctx, events); err != nil {
				return err
			}
			events, size = nil, 0
		}
		if after == "" && !(first && len(list) == 0) {
			return w.store(ctx, events)
		}
		was := after
		err := w.call(ctx, func() (err error) {
			list, after, err = w.opts.Graph.Messages(ctx, w.access.App, w.Page, w.access.Token, c.ID, was)
			return err
		})
		if unreadable(err) {
			w.sum.Unread++
			return w.store(ctx, events)
		}
		if err != nil {
			// What is here already is the newest part of the gap.
			return errors.Join(fmt.Errorf("read messages: %w", err), w.store(ctx, events))
		}
		if after == was {
			after = ""
		}
	}
}

// unreadable reports whether Graph refused one conversation, rather than the
// page: 100 is for what is not there, or not told any more.
func unreadable(err error) bool {
	var refusal Refusal
	if !errors.As(err, &refusal) {
		return false
	}
	code, _ := refusal.Codes()
	return code == 100 && !refusal.Temporary()
}

// store appends events, given the newest first, the oldest first.
func (w *walk) store(ctx context.Context, events []domain.Event) error {
	slices.Reverse(events)
	for part := range slices.Chunk(events, batch) {
		receipts, err := w.publish(ctx, part)
		if err != nil {
			return fmt.Errorf("append messages: %w", err)
		}
		for _, r := range receipts {
			if r.Duplicate == streams.NotDuplicate {
				w.sum.Stored++
			} else {
				w.sum.Duplicates++
			}
		}
	}
	return nil
}

// publish makes way for deliveries where too much waits.
func (w *walk) publish(ctx context.Context, events []domain.Event) ([]streams.Receipt, error) {
	pause := overloadPause
	for try := 1; ; try++ {
		receipts, err := w.opts.Publisher.Publish(ctx, events)
		if !errors.Is(err, streams.ErrOverloaded) || try == overloadTries {
			return receipts, err
		}
		if err := rest(ctx, pause); err != nil {
			return nil, err
		}
		pause *= 2
	}
}

// call makes one call at the page's rate, and again where a limit was reached.
func (w *walk) call(ctx context.Context, f func() error) error {
	for try := 1; ; try++ {
		if err := w.limiter.Wait(ctx); err != nil {
			return fmt.Errorf("wait for the page's turn: %w", err)
		}
		err := f()
		var limited interface{ RetryAfter() time.Duration }
		if err == nil || !errors.As(err, &limited) || limited.RetryAfter() <= 0 ||
			limited.RetryAfter() > w.opts.MaxWait || try == maxThrottled {
			return err
		}
		if err := rest(ctx, limited.RetryAfter()); err != nil {
			return err
		}
	}
}

// rest waits, no longer than the context.
func rest(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait: %w", ctx.Err())
	}
}
