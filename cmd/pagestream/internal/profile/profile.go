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
	"github.com/nats-io/nats.go/jetstream"

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
	// was. remember is how many such contacts are kept; they are lost at a restart.
	retryAfter = 24 * time.Hour
	remember   = 100_000
	// timeout limits the work on one event, stopTimeout storing the position at the end.
	timeout     = 45 * time.Second
	stopTimeout = 2 * time.Second
)

const (
	// durable is the name of the consumer of the queue. A node of version 0.1.0 that still runs would get what is delivered
	// to a consumer of the former name, whatever its stream is.
	durable = "profiles"
	// former is the name of the consumer that version 0.1.0 had for all events.
	former = "profile"
)

// Graph reads profiles.
type Graph interface {
	// Profile returns the contact's name and picture; either may be empty.
	Profile(ctx context.Context, a meta.Access, contact domain.ContactID, instagram bool) (graph.Profile, error)
}

// Options configure a [Reactor]. JS, Tokens, Graph, Publisher and Conversations are
// required; Connect is for Run.
type Options struct {
	// Connect returns a connection for the reactor, which closes it.
	Connect func() (*nats.Conn, error)
	// Domain is the JetStream domain of the stream; empty is that of the server.
	Domain string
	// Replicas is how many servers keep the queue, if they are more than those of the stream of events.
	Replicas int
	// Tail, if not nil, provides the newest events.
	Tail *streams.Tail
	// Parking has the events that version 0.1.0 gave up on. They are removed.
	Parking *streams.Parking

	JS            jetstream.JetStream
	Tokens        meta.Tokens
	Graph         Graph
	Publisher     streams.Storer
	Conversations projections.Reader

	// MaxAge is how long a profile is used before it is read again. The URLs of
	// pictures expire after days.
	MaxAge time.Duration
	// MaxWait is the longest rate limit that Run waits for. The contacts of a page that
	// is throttled for longer are skipped until they write again, so that one page does
	// not delay the others.
	MaxWait time.Duration

	Now    func() time.Time
	Logger *slog.Logger
}

// Stats count what was done with events since the start.
type Stats struct {
	// Profiled counts appended events, Known counts contacts whose profile was recent
	// or who were asked about less than a day ago.
	Profiled, Known uint64
	// NoProfile counts contacts for whom Graph returns nothing: no profile, no
	// consent, no permission.
	NoProfile uint64
	// NoToken counts events of pages without a valid token.
	NoToken uint64
	// Erased counts contacts that the read model does not have because they were
	// erased, and those that were erased while Graph was asked.
	Erased uint64
	// Throttled counts events for which Graph could not be asked because of a rate
	// limit, Skipped those of them that were skipped.
	Throttled, Skipped uint64
	// Failed counts failed attempts that are repeated.
	Failed uint64
}

// Reactor reads profiles. It is safe for concurrent use. Create it with [New].
type Reactor struct {
	opts Options
	gate *meta.Gate
	// asked has when a contact was last asked about, by key. queued has when a task was put into the queue that may still
	// be there, by its subject.
	asked, queued timeCache
	lag           time.Duration // see journalLag

	session streams.Interruptible // of follow
	kv      jetstream.KeyValue    // the bucket with the position, from setUp on

	mu    sync.Mutex
	stats Stats
}

// timeCache has a time for each of the keys that were set last.
type timeCache struct{ *lru.Cache[string, time.Time] }

func newTimeCache(size int) timeCache {
	c, _ := lru.New[string, time.Time](size) // fails only for a size of 0
	return timeCache{c}
}

// get returns the key's time, zero if there is none. It does not change which key is
// dropped next.
func (m timeCache) get(key string) time.Time {
	t, _ := m.Peek(key)
	return t
}

// New returns a reactor that does not run yet. It panics if a required option is
// missing, which is a programming error.
func New(o Options) *Reactor {
	if o.JS == nil || o.Tokens == nil || o.Graph == nil || o.Publisher == nil || o.Conversations == nil {
		panic("profile: JS, Tokens, Graph, Publisher and Conversations are required")
	}
	o.MaxAge = cmp.Or(o.MaxAge, DefaultMaxAge)
	o.MaxWait = cmp.Or(o.MaxWait, DefaultMaxWait)
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	return &Reactor{
		opts: o, gate: meta.NewGate(o.Tokens, o.Now), asked: newTimeCache(remember), queued: newTimeCache(remember), lag: journalLag,
	}
}

func (r *Reactor) count(f func(*Stats)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.stats)
}

// mayName reports whether an event is one after which its contact's profile is read. It does not look at the data.
func mayName(e streams.Stored) bool {
	return e.Contact != "" && e.Page != "" && e.Page != domain.NoPage &&
		e.Type.Verb() == "received" && e.Type != domain.ChangeReceived
}

// known reports whether the contact was asked about within retryAfter.
func (r *Reactor) known(e streams.Stored) bool {
	t := r.asked.get(key(e))
	return !t.IsZero() && r.opts.Now().Sub(t) < retryAfter
}

