package projections

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/projections/store"
)

func TestLagAge(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	p := newProgress(Status{State: StateStarting}, func() time.Time { return now }, time.Second)
	p.started(store.Meta{}, 0, "")
	p.running()
	step := func(d time.Duration, head uint64) { now = now.Add(d); p.headSeen(head, nil) }
	// Under load a read model that keeps up is always slightly behind.
	for i := uint64(1); i <= 600; i++ {
		step(time.Second, 100*i)
		p.committed(store.Meta{Seq: 100*i - 10})
		if i > 1 {
			p.committed(store.Meta{Seq: 100*i - 5})
		}
		require.NoError(t, p.healthy(2*time.Second), "second %d", i)
	}
	// One that does not advance is reported.
	for range 200 {
		step(time.Second, p.s.Head+1)
	}
	err := p.healthy(30 * time.Second)
	require.ErrorIs(t, err, ErrBehind, "not advancing")
	require.Equal(t, 200*time.Second, p.status().LagAge)
	p.committed(store.Meta{Seq: p.s.Head})
	s := p.status()
	require.Zero(t, s.Lag, "caught up")
	require.Zero(t, s.LagAge, "caught up")
	require.NoError(t, p.healthy(time.Second))
	// A head that can't be requested is reported as well.
	now = now.Add(time.Minute)
	p.headSeen(0, errors.New("no connection"))
	require.ErrorIs(t, p.healthy(30*time.Second), ErrNoHead, "unknown head")
}
