package leads

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/streams"
)

// Defaults of [Options].
const (
	DefaultMaxWait  = time.Minute
	DefaultInterval = 10 * time.Second
)

const (
	// timeout limits the work on one event.
	timeout = 45 * time.Second
	// refusedWait is how long a parked lead, or a page without the permission, is not
	// tried again with the same token; failedWait is that after a temporary failure.
	refusedWait = 24 * time.Hour
	failedWait  = 10 * time.Minute
	// maxTries bounds how often a parked lead is tried again without an operator. With
	// one try a day it is longer than the 90 days for which Meta keeps a lead.
	maxTries = 120
	// remember is how many pages and parked leads are remembered.
	remember = 100_000
)

// durable is the consumer's name.
const durable = "leads"

// Result is the result of one attempt to retrieve a lead.
type Result string

// The results.
const (
	// Retrieved: the answers are stored.
	Retrieved Result = "retrieved"
	// Throttled: Graph can't be asked because of a rate limit.
	Throttled Result = "throttled"
	// NoToken: the page has no valid token.
	NoToken Result = "no_token"
	// Refused: Graph does not give the lead. The permission is missing, or there is no
	// such lead.
	Refused Result = "refused"
	// Erased: the lead was erased while Graph was asked. Nothing is stored.
	Erased Result = "erased"
	// Failed: Graph or the stream failed temporarily.
	Failed Result = "failed"
)

// Results returns all results.
func Results() []Result { return []Result{Retrieved, Throttled, NoToken, Refused, Erased, Failed} }

// Graph reads leads.
type Graph interface {
	// Lead returns a lead of the page with its answers, and when it was submitted; the
	// time may be zero.
	Lead(ctx context.Context, a meta.Access, lead string) (domain.Lead, time.Time, error)
}

// Options configure a [Reactor]. JS, Tokens, Graph and Publisher are required; Connect and
// Parking are for Run.
type Options struct {
	// Connect returns a connection for the reactor, which closes it.
	Connect func() (*nats.Conn, error)
	// Domain is the JetStream domain of the stream; empty is that of the server.
	Domain string
	// Parking stores the leads that can't be retrieved now.
	Parking *streams.Parking

	JS        jetstream.JetStream
	Tokens    meta.Tokens
	Graph     Graph
	Publisher streams.Storer

	// MaxWait is the longest rate limit that Run waits for. The leads of a page that is
	// throttled for longer are parked until then.
	MaxWait time.Duration
	// Interval is how often parked leads are checked for whether they may be tried
	// again.
	Interval time.Duration

	Now func() time.Time
	// Observe is called with the result of each attempt.
	Observe func(Result)
	Logger  *slog.Logger
}

// Reactor retrieves leads. It is safe for concurrent use. Create it with [New].
type Reactor struct {
	opts Options
	gate *meta.Gate
	// waits has the last refusal or failure of pages and of parked leads; see
	// [pageKey] and [leadKey].
	waits *lru.Cache[string, wait]
}

// wait is until when a lead is not tried again, unless its page has another token.
type wait struct {
	until time.Time
	token string
}

func pageKey(page domain.PageID) string { return "page " + string(page) }
func leadKey(seq uint64) string         { return "lead " + strconv.FormatUint(seq, 10) }

// New returns a reactor that does not run yet. It panics if a required option is
// missing, which is a programming error.
func New(o Options) *Reactor {
	if o.JS == nil || o.Tokens == nil || o.Graph == nil || o.Publisher == nil {
		panic("leads: JS, Tokens, Graph and Publisher are required")
	}
	o.MaxWait = cmp.Or(o.MaxWait, DefaultMaxWait)
	o.Interval = cmp.Or(o.Interval, DefaultInterval)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Observe == nil {
		o.Observe = func(Result) {}
	}
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	waits, _ := lru.New[string, wait](remember) // fails only for a size of 0
	return &Reactor{opts: o, gate: meta.NewGate(o.Tokens, o.Now), waits: waits}
}

// Run retrieves the leads that are stored from now on, and the parked ones, until the
// context ends, and then returns nil. Leads that are stored while no node runs are
// retrieved later.
func (r *Reactor) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	var retries sync.WaitGroup
	defer retries.Wait()
	defer stop()
	retries.Go(func() {
		for backoff.Sleep(ctx, r.opts.Interval) == nil {
			if err := r.retry(ctx); err != nil && ctx.Err() == nil {
				r.opts.Logger.Warn("parked leads can't be tried again", "err", err)
			}
		}
	})
	return streams.NewReactor(streams.ReactorOptions{
		Connect: r.opts.Connect, Domain: r.opts.Domain, Stream: streams.Name, Durable: durable,
		Filter:  streams.Filter("", domain.LeadReceived)[0],
		FromNow: true, // no burst of calls for the history
		Timeout: timeout, MaxPause: r.opts.MaxWait, Unordered: true,
		Handle: streams.OnEvent(r.Handle), Parking: r.opts.Parking, Logger: r.opts.Logger,
	}).Run(ctx)
}

