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

// remote is what Graph knows of one page.
type remote struct {
	fields     []string
	subscribed bool
	dead       int // the token's subcode where it is dead
	deselected bool
	refuse     int           // code for each read and each request
	refusePost int           // code for each request
	down       int           // so many calls get no answer
	throttled  time.Duration // once
	report     meta.TokenReport
	checks     int
	posts      int
	probes     int
}

// world is a Graph, package connect and the read models in little. It says of
// each verb what connect would say.
type world struct {
	mu         sync.Mutex
	now        time.Time
	seq        uint64
	pages      model
	subs       model
	graph      map[domain.PageID]*remote
	appMissing []string
	// publish, if set, stores events in a real stream instead.
	publish func(domain.Event) uint64
}

type test interface {
	require.TestingT
	Helper()
	Cleanup(func())
	TempDir() string
}

func newWorld(t test) *world {
	t.Helper()
	w := &world{now: start, graph: map[domain.PageID]*remote{}}
	open := func(p projections.Projection) model {
		st, err := store.Open(filepath.Join(t.TempDir(), p.Name()+".db"), store.Options{NoSync: true})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, st.Close()) })
		return model{st, p}
	}
	w.pages, w.subs = open(pages.New()), open(subscriptions.New())
	return w
}

func (w *world) reset() *world {
	for _, m := range []model{w.pages, w.subs} {
		err := m.Update(func(tx *store.Tx) error {
			names, err := tx.Buckets()
			if err != nil {
				return err
			}
			for _, n := range names {
				var keys [][]byte
				if err := tx.Bucket(n).ForEachPrefix(nil, func(k, _ []byte) error { keys = append(keys, slices.Clone(k)); return nil }); err != nil {
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
	return &world{now: start, graph: map[domain.PageID]*remote{}, pages: w.pages, subs: w.subs}
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) page(id domain.PageID) *remote {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.graph[id]
}

// say stores an event.
func (w *world) say(page domain.PageID, t domain.Type, d domain.Data) uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sayLocked(page, t, d)
}

func (w *world) sayLocked(page domain.PageID, t domain.Type, d domain.Data) uint64 {
	w.seq++
	d.App = "main"
	e := domain.Event{ID: fmt.Sprintf("%s-%s-%d", page, t, w.seq), Type: t, Page: page, Time: w.now, Data: d}
	if w.publish != nil {
		return w.publish(e)
	}
	for _, m := range []model{w.pages, w.subs} {
		err := m.Update(func(tx *store.Tx) error {
			return m.projection.Apply(tx, streams.Stored{Event: e, Seq: w.seq, At: w.now})
		})
		if err != nil {
			panic(err)
		}
	}
	return w.seq
}

// connect connects and subscribes a page.
func (w *world) connect(page domain.PageID) *remote {
	w.mu.Lock()
	defer w.mu.Unlock()
	g := &remote{fields: wanted, subscribed: true, report: meta.TokenReport{State: meta.TokenValid}}
	w.graph[page] = g
	c := domain.Connection{ConnectionID: "c-" + string(page), App: "main", SealedToken: "sealed", Fields: wanted}
	w.sayLocked(page, domain.PageConnected, domain.Data{Connection: &c})
	w.subscription(page, domain.SubscriptionRequested, 0)
	w.subscription(page, domain.SubscriptionConfirmed, 0)
	return g
}

func (w *world) subscription(page domain.PageID, t domain.Type, code int) uint64 {
	s := domain.Subscription{App: "main", Wanted: wanted, Code: code}
	if t == domain.SubscriptionConfirmed || t == domain.SubscriptionDrifted {
		s.Actual = w.graph[page].actual()
	}
	return w.sayLocked(page, t, domain.Data{Subscription: &s})
}

// refresh gives the page a living token.
func (w *world) refresh(page domain.PageID) streams.Stored {
	w.mu.Lock()
	w.graph[page].dead, w.graph[page].deselected = 0, false
	w.mu.Unlock()
	d := domain.Data{Connection: &domain.Connection{ConnectionID: "c-" + string(page), SealedToken: "sealed-2"}}
	seq := w.say(page, domain.PageTokenRefreshed, d)
	return streams.Stored{Event: domain.Event{Type: domain.PageTokenRefreshed, Page: page, Data: d}, Seq: seq, At: w.clock()}
}

func (g *remote) actual() []string {
	if !g.subscribed {
		return []string{}
	}
	return slices.Clone(g.fields)
}

func (g *remote) missing() (out []string) {
	for _, f := range wanted {
		if !slices.Contains(g.actual(), f) {
			out = append(out, f)
		}
	}
	return out
}

// call is what any call of Graph may run into.
func (g *remote) call() error {
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

var errGone = errors.New("page is not connected")

func (w *world) Check(_ context.Context, page domain.PageID) (meta.Outcome, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	g := w.graph[page]
	if g == nil {
		return meta.Outcome{}, errGone
	}
	g.checks++
	if err := g.call(); err != nil {
		return meta.Outcome{}, err
	}
	if out, refused := w.refused(page, g.refuse); refused {
		return out, nil
	}
	out := meta.Outcome{State: subscriptions.Confirmed, Missing: g.missing(), AppMissing: w.appMissing}
	event := domain.SubscriptionConfirmed
	if len(out.Missing) > 0 {
		out.State, event = subscriptions.Drifted, domain.SubscriptionDrifted
	}
	if sub, err := subscriptions.Get(w.subs, page, "main"); w.publish != nil || err != nil ||
		sub.State != out.State || !slices.Equal(sub.Actual, g.actual()) {
		out.Seq = w.subscription(page, event, 0)
	}
	if len(w.appMissing) > 0 {
		out.State = subscriptions.Drifted
	}
	return out, nil
}

func (w *world) refused(page domain.PageID, code int) (meta.Outcome, bool) {
	g := w.graph[page]
	switch {
	case g.dead != 0:
		if p, err := pages.Get(w.pages, page); err == nil && p.Token == pages.TokenValid {
			w.sayLocked(page, domain.PageTokenInvalidated, domain.Data{Connection: &domain.Connection{Code: 190, Subcode: g.dead, Reason: "dead"}})
		}
		return meta.Outcome{State: subscriptions.Failed, Code: 190, Subcode: g.dead, Reason: "dead"}, true
	case code != 0:
		return meta.Outcome{State: subscriptions.Failed, Code: code, Reason: "no"}, true
	}
	return meta.Outcome{}, false
}

func (w *world) Resubscribe(_ context.Context, page domain.PageID) (meta.Outcome, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	g := w.graph[page]
	if g == nil {
		return meta.Outcome{}, errGone
	}
	g.posts++
	w.subscription(page, domain.SubscriptionRequested, 0)
	code := max(g.refuse, g.refusePost)
	if err := g.call(); err != nil {
		return meta.Outcome{
			State: subscriptions.Failed, Reason: err.Error(), RetryAfter: int(meta.RetryAfter(err) / time.Second),
			Seq: w.subscription(page, domain.SubscriptionFailed, 0),
		}, nil
	}
	if out, refused := w.refused(page, code); refused {
		out.Seq = w.subscription(page, domain.SubscriptionFailed, out.Code)
		return out, nil
	}
	g.fields, g.subscribed = wanted, true
	return meta.Outcome{State: subscriptions.Confirmed, Seq: w.subscription(page, domain.SubscriptionConfirmed, 0)}, nil
}

func (w *world) Probe(_ context.Context, page domain.PageID) (meta.TokenReport, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	g := w.graph[page]
	if g == nil {
		return meta.TokenReport{}, errGone
	}
	g.probes++
	if err := g.call(); err != nil {
		return meta.TokenReport{}, err
	}
	p, err := pages.Get(w.pages, page)
	switch {
	case g.dead != 0 || g.deselected:
		r := meta.TokenReport{State: meta.TokenInvalid, Code: 190, Subcode: g.dead, Reason: "dead"}
		if g.deselected {
			r = meta.TokenReport{State: meta.TokenDeselected, Reason: "deselected: not granted"}
		}
		if err == nil && p.Token == pages.TokenValid {
			w.sayLocked(page, domain.PageTokenInvalidated, domain.Data{Connection: &domain.Connection{Reason: r.Reason}})
		}
		return r, nil
	case err == nil && p.Token == pages.TokenInvalid:
		w.sayLocked(page, domain.PageTokenRefreshed, domain.Data{Connection: &domain.Connection{SealedToken: "sealed", Reason: "valid again"}})
	}
	return g.report, nil
}

// RunOnce looks at every connected page now, without the queue. It obeys the
// back-off of each page. An error means that the pages can't be listed or that
// the context ended; the report then has what was known.
func (r *Reconciler) RunOnce(ctx context.Context) (Status, error) {
	list, err := r.list()
	if err != nil {
		return r.Status(), err
	}
	r.updateSilence(list)
	var group sync.WaitGroup
	free := make(chan struct{}, workers)
	for _, page := range list {
		free <- struct{}{} // for no longer than Timeout
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
		return r.Status(), fmt.Errorf("look at pages: %w", err)
	}
	return r.Status(), nil
}
