package profile

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/nats-io/nats.go"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/streams"
)

// Defaults of [Options].
const (
	DefaultMaxAge  = 30 * 24 * time.Hour
	DefaultMaxWait = time.Minute
)

const (
	// retryAfter is how long a contact is not asked about again, whatever the answer
	// was; remember bounds how many of those are known, which no restart keeps.
	retryAfter = 24 * time.Hour
	remember   = 100_000
	// timeout bounds the work on one event.
	timeout = 45 * time.Second
)

// maxPages bounds the pages that are known to be throttled or to have no living
// token. A dead token is tried again after deadTokenWait, since it may be refreshed, and
// a page is asked for its token again after noTokenWait, since it may be connected.
const (
	maxPages      = 10_000
	deadTokenWait = time.Minute
	noTokenWait   = 5 * time.Second
)

// durable is the consumer's name.
const durable = "profile"

// Graph tells who a contact is.
type Graph interface {
	// Profile returns what Graph says of the contact; either part may be empty.
	Profile(ctx context.Context, a meta.Access, contact domain.ContactID, instagram bool) (graph.Profile, error)
}

// Options configure a [Reactor]. Tokens, Graph, Publisher and Conversations are
// required; Connect is for Run.
type Options struct {
	// Connect returns a connection that the reactor has for itself and closes.
	Connect func() (*nats.Conn, error)
	// Parking keeps what is given up; nil only logs it.
	Parking *streams.Parking

	Tokens        meta.Tokens
	Graph         Graph
	Publisher     streams.Storer
	Conversations projections.Reader

	// MaxAge is how long a profile is taken for true. Pictures end after days.
	MaxAge time.Duration
	// MaxWait is the longest throttling that Run waits out. The contacts of a
	// page that is throttled for longer are passed over until they next write,
	// so that one page does not hold up the others.
	MaxWait time.Duration

	Now    func() time.Time
	Logger *slog.Logger
}

// Stats count, since the start, what was done about events.
type Stats struct {
	// Profiled counts events appended, Known contacts whose profile was fresh or
	// who were asked about not long ago.
	Profiled, Known uint64
	// NoProfile counts contacts of whom Graph tells nothing: no profile, no
	// consent, no permission.
	NoProfile uint64
	// NoToken counts events of pages without a living token.
	NoToken uint64
	// Gone counts contacts that the read model does not have: erased ones.
	Erased uint64
	// Throttled counts times that a limit kept from asking, Passed those of them
	// where the event was passed over.
	Throttled, Skipped uint64
	// Failed counts times that it was left for another try.
	Failed uint64
}

// ThrottledError says that Graph may not be asked about the page's contacts now.
type ThrottledError struct {
	Page domain.PageID
	// After is how long to wait.
	After time.Duration
}

// Error names the page.
func (e *ThrottledError) Error() string {
	return fmt.Sprintf("page %s may not ask for profiles for %s", e.Page, e.After.Round(time.Second))
}

// RetryAfter returns After.
func (e *ThrottledError) RetryAfter() time.Duration { return e.After }

// Reactor asks for profiles. Make one with [New]; it is safe for concurrent use.
type Reactor struct {
	opts Options
	// asked has when a contact was asked about, held until when a page waits,
	// dead until when a page is taken to have no living token.
	asked, held, dead timeCache

	mu    sync.Mutex
	stats Stats
}

// timeCache has a time for each of the keys that were set last.
type timeCache struct{ *lru.Cache[string, time.Time] }

func newTimeCache(most int) timeCache {
	c, _ := lru.New[string, time.Time](most) // it fails for no size alone
	return timeCache{c}
}

// get returns the key's time, zero where there is none. It does not make the key
// younger.
func (m timeCache) get(key string) time.Time {
	t, _ := m.Peek(key)
	return t
}

