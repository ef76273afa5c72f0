package projections_test

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/streams"
)

// TestModelsReadTogether checks that several read models which start behind, or are rebuilt together, get the same
// decoded events, and that each has the right result.
func TestModelsReadTogether(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	const n = 6000
	all := benchEvents(n)
	last := srv.store(t, all...)
	tail := streams.NewTail(srv.JS, streams.TailOptions{Events: 10})
	t.Cleanup(func() { assert.NoError(t, tail.Close()) })
	names := []string{"a", "b", "c"}
	seen := make([][]*domain.Message, len(names))
	var begun *sync.WaitGroup
	models := make([]*projections.Runner, len(names))
	for i, name := range names {
		p := &chain{name: name, version: 1, hook: func(e streams.Stored) error {
			if e.Seq == 1 { // all must have joined before one ends
				begun.Done()
				begun.Wait()
			}
			seen[i] = append(seen[i], e.Data.Message)
			return nil
		}}
		models[i] = srv.runner(t, p, func(o *projections.RunnerOptions) { o.Tail = tail })
	}
	check := func(what string) {
		t.Helper()
		for seq := range n {
			for i := range names {
				require.Same(t, seen[0][seq], seen[i][seq], "%s: event %d of %s", what, seq+1, names[i])
			}
		}
		clear(seen)
	}
	begun = new(sync.WaitGroup)
	begun.Add(len(names))
	for _, m := range models {
		start(t, m)
	}
	for _, m := range models {
		wait(t, m, last)
	}
	check("catch-up")
	begun = new(sync.WaitGroup)
	begun.Add(len(names))
	var running sync.WaitGroup
	for _, m := range models {
		running.Go(func() {
			out, err := m.Rebuild(t.Context(), nil)
			assert.True(t, err == nil && out.Equal, "%+v: %v", out, err)
		})
	}
	running.Wait()
	check("rebuild")
	for _, m := range models {
		require.Equal(t, want(t, &chain{name: "chain"}, all), digest(t, m))
	}
}
