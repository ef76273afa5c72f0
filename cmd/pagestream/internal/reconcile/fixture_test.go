package reconcile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/projections/subscriptions"
	"github.com/pagestream/pagestream/streams"
)

var (
	start  = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	wanted = []string{"message_echoes", "messages"}
)

// model is a read model that events are applied to at once.
type model struct {
	*store.Store
	projection projections.Projection
}

func (model) WaitFor(context.Context, uint64) error { return nil }

// fakePage is the state of one page at the fake Graph.
type fakePage struct {
	fields     []string
	subscribed bool
	dead       int // subcode of a dead token, else 0
	deselected bool
	refuse     int           // error code for each check and each resubscribe
	refusePost int           // error code for each resubscribe
	down       int           // how many of the next calls get no answer
	lost       bool          // the stored token
	throttled  time.Duration // retry time of the next call's rate limit error
	report     meta.TokenReport
	checks     int
	posts      int
	probes     int
}

// fixture is a fake of Graph, package connect and the read models. Its Verbs store the
// events that connect would store.
type fixture struct {
	mu         sync.Mutex
	now        time.Time
	set        time.Duration // by how much the clock was set
	seq        uint64
	pages      model
	subs       model
	graph      map[domain.PageID]*fakePage
	appMissing []string
	// publish, if set, stores events in a real stream instead of the models.
	publish func(domain.Event) uint64
}

type test interface {
	require.TestingT
	Helper()
	Cleanup(func())
	TempDir() string
}

func newFixture(t test) *fixture {
	t.Helper()
	f := &fixture{now: start, graph: map[domain.PageID]*fakePage{}}
	open := func(p projections.Projection) model {
		st, err := store.Open(filepath.Join(t.TempDir(), p.Name()+".db"), store.Options{NoSync: true})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, st.Close()) })
		return model{st, p}
	}
	f.pages, f.subs = open(pages.New()), open(subscriptions.New())
	return f
}