// New returns a reactor that does not run yet. It panics if a required option is
// missing, which is a mistake in the wiring.
func New(o Options) *Reactor {
	if o.Tokens == nil || o.Graph == nil || o.Publisher == nil || o.Conversations == nil {
		panic("profile: Tokens, Graph, Publisher and Conversations are required")
	}
	o.MaxAge = cmp.Or(o.MaxAge, DefaultMaxAge)
	o.MaxWait = cmp.Or(o.MaxWait, DefaultMaxWait)
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	return &Reactor{opts: o, asked: newTimeCache(remember), held: newTimeCache(maxPages), dead: newTimeCache(maxPages)}
}

func (r *Reactor) count(f func(*Stats)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.stats)
}

// Run reacts to what people send from now on, until the context ends, which is
// no error. What comes while no node runs is reacted to later.
func (r *Reactor) Run(ctx context.Context) error {
	return streams.NewReactor(streams.ReactorOptions{
		Connect: r.opts.Connect, Stream: streams.Name, Durable: durable,
		Filter:  streams.SubjectPrefix + ".*.*.received",
		FromNow: true, // no storm over the history
		Timeout: timeout, MaxPause: r.opts.MaxWait,
		Pass: r.skip, Handle: streams.OnEvent(r.react), Parking: r.opts.Parking, Logger: r.opts.Logger,
	}).Run(ctx)
}

// pass passes over contacts that are known: most are, and every message that
// people send comes through here. So do those of pages that are not connected.
func (r *Reactor) skip(e streams.Stored) bool {
	switch {
	case r.known(e):
		r.count(func(s *Stats) { s.Known++ })
		return true
	case r.hasNoToken(e.Page):
		r.count(func(s *Stats) { s.NoToken++ })
		return true
	}
	return false
}

// bare reports whether the page had no living token a moment ago.
func (r *Reactor) hasNoToken(page domain.PageID) bool {
	return r.opts.Now().Before(r.dead.get(string(page)))
}

// known reports whether it was found out lately, or tried to, who the contact is.
func (r *Reactor) known(e streams.Stored) bool {
	t := r.asked.get(key(e))
	return !t.IsZero() && r.opts.Now().Sub(t) < retryAfter
}

func key(e streams.Stored) string { return string(e.Page) + "|" + string(e.Contact) }

// react passes over what would have to wait for too long.
func (r *Reactor) react(ctx context.Context, e streams.Stored) error {
	err := r.Handle(ctx, e)
	var throttled *ThrottledError
	if errors.As(err, &throttled) && throttled.After > r.opts.MaxWait {
		r.count(func(s *Stats) { s.Skipped++ })
		return nil
	}
	return err
}

// Handle asks who the contact of a received event is, unless that is known, and
// appends the answer. Doing it again appends nothing. It fails with a
// [ThrottledError], or where another try may do better; an answer that says
// nothing is no failure.
func (r *Reactor) Handle(ctx context.Context, e streams.Stored) error {
	if e.Contact == "" || e.Page == "" || e.Page == domain.NoPage || e.Data.Test ||
		e.Type.Verb() != "received" || e.Type == domain.ChangeReceived {
		return nil
	}
	err := r.handle(ctx, e)
	var throttled *ThrottledError
	switch {
	case errors.As(err, &throttled):
		r.count(func(s *Stats) { s.Throttled++ })
	case err != nil:
		r.count(func(s *Stats) { s.Failed++ })
	}
	return err
}

