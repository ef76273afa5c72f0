package projectionstest

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/embedded"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// Models are read models that follow a stream.
type Models []*projections.Runner

// Named returns the model of the projection with that name. It panics if there is none.
func (m Models) Named(name string) *projections.Runner {
	for _, r := range m {
		if r.Name() == name {
			return r
		}
	}
	panic("no model " + name)
}

// Rig is a test fixture: a real stream with a publisher, and read models that follow it. All of it is
// stopped at the end of the test.
type Rig struct {
	*streamstest.Server
	Identity  streams.Identity
	Publisher *streams.Publisher
	Models
}

// NewRig starts a server, a publisher without an index of ids, and the models of the given projections.
func NewRig(t testing.TB, list ...projections.Projection) *Rig {
	t.Helper()
	r := &Rig{Server: streamstest.Run(t, func(o *embedded.Options) { o.Sync = embedded.SyncInterval })}
	r.Identity = r.Stream(t, streams.Spec{})
	r.Publisher = r.Publishing(t, nil)
	r.Models = r.Build(t, nil, list...)
	return r
}

// Publishing returns a new publisher with an index of ids, or without one if seen is nil. It is closed at
// the end of the test.
func (r *Rig) Publishing(t testing.TB, seen streams.SeenIndex) *streams.Publisher {
	t.Helper()
	p, err := streams.NewPublisher(r.JS, streams.PublisherOptions{Seen: seen})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := Limited()
		defer cancel()
		assert.NoError(t, p.Close(ctx))
	})
	return p
}

// Build runs new models of the given projections, in new files, from the start of the stream. If index is
// not nil it is called with the first model, and returns the index by which the others drop duplicates.
func (r *Rig) Build(
	t testing.TB, index func(*projections.Runner) projections.Index, list ...projections.Projection,
) (out Models) {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		running.Wait()
		for _, m := range out {
			assert.NoError(t, m.Close())
		}
	})
	o := projections.RunnerOptions{
		Dir: dir, JS: r.JS, Identity: r.Identity, Pace: -1, Store: store.Options{NoSync: true},
	}
	for i, p := range list {
		m, err := projections.NewRunner(p, o)
		require.NoError(t, err)
		out = append(out, m)
		if i == 0 && index != nil {
			o.Dedup = index(m)
		}
		running.Go(func() { assert.NoError(t, m.Run(ctx)) })
	}
	return out
}

// Publish stores events and waits until every model has applied them.
func (r *Rig) Publish(t testing.TB, events ...domain.Event) []streams.Receipt {
	t.Helper()
	ctx, cancel := Limited()
	defer cancel()
	receipts, err := r.Publisher.Publish(ctx, events)
	require.NoError(t, err)
	r.Settle(t, r.Models)
	return receipts
}

// Settle waits until the models have applied the last event of the stream, and returns its sequence.
func (r *Rig) Settle(t testing.TB, models Models) uint64 {
	t.Helper()
	ctx, cancel := Limited()
	defer cancel()
	last, err := streams.Last(ctx, r.JS, streams.Name)
	require.NoError(t, err)
	for _, m := range models {
		require.NoError(t, m.WaitFor(ctx, last))
	}
	return last
}

// All returns all events of the stream after every model has applied them.
func (r *Rig) All(t testing.TB) (list []streams.Stored) {
	t.Helper()
	ctx, cancel := Limited()
	defer cancel()
	_, err := streams.Read(ctx, r.JS, streams.ReadOptions{}, func(e streams.Stored) error {
		list = append(list, e)
		return nil
	})
	require.NoError(t, err)
	r.Settle(t, r.Models)
	return list
}

// Limited returns a context that ends after [streamstest.Limit], the longest that a test should wait.
func Limited() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), streamstest.Limit)
}
