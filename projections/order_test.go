package projections

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pagestream/pagestream/streams"

	"github.com/pagestream/pagestream/projections/store"
)

// However messages arrive, they are taken in order, each once, and none is left
// without an answer; after a refusal nothing of its drive is taken.
func TestOrderOfArrivalDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := newOrder()
		n := rapid.IntRange(1, 60).Draw(t, "messages")
		from, expect := 1, 1
		for epoch := uint64(1); from <= n; epoch++ {
			all := make([]*parcel, 0, n)
			for seq := from; seq <= n; seq++ {
				all = append(all, &parcel{
					events: []*streams.Replayed{{Stored: streams.Stored{Seq: uint64(seq)}}},
					pos:    streams.Position{Seq: uint64(seq), Epoch: epoch, Ordinal: uint64(seq - from + 1)},
					done:   make(chan error, 1),
				})
			}
			failAt := rapid.IntRange(from, n+1).Draw(t, "fails at")
			arriving := rapid.Permutation(all).Draw(t, "arrival")
			for _, w := range arriving {
				o.add(w)
				batch := o.take(rapid.IntRange(1, 8).Draw(t, "batch"))
				for i, b := range batch {
					if int(b.pos.Seq) != expect {
						t.Fatalf("took %d, want %d", b.pos.Seq, expect)
					}
					if expect == failAt { // as the committer does
						o.breakOff()
						b.resolve(errors.New("fails"))
						resolve(batch[i+1:], errRedrive)
						break
					}
					b.resolve(nil)
					expect++
				}
			}
			for batch := o.take(8); len(batch) > 0; batch = o.take(8) {
				for _, b := range batch {
					if int(b.pos.Seq) != expect {
						t.Fatalf("took %d at the end, want %d", b.pos.Seq, expect)
					}
					b.resolve(nil)
					expect++
				}
			}
			for _, w := range all {
				select {
				case err := <-w.done:
					if (err == nil) != (int(w.pos.Seq) < expect) {
						t.Fatalf("message %d, before %d: %v", w.pos.Seq, expect, err)
					}
				default:
					t.Fatalf("message %d of drive %d has no answer", w.pos.Seq, epoch)
				}
			}
			from = expect
		}
		if len(o.held) != 0 {
			t.Fatalf("%d messages are held", len(o.held))
		}
	})
}

func TestLagAge(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	p := newProgress(Status{State: StateStarting}, func() time.Time { return now }, time.Second)
	p.began(store.Meta{}, 0, "")
	p.running()
	step := func(d time.Duration, head uint64) { now = now.Add(d); p.sawHead(head, nil) }
	// Under load a model that keeps up is always a little behind.
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
	// One that stands still is told, however it came to that.
	for range 200 {
		step(time.Second, p.s.Head+1)
	}
	err := p.healthy(30 * time.Second)
	if !errors.Is(err, ErrBehind) {
		t.Fatalf("stands still: %v", err)
	}
	if age := p.status().LagAge; age != 200*time.Second {
		t.Errorf("lag age %s", age)
	}
	p.committed(store.Meta{Seq: p.s.Head})
	if s := p.status(); s.Lag != 0 || s.LagAge != 0 || p.healthy(time.Second) != nil {
		t.Errorf("caught up: %+v", s)
	}
	// So is a head that nobody can see.
	now = now.Add(time.Minute)
	p.sawHead(0, errors.New("no connection"))
	if err := p.healthy(30 * time.Second); !errors.Is(err, ErrNoHead) {
		t.Errorf("head unseen: %v", err)
	}
}
