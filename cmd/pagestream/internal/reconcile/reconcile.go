package reconcile

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/streams"
)

// Defaults of [Options].
const (
	DefaultInterval      = 10 * time.Minute
	DefaultTokenInterval = 6 * time.Hour
	DefaultTimeout       = time.Minute
	DefaultSettle        = 10 * time.Second
)

// workers bounds the pages that this process works on at once.
const workers = 4

// Verbs are what is done to a page. Each records what it finds as events and is
// safe to do again. An error means that it is not known how the page stands.
// Where an outcome or an error has a time to wait, Graph is not called for the
// page for so long.
type Verbs interface {
	// Check reads the page's subscription.
	Check(ctx context.Context, page domain.PageID) (meta.Outcome, error)
	// Resubscribe asks for all wanted fields and reads them back.
	Resubscribe(ctx context.Context, page domain.PageID) (meta.Outcome, error)
	// Probe asks Graph about the page's token.
	Probe(ctx context.Context, page domain.PageID) (meta.TokenReport, error)
}

// Options configure a [Reconciler]. Verbs, Pages and Subscriptions are
// required; JS and Connect are for Run.
type Options struct {
	JS jetstream.JetStream
	// Connect returns a connection that one reactor has for itself and closes.
	Connect func() (*nats.Conn, error)
	// Parking keeps what is given up; nil only logs it.
	Parking *streams.Parking
	// Replicas of the work queue; more than 1 needs a cluster.
	Replicas int

	Verbs         Verbs
	Pages         projections.Reader
	Subscriptions projections.Reader

	// Interval is how often each page is looked at; negative is never, and then
	// only refreshed tokens are followed.
	Interval time.Duration
	// TokenInterval is how often each page's token is asked about.
	TokenInterval time.Duration
	// Timeout bounds the work on one page.
	Timeout time.Duration
	// Settle is how long after a token was refreshed its connector may take to
	// subscribe the page itself.
	Settle time.Duration

	Now func() time.Time
	// Ticker makes the ticks that the schedule goes by; stop ends them.
	Ticker func(time.Duration) (tick <-chan time.Time, stop func())
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	o.Interval = cmp.Or(o.Interval, DefaultInterval)
	o.TokenInterval = cmp.Or(o.TokenInterval, DefaultTokenInterval)
	o.Timeout = cmp.Or(o.Timeout, DefaultTimeout)
	o.Settle = cmp.Or(o.Settle, DefaultSettle)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Ticker == nil {
		o.Ticker = func(d time.Duration) (<-chan time.Time, func()) {
			t := time.NewTicker(d)
			return t.C, t.Stop
		}
	}
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	return o
}

// Reconciler is the loop. Make one with [New]; it is safe for concurrent use.
type Reconciler struct {
	opts  Options
	began time.Time // silence before this process is not the pages'

	// The schedule's, used by its goroutine alone.
	period int64
	slots  []slot

	mu        sync.Mutex
	entries   map[domain.PageID]*entry // connected pages
	listed    time.Time
	allSilent bool
	counters  Counters
}

// New returns a loop that does not run yet. It panics if a required option is
// missing, which is a mistake in the wiring.
func New(o Options) *Reconciler {
	if o.Verbs == nil || o.Pages == nil || o.Subscriptions == nil {
		panic("reconcile: Verbs, Pages and Subscriptions are required")
	}
	o = o.withDefaults()
	return &Reconciler{opts: o, began: o.Now(), period: -1, entries: make(map[domain.PageID]*entry)}
}

// Run looks after the pages until the context ends, which is no error. It fails
// only if the work queue can't be made.
func (r *Reconciler) Run(ctx context.Context) error {
	if r.opts.JS == nil || r.opts.Connect == nil {
		panic("reconcile: Run needs JS and Connect")
	}
	var group sync.WaitGroup
	defer group.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group.Go(func() { streams.KeepRunning(ctx, r.opts.Logger, r.refreshes().Run) })
	if r.opts.Interval < 0 {
		<-ctx.Done()
		return nil
	}
	if err := r.ensure(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	for range workers {
		group.Go(func() { streams.KeepRunning(ctx, r.opts.Logger, r.worker().Run) })
	}
	r.schedule(ctx)
	return nil
}

// list returns the connected pages and lets go of those that are not any more.
func (r *Reconciler) list() ([]domain.PageID, error) {
	var list []domain.PageID
	connected := make(map[domain.PageID]bool)
	err := pages.Each(r.opts.Pages, func(p pages.Page) error {
		if p.State == pages.Connected {
			list = append(list, p.ID)
			connected[p.ID] = true
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list pages: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.listed = r.opts.Now()
	for page, e := range r.entries {
		if !connected[page] && !e.busy {
			delete(r.entries, page)
		}
	}
	for _, page := range list {
		r.entry(page)
	}
	return list, nil
}