// Handle reads the lead of a lead.received event from Graph and appends its answers.
// Repeating it appends nothing. An error that wraps [streams.ErrNoRetry] is returned if
// another attempt is no use before something has changed.
func (r *Reactor) Handle(ctx context.Context, e streams.Stored) error {
	l := e.Data.Lead
	if e.Type != domain.LeadReceived || l == nil || l.ID == "" || e.Page == "" || e.Page == domain.NoPage ||
		e.Data.Test {
		return nil
	}
	result, err := r.retrieve(ctx, e)
	r.opts.Observe(result)
	return err
}

func (r *Reactor) retrieve(ctx context.Context, e streams.Stored) (Result, error) {
	access, err := r.gate.Access(ctx, e.Page)
	if err != nil {
		return r.refused(e, access, err)
	}
	found, created, err := r.opts.Graph.Lead(ctx, access, e.Data.Lead.ID)
	if err != nil {
		return r.refused(e, access, r.gate.Refused(e.Page, err))
	}
	gone, err := streams.Gone(ctx, r.opts.JS, streams.Name, e.Seq)
	if err != nil {
		return Failed, fmt.Errorf("look for the lead's event again: %w", err)
	}
	if gone {
		return Erased, nil
	}
	found.AdGroup = e.Data.Lead.AdGroup
	found.Form, found.Ad = cmp.Or(found.Form, e.Data.Lead.Form), cmp.Or(found.Ad, e.Data.Lead.Ad)
	if created.IsZero() {
		created = e.Time
	}
	_, err = r.opts.Publisher.Publish(ctx, []domain.Event{{
		// A lead never changes, so it is stored once, however often it is read.
		ID:   domain.DedupID("pagestream", e.Page, string(domain.LeadRetrieved), found.ID),
		Type: domain.LeadRetrieved, Page: e.Page, Time: created,
		Data: domain.Data{App: access.App, Object: e.Data.Object, Lead: &found},
	}})
	if err != nil {
		return Failed, fmt.Errorf("append lead: %w", err)
	}
	r.waits.Remove(pageKey(e.Page)) // the page has the permission now
	return Retrieved, nil
}

// refused returns the result of an attempt with that error, and the error for the
// reactor.
func (r *Reactor) refused(e streams.Stored, access meta.Access, err error) (Result, error) {
	var throttled *meta.ThrottledError
	switch {
	case errors.As(err, &throttled) && throttled.After <= r.opts.MaxWait:
		return Throttled, err
	case throttled != nil:
		return Throttled, fmt.Errorf("%w: %w", streams.ErrNoRetry, err)
	case meta.NoToken(err):
		return NoToken, fmt.Errorf("%w: %w", streams.ErrNoRetry, err)
	case meta.Temporary(err) && !errors.Is(err, graph.ErrPageID):
		r.wait(leadKey(e.Seq), access, failedWait)
		return Failed, fmt.Errorf("read lead: %w", err)
	}
	key := leadKey(e.Seq)
	if meta.ClassOf(err) == meta.Permission {
		key = pageKey(e.Page)
	}
	r.wait(key, access, refusedWait)
	return Refused, fmt.Errorf("%w: %w", streams.ErrNoRetry, err)
}

func (r *Reactor) wait(key string, access meta.Access, d time.Duration) {
	r.waits.Add(key, wait{r.opts.Now().Add(d), access.Token})
}

// retry tries the parked leads again that may be retrieved now.
func (r *Reactor) retry(ctx context.Context) error {
	list, err := r.opts.Parking.List(ctx, durable)
	if err != nil {
		return err
	}
	for _, p := range list {
		if p.Attempts >= maxTries || !r.due(ctx, p) {
			continue
		}
		_, err := r.opts.Parking.Redrive(ctx, durable, p.Seq)
		if err != nil && !errors.Is(err, streams.ErrNotParked) { // another node or an operator was first
			return err
		}
	}
	return nil
}

// due reports whether a parked lead may be retrieved now: its page has a valid token and
// is not throttled, and Graph has not refused the lead or the page lately with this
// token.
func (r *Reactor) due(ctx context.Context, p streams.Parked) bool {
	access, err := r.gate.Access(ctx, p.Page)
	if err != nil {
		return false
	}
	for _, key := range []string{pageKey(p.Page), leadKey(p.Seq)} {
		w, ok := r.waits.Peek(key)
		if ok && w.token == access.Token && r.opts.Now().Before(w.until) {
			return false
		}
	}
	return true
}