func (f *fixture) reset() *fixture {
	for _, m := range []model{f.pages, f.subs} {
		err := m.Update(func(tx *store.Tx) error {
			names, err := tx.Buckets()
			if err != nil {
				return err
			}
			for _, n := range names {
				var keys [][]byte
				collect := func(k, _ []byte) error { keys = append(keys, slices.Clone(k)); return nil }
				if err := tx.Bucket(n).ForEachPrefix(nil, collect); err != nil {
					return err
				}
				for _, k := range keys {
					if err := tx.Bucket(n).Delete(k); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			panic(err)
		}
	}
	return &fixture{now: start, graph: map[domain.PageID]*fakePage{}, pages: f.pages, subs: f.subs}
}

func (f *fixture) clock() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

func (f *fixture) advance(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = f.now.Add(d)
}

// setClock sets the clock forward or back.
func (f *fixture) setClock(d time.Duration) {
	f.advance(d)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.set += d
}

// elapsed is the time since the start by a clock that is never set.
func (f *fixture) elapsed() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now.Sub(start) - f.set
}

func (f *fixture) page(id domain.PageID) *fakePage {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.graph[id]
}

// store stores an event and returns its sequence.
func (f *fixture) store(page domain.PageID, t domain.Type, d domain.Data) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.storeLocked(page, t, d)
}

func (f *fixture) storeLocked(page domain.PageID, t domain.Type, d domain.Data) uint64 {
	f.seq++
	d.App = "main"
	e := domain.Event{ID: fmt.Sprintf("%s-%s-%d", page, t, f.seq), Type: t, Page: page, Time: f.now, Data: d}
	if f.publish != nil {
		return f.publish(e)
	}
	for _, m := range []model{f.pages, f.subs} {
		err := m.Update(func(tx *store.Tx) error {
			return m.projection.Apply(tx, streams.Stored{Event: e, Seq: f.seq, At: f.now})
		})
		if err != nil {
			panic(err)
		}
	}
	return f.seq
}

// connect connects and subscribes a page.
func (f *fixture) connect(page domain.PageID) *fakePage {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := &fakePage{fields: wanted, subscribed: true, report: meta.TokenReport{State: meta.TokenValid}}
	f.graph[page] = g
	c := domain.Connection{ConnectionID: "c-" + string(page), App: "main", Secret: "ref", Fields: wanted}
	f.storeLocked(page, domain.PageConnected, domain.Data{Connection: &c})
	f.subscription(page, domain.SubscriptionRequested, 0)
	f.subscription(page, domain.SubscriptionConfirmed, 0)
	return g
}

func (f *fixture) subscription(page domain.PageID, t domain.Type, code int) uint64 {
	s := domain.Subscription{App: "main", Wanted: wanted, Code: code}
	if t == domain.SubscriptionConfirmed || t == domain.SubscriptionDrifted {
		s.Actual = f.graph[page].actual()
	}
	return f.storeLocked(page, t, domain.Data{Subscription: &s})
}

// refresh gives the page a valid token.
func (f *fixture) refresh(page domain.PageID) streams.Stored {
	f.mu.Lock()
	f.graph[page].dead, f.graph[page].deselected = 0, false
	f.mu.Unlock()
	d := domain.Data{Connection: &domain.Connection{ConnectionID: "c-" + string(page), Secret: "ref-2"}}
	seq := f.store(page, domain.PageTokenRefreshed, d)
	return streams.Stored{
		Event: domain.Event{Type: domain.PageTokenRefreshed, Page: page, Data: d}, Seq: seq, At: f.clock(),
	}
}

func (g *fakePage) actual() []string {
	if !g.subscribed {
		return []string{}
	}
	return slices.Clone(g.fields)
}

func (g *fakePage) missing() (out []string) {
	for _, f := range wanted {
		if !slices.Contains(g.actual(), f) {
			out = append(out, f)
		}
	}
	return out
}

// call returns the error of any call of Graph, if one is set.
func (g *fakePage) call() error {
	if g.lost {
		return fmt.Errorf("page: %w", meta.ErrToken)
	}
	if d := g.throttled; d > 0 {
		g.throttled = 0
		return fmt.Errorf("call graph: %w", &meta.Error{Code: 613, After: d})
	}
	if g.down > 0 {
		g.down--
		return fmt.Errorf("call graph: %w", io.ErrUnexpectedEOF)
	}
	return nil
}

var errNotConnected = errors.New("page is not connected")

func (f *fixture) Check(_ context.Context, page domain.PageID) (meta.Outcome, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := f.graph[page]
	if g == nil {
		return meta.Outcome{}, errNotConnected
	}
	g.checks++
	if err := g.call(); err != nil {
		return meta.Outcome{}, err
	}
	if out, refused := f.refused(page, g.refuse); refused {
		return out, nil
	}
	out := meta.Outcome{State: subscriptions.Confirmed, Missing: g.missing(), AppMissing: f.appMissing}
	event := domain.SubscriptionConfirmed
	if len(out.Missing) > 0 {
		out.State, event = subscriptions.Drifted, domain.SubscriptionDrifted
	}
	if sub, err := subscriptions.Get(f.subs, page, "main"); f.publish != nil || err != nil ||
		sub.State != out.State || !slices.Equal(sub.Actual, g.actual()) {
		out.Seq = f.subscription(page, event, 0)
	}
	if len(f.appMissing) > 0 {
		out.State = subscriptions.Drifted
	}
	return out, nil
}

func (f *fixture) refused(page domain.PageID, code int) (meta.Outcome, bool) {
	g := f.graph[page]
	switch {
	case g.dead != 0:
		if p, err := pages.Get(f.pages, page); err == nil && p.Token == pages.TokenValid {
			f.storeLocked(
				page, domain.PageTokenInvalidated,
				domain.Data{Connection: &domain.Connection{Code: 190, Subcode: g.dead, Reason: "dead"}},
			)
		}
		return meta.Outcome{State: subscriptions.Failed, Code: 190, Subcode: g.dead, Reason: "dead"}, true
	case code != 0:
		return meta.Outcome{State: subscriptions.Failed, Code: code, Reason: "no"}, true
	}
	return meta.Outcome{}, false
}

func (f *fixture) Resubscribe(_ context.Context, page domain.PageID) (meta.Outcome, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := f.graph[page]
	if g == nil {
		return meta.Outcome{}, errNotConnected
	}
	g.posts++
	f.subscription(page, domain.SubscriptionRequested, 0)
	code := max(g.refuse, g.refusePost)
	if err := g.call(); err != nil {
		return meta.Outcome{
			State: subscriptions.Failed, Reason: err.Error(), RetryAfter: int(meta.RetryAfter(err) / time.Second),
			Seq: f.subscription(page, domain.SubscriptionFailed, 0),
		}, nil
	}
	if out, refused := f.refused(page, code); refused {
		out.Seq = f.subscription(page, domain.SubscriptionFailed, out.Code)
		return out, nil
	}
	g.fields, g.subscribed = wanted, true
	return meta.Outcome{State: subscriptions.Confirmed, Seq: f.subscription(page, domain.SubscriptionConfirmed, 0)}, nil
}

func (f *fixture) Probe(_ context.Context, page domain.PageID) (meta.TokenReport, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := f.graph[page]
	if g == nil {
		return meta.TokenReport{}, errNotConnected
	}
	g.probes++
	if err := g.call(); err != nil {
		return meta.TokenReport{}, err
	}
	p, err := pages.Get(f.pages, page)
	switch {
	case g.dead != 0 || g.deselected:
		r := meta.TokenReport{State: meta.TokenInvalid, Code: 190, Subcode: g.dead, Reason: "dead"}
		if g.deselected {
			r = meta.TokenReport{State: meta.TokenDeselected, Reason: "deselected: not granted"}
		}
		if err == nil && p.Token == pages.TokenValid {
			f.storeLocked(page, domain.PageTokenInvalidated, domain.Data{Connection: &domain.Connection{Reason: r.Reason}})
		}
		return r, nil
	case err == nil && p.Token == pages.TokenInvalid:
		f.storeLocked(
			page, domain.PageTokenRefreshed,
			domain.Data{Connection: &domain.Connection{Secret: "ref", Reason: "valid again"}},
		)
	}
	return g.report, nil
}

// RunOnce checks every connected page now, without the queue. Pages that are on hold
// are skipped. An error means that the pages can't be listed or that the context
// ended; the status then has what was known.
func (r *Reconciler) RunOnce(ctx context.Context) (Status, error) {
	list, err := r.list()
	if err != nil {
		return r.Status(), err
	}
	r.updateSilence(list)
	var group sync.WaitGroup
	free := make(chan struct{}, workers)
	for _, page := range list {
		free <- struct{}{} // waits no longer than Timeout
		if ctx.Err() != nil {
			break
		}
		group.Go(func() {
			defer func() { <-free }()
			ctx, cancel := context.WithTimeout(ctx, r.opts.Timeout)
			defer cancel()
			r.visit(ctx, page)
		})
	}
	group.Wait()
	if err := ctx.Err(); err != nil {
		return r.Status(), fmt.Errorf("check pages: %w", err)
	}
	return r.Status(), nil
}