func (r *Reactor) handle(ctx context.Context, e streams.Stored) error {
	if r.known(e) {
		r.count(func(s *Stats) { s.Known++ })
		return nil
	}
	needed, err := r.needed(ctx, e)
	if err != nil || !needed {
		return err
	}
	if wait := r.held.get(string(e.Page)).Sub(r.opts.Now()); wait > 0 {
		return &ThrottledError{e.Page, wait}
	}
	if r.hasNoToken(e.Page) {
		r.count(func(s *Stats) { s.NoToken++ })
		return nil
	}
	access, err := r.opts.Tokens.Access(ctx, e.Page)
	if errors.Is(err, meta.ErrNotConnected) || errors.Is(err, meta.ErrTokenDead) {
		r.dead.Add(string(e.Page), r.opts.Now().Add(noTokenWait))
		r.count(func(s *Stats) { s.NoToken++ })
		return nil
	}
	if err != nil {
		return fmt.Errorf("get page token: %w", err)
	}
	found, err := r.opts.Graph.Profile(ctx, access, e.Contact, e.Data.Object == "instagram")
	if err != nil {
		return r.refused(e.Page, key(e), err)
	}
	name, picture := strings.TrimSpace(found.Name), strings.TrimSpace(found.Picture)
	if name == "" && picture == "" {
		r.noProfile(key(e))
		return nil
	}
	now := r.opts.Now().UTC()
	_, err = r.opts.Publisher.Publish(ctx, []domain.Event{{
		// Nodes that ask at once make one event.
		ID:   domain.DedupID("pagestream", e.Page, string(domain.ContactProfiled), digest(e)+"|"+now.Format(time.DateOnly)),
		Type: domain.ContactProfiled, Page: e.Page, Contact: e.Contact, Time: now,
		Data: domain.Data{App: access.App, Object: e.Data.Object, Profile: &domain.Profile{Name: name, Picture: picture}},
	}})
	if err != nil {
		return fmt.Errorf("append profile: %w", err)
	}
	r.asked.Add(key(e), now)
	r.count(func(s *Stats) { s.Profiled++ })
	return nil
}

// digest stands for the contact in the event's id.
func digest(e streams.Stored) string {
	sum := sha256.Sum256([]byte(key(e)))
	return hex.EncodeToString(sum[:16])
}

// needed reports whether the contact has no profile, or an old one. The read
// model has to have the event first: a contact that it does not know then was
// erased, and stays so.
func (r *Reactor) needed(ctx context.Context, e streams.Stored) (bool, error) {
	if err := r.opts.Conversations.WaitFor(ctx, e.Seq); err != nil {
		return false, fmt.Errorf("wait for read model: %w", err)
	}
	c, err := conversations.Get(r.opts.Conversations, e.Page, e.Contact)
	switch {
	case errors.Is(err, conversations.ErrNotFound) || errors.Is(err, conversations.ErrErased):
		r.count(func(s *Stats) { s.Erased++ })
		return false, nil
	case err != nil:
		return false, fmt.Errorf("read conversation: %w", err)
	case !c.ProfiledAt.IsZero() && r.opts.Now().Sub(c.ProfiledAt) < r.opts.MaxAge:
		r.asked.Add(key(e), r.opts.Now()) // not before retryAfter need it be looked up again
		r.count(func(s *Stats) { s.Known++ })
		return false, nil
	}
	return true, nil
}

// nameless remembers that Graph told nothing.
func (r *Reactor) noProfile(key string) {
	r.asked.Add(key, r.opts.Now())
	r.count(func(s *Stats) { s.NoProfile++ })
}

// refused says what to do after Profile failed. That there is no profile (2018218:
// an account by phone number), that the person has not consented (230), that a
// permission is missing: all are answers, and asking again soon gives the same.
func (r *Reactor) refused(page domain.PageID, key string, err error) error {
	if wait := meta.RetryAfter(err); wait > 0 {
		r.held.Add(string(page), r.opts.Now().Add(wait))
		return &ThrottledError{page, wait}
	}
	refusal := meta.Refused(err)
	switch {
	case errors.Is(err, meta.ErrNotConnected), // its app is not configured any more
		meta.ClassOf(err) == meta.TokenDead: // the connector and the reconcile loop look after tokens
		r.dead.Add(string(page), r.opts.Now().Add(deadTokenWait))
		r.count(func(s *Stats) { s.NoToken++ })
		return nil
	case refusal == nil || refusal.Temporary():
		return fmt.Errorf("ask for profile: %w", err)
	}
	r.noProfile(key)
	return nil
}
