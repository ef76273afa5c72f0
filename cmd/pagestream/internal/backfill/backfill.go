package backfill

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
)

// Errors of a run.
var (
	// ErrRequest is returned when a part of a request is missing or invalid. Nothing
	// was read.
	ErrRequest = errors.New("backfill request is not valid")
	// ErrRunning is returned when a gap of the page is being filled already.
	ErrRunning = errors.New("a backfill of the page is running already")
	// ErrTooMany is returned when more conversations were active than one run reads.
	// What was read is stored.
	ErrTooMany = errors.New("too many conversations for one run; give a later start")
)

// Defaults of [Options]. Meta allows 2 calls a second for each page.
// https://developers.facebook.com/docs/graph-api/overview/rate-limiting
const (
	DefaultPerSecond = 2
	DefaultLimit     = 50
)

// The platforms of the Conversations API.
const (
	Messenger = "messenger"
	Instagram = "instagram"
)

// Graph reads conversations. If an error has a retry time, the call is repeated after
// it.
type Graph interface {
	// Conversations returns the conversations after a cursor, the most recently
	// updated first, and the next cursor, empty at the end. An empty list may have a
	// next cursor.
	Conversations(
		ctx context.Context, a meta.Access, platform, after string, limit int,
	) (list []graph.Conversation, next string, err error)
	// Messages returns a conversation's messages after a cursor, the newest
	// first, and the next cursor, empty at the end.
	Messages(
		ctx context.Context, a meta.Access, conversation, after string,
	) (list []graph.Message, next string, err error)
}

// Options configure a [Filler]. Tokens, Graph and Publisher are required.
type Options struct {
	Tokens    meta.Tokens
	Graph     Graph
	Publisher streams.Storer
	// Erased returns when the contact was last erased from the page, false if never:
	// messages up to that time are not stored again. If it is nil, no contact was
	// erased.
	Erased func(page domain.PageID, contact domain.ContactID) (at time.Time, ok bool, err error)

	// PerSecond limits the calls for one page.
	PerSecond float64
	// Limit is how many conversations are requested at once.
	Limit int
	Now   func() time.Time
}

// Filler fills gaps. It is safe for concurrent use. Create it with [New].
type Filler struct {
	opts    Options
	running sync.Map // keys are the pages whose gaps are being filled
}

// New returns a filler. It panics if a required option is missing, which is a
// programming error.
func New(o Options) *Filler {
	if o.Tokens == nil || o.Graph == nil || o.Publisher == nil {
		panic("backfill: Tokens, Graph and Publisher are required")
	}
	if o.Erased == nil {
		o.Erased = func(domain.PageID, domain.ContactID) (time.Time, bool, error) { return time.Time{}, false, nil }
	}
	o.PerSecond = cmp.Or(o.PerSecond, DefaultPerSecond)
	o.Limit = cmp.Or(o.Limit, DefaultLimit)
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Filler{opts: o}
}

// Request is a gap of a page: the messages created from Since to Until, both inclusive
// and truncated to whole seconds.
type Request struct {
	Page  domain.PageID
	Since time.Time
	// Until is the end of the gap; zero means now.
	Until time.Time
}

// Sum counts what a run did.
type Sum struct {
	// Conversations counts those that were active since the gap began, Messages the
	// messages in the gap.
	Conversations int `json:"conversations"`
	Messages      int `json:"messages"`
	// Stored counts appended messages, Duplicates those that were in the stream
	// already.
	Stored     int `json:"stored"`
	Duplicates int `json:"duplicates"`
	// Erased counts messages that were left out because their contact was erased after
	// them.
	Erased int `json:"erased"`
	// Unreadable counts conversations of which Graph did not return all messages of the
	// gap.
	Unreadable int `json:"unread"`
	// Unusable counts messages without an event: they lack an id or a time, or neither
	// side is the page.
	Unusable int `json:"odd"`
}

// Progress is the sum so far, reported after each conversation.
type Progress struct {
	// Platform is the platform that is being read, [Messenger] or [Instagram].
	Platform string `json:"platform"`
	// Reached is when the conversation that was read last was last active; it moves from
	// now back to the start of the gap.
	Reached time.Time `json:"reached,omitzero"`
	Sum
}

// Run fills a gap. It reads conversations, the most recently active first, up to the
// first that was not active since the gap began, and appends the messages of each,
// the oldest first. Then it reads the conversations that became active meanwhile,
// which Graph's cursor would miss.
//
// [ErrRequest], [ErrRunning] or [ErrTooMany] is returned as documented there. After
// an error the sum has what was done until then; a run may be repeated at any time.
// Graph's rate limit makes each call take about half a second. The context ends the
// run. Progress may be nil.
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
	if _, busy := f.running.LoadOrStore(r.Page, true); busy {
		return Sum{}, fmt.Errorf("page %s: %w", r.Page, ErrRunning)
	}
	defer f.running.Delete(r.Page)
	access, err := f.opts.Tokens.Access(ctx, r.Page)
	switch {
	case err != nil:
		return Sum{}, fmt.Errorf("get access to page %s: %w", r.Page, err)
	case access.Page != r.Page:
		return Sum{}, fmt.Errorf("%w: fill the gap of page %s, to which the account is linked", ErrRequest, access.Page)
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
