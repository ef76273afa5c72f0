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

// workers is how many pages this process works on at once.
const workers = 4

// Verbs are the operations on a page. Each records its result as events and may be
// repeated. An error means that the state of the page is unknown. If an outcome or an
// error has a retry time, Graph is not called for the page until it has passed.
type Verbs interface {
	// Check reads the page's subscription.
	Check(ctx context.Context, page domain.PageID) (meta.Outcome, error)
	// Resubscribe subscribes the page to all wanted fields and reads them back.
	Resubscribe(ctx context.Context, page domain.PageID) (meta.Outcome, error)
	// Probe asks Graph about the page's token.
	Probe(ctx context.Context, page domain.PageID) (meta.TokenReport, error)
}

// Options configure a [Reconciler]. Verbs, Pages and Subscriptions are
// required; JS and Connect are for Run.
type Options struct {
	JS jetstream.JetStream
	// Connect returns a connection for one reactor, which closes it.
	Connect func() (*nats.Conn, error)
	// Parking stores events that can't be handled; if it is nil, they are only logged.
	Parking *streams.Parking
	// Replicas of the work queue when it is made; see [streams.EnsureBeside].
	Replicas int

	Verbs         Verbs
	Pages         projections.Reader
	Subscriptions projections.Reader

	// Interval is how often each page is checked; a negative value means never, and
	// then only refreshed tokens are handled.
	Interval time.Duration
	// TokenInterval is how often each page's token is probed.
	TokenInterval time.Duration
	// Timeout limits the work on one page.
	Timeout time.Duration
	// Settle is how long the connector that refreshed a token may take to subscribe the
	// page itself.
	Settle time.Duration

	Now func() time.Time
	// Elapsed returns the time since the process began, by a clock that is never set. The
	// default is the monotonic clock, or Now if that is given.
	Elapsed func() time.Duration
	// Ticker returns the ticks of the schedule; stop ends them.
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
	if o.Elapsed == nil {
		began := o.Now() // with a monotonic reading, if it is that of package time
		o.Elapsed = func() time.Duration { return o.Now().Sub(began) }
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

// Reconciler is the reconcile loop. It is safe for concurrent use. Create it with
// [New].
type Reconciler struct {
	opts Options

	// period and slots are the schedule's; only its goroutine uses them.
	period  int64
	name    string // of the tasks of the period
	setBack int    // how often the clock was set back
	slots   []slot

	mu        sync.Mutex
	entries   map[domain.PageID]*entry // connected pages
	listed    time.Time
	allSilent bool
	counters  Counters
}

// New returns a loop that does not run yet. It panics if a required option is
// missing, which is a programming error.
func New(o Options) *Reconciler {
	if o.Verbs == nil || o.Pages == nil || o.Subscriptions == nil {
		panic("reconcile: Verbs, Pages and Subscriptions are required")
	}
	o = o.withDefaults()
	return &Reconciler{opts: o, period: -1, entries: make(map[domain.PageID]*entry)}
}

// Run checks the pages until the context ends, and then returns nil. It returns an
// error only if the work queue can't be created. It panics without JS and Connect.
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

// list returns the connected pages, and removes the entries of pages that are no
// longer connected.
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
