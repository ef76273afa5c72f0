package projections

import (
	"errors"
	"testing"
	"time"

	"github.com/pagestream/pagestream/projections/store"
)

func TestLagAge(t *testing.T) {
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
		if err := p.healthy(2 * time.Second); err != nil {
			t.Fatalf("second %d: %v", i, err)
		}
	}
	// One that does not advance is reported.
	for range 200 {
		step(time.Second, p.s.Head+1)
	}
	err := p.healthy(30 * time.Second)
	if !errors.Is(err, ErrBehind) {
		t.Fatalf("not advancing: %v", err)
	}
	if age := p.status().LagAge; age != 200*time.Second {
		t.Errorf("lag age %s", age)
	}
	p.committed(store.Meta{Seq: p.s.Head})
	if s := p.status(); s.Lag != 0 || s.LagAge != 0 || p.healthy(time.Second) != nil {
		t.Errorf("caught up: %+v", s)
	}
	// A head that can't be requested is reported as well.
	now = now.Add(time.Minute)
	p.headSeen(0, errors.New("no connection"))
	if err := p.healthy(30 * time.Second); !errors.Is(err, ErrNoHead) {
		t.Errorf("unknown head: %v", err)
	}
}