func key(e streams.Stored) string { return string(e.Page) + "|" + string(e.Contact) }

// react handles an event, but skips it if it would have to wait longer than MaxWait.
func (r *Reactor) react(ctx context.Context, e streams.Stored) error {
	err := r.Handle(ctx, e)
	if r.longThrottled(err) {
		r.count(func(s *Stats) { s.Skipped++ })
		return nil
	}
	return err
}

// longThrottled reports whether an error is a rate limit that Run does not wait for.
func (r *Reactor) longThrottled(err error) bool {
	var throttled *meta.ThrottledError
	return errors.As(err, &throttled) && throttled.After > r.opts.MaxWait
}

// Handle asks Graph for the profile of a received event's contact, unless it is known,
// and appends the answer. Repeating it appends nothing. A [meta.ThrottledError] is
// returned because of a rate limit, another error if a later attempt may succeed. A
// missing profile is not an error.
func (r *Reactor) Handle(ctx context.Context, e streams.Stored) error {
	if !mayName(e) || e.Data.Test {
		return nil
	}
	err := r.handle(ctx, e)
	var throttled *meta.ThrottledError
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
	access, err := r.gate.Access(ctx, e.Page)
	if meta.NoToken(err) {
		r.count(func(s *Stats) { s.NoToken++ })
		return nil
	}
	if err != nil {
		return err
	}
	found, err := r.opts.Graph.Profile(ctx, access, e.Contact, e.Data.Object == "instagram")
	if err != nil {
		return r.refused(key(e), r.gate.Refused(e.Page, err))
	}
	name, picture := strings.TrimSpace(found.Name), strings.TrimSpace(found.Picture)
	if name == "" && picture == "" {
		r.noProfile(key(e))
		return nil
	}
	gone, err := streams.Gone(ctx, r.opts.JS, streams.Name, e.Seq)
	if err != nil {
		return fmt.Errorf("look for the event again: %w", err)
	}
	if gone { // it was erased while Graph was asked
		r.count(func(s *Stats) { s.Erased++ })
		return nil
	}
	now := r.opts.Now().UTC()
	_, err = r.opts.Publisher.Publish(ctx, []domain.Event{{
		// Nodes that ask concurrently store one event.
		ID: domain.DedupID("pagestream", e.Page, string(domain.ContactProfiled),
			digest(e)+"|"+now.Format(time.DateOnly)),
		Type: domain.ContactProfiled, Page: e.Page, Contact: e.Contact, Time: now,
		Data: domain.Data{
			App: access.App, Object: e.Data.Object, Profile: &domain.Profile{Name: name, Picture: picture},
		},
	}})
	if err != nil {
		return fmt.Errorf("append profile: %w", err)
	}
	r.asked.Add(key(e), now)
	r.count(func(s *Stats) { s.Profiled++ })
	return nil
}

// digest returns a hash of the page and contact for the event's id.
func digest(e streams.Stored) string {
	sum := sha256.Sum256([]byte(key(e)))
	return hex.EncodeToString(sum[:16])
}

// needed reports whether the contact has no profile, or an old one. It waits until the
// read model has applied the event: a contact that is unknown then was erased, and no
// profile is read for it.
func (r *Reactor) needed(ctx context.Context, e streams.Stored) (bool, error) {
	if err := r.opts.Conversations.WaitFor(ctx, e.Seq); err != nil {
		return false, fmt.Errorf("wait for read model: %w", err)
	}
	recent, err := r.profiled(e)
	if errors.Is(err, conversations.ErrNotFound) || errors.Is(err, conversations.ErrErased) {
		r.count(func(s *Stats) { s.Erased++ })
		return false, nil
	}
	return !recent, err
}

// profiled reports whether the read model has a profile of the contact that is not old.
func (r *Reactor) profiled(e streams.Stored) (bool, error) {
	c, err := conversations.Get(r.opts.Conversations, e.Page, e.Contact)
	if err != nil {
		return false, fmt.Errorf("read conversation: %w", err)
	}
	if c.ProfiledAt.IsZero() || r.opts.Now().Sub(c.ProfiledAt) >= r.opts.MaxAge {
		return false, nil
	}
	r.asked.Add(key(e), r.opts.Now()) // no further lookup before retryAfter
	r.count(func(s *Stats) { s.Known++ })
	return true, nil
}

// noProfile remembers that Graph has no profile for the contact.
func (r *Reactor) noProfile(key string) {
	r.asked.Add(key, r.opts.Now())
	r.count(func(s *Stats) { s.NoProfile++ })
}

// refused handles an error of Profile. No profile (2018218: an account by phone
// number), no consent of the person (230) and a missing permission are answers:
// asking again soon gives the same result, so they are not returned as errors.
func (r *Reactor) refused(key string, err error) error {
	switch {
	case meta.NoToken(err):
		r.count(func(s *Stats) { s.NoToken++ })
		return nil
	case meta.Temporary(err):
		return fmt.Errorf("ask for profile: %w", err)
	}
	r.noProfile(key)
	return nil
}
