package projections

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// decided has the decisions about a projection's dead letters, in order. A nil
// *decided has none. It is safe for concurrent use.
type decided struct {
	mu   sync.Mutex
	list []streams.Decision
	seen uint64 // the last sequence that was read, also of one that is not in list
}

func (d *decided) set(list []streams.Decision, seen uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.list, d.seen = list, seen
}

// add adds decisions that were read after the sequence from, up to seen. It does nothing if others were added
// meanwhile.
func (d *decided) add(from, seen uint64, list ...streams.Decision) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.seen == from {
		d.list, d.seen = append(d.list, list...), seen
	}
}

// latest returns the last sequence that was read, and the sequence of the event after which the last decision is
// carried out.
func (d *decided) latest() (seen, after uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := len(d.list); n > 0 {
		after = d.list[n-1].After
	}
	return d.seen, after
}

// last returns the sequence of the last decision, 0 if there is none.
func (d *decided) last() uint64 {
	if d == nil {
		return 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.list) == 0 {
		return 0
	}
	return d.list[len(d.list)-1].Seq
}

// due returns the decisions that were not carried out at a position, are to be
// carried out before an event, and have sequences up to upto.
func (d *decided) due(m store.Meta, before, upto uint64) (out []streams.Decision) {
	if d == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, x := range d.list {
		if x.Seq > m.Decision && x.Seq <= upto && x.After < before {
			out = append(out, x)
		}
	}
	return out
}

// cut returns how many events of a batch are to be applied before the next decision:
// at least one, since the decisions before the batch were carried out.
func (d *decided) cut(m store.Meta, batch []*streams.Replayed) int {
	if d == nil {
		return len(batch)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, x := range d.list {
		if x.Seq > m.Decision {
			return max(1, indexOf(batch, x.After+1))
		}
	}
	return len(batch)
}

// decide carries out the decisions that are due before an event and have sequences
// up to upto. It returns the new position and whether it changed.
func (a *applier) decide(
	ctx context.Context, s *store.Store, meta store.Meta, before, upto uint64,
) (after store.Meta, changed bool, err error) {
	for _, d := range a.decided.due(meta, before, upto) {
		m, err := a.carryOut(ctx, s, d)
		if err != nil {
			return meta, changed, fmt.Errorf("%s dead letters: %w", d.Action, err)
		}
		meta, changed = m, true
	}
	return meta, changed, nil
}

// carryOut carries out a decision for each dead letter that it selects, one
// conversation after the other. It may be repeated after it was interrupted.
func (a *applier) carryOut(ctx context.Context, s *store.Store, d streams.Decision) (meta store.Meta, err error) {
	heads, err := headsOf(s, d)
	if err != nil {
		return meta, err
	}
	for _, head := range heads {
		if err := a.release(ctx, s, head, d); err != nil {
			return meta, err
		}
	}
	return changeMeta(s, func(_ *store.Tx, meta *store.Meta) error {
		meta.Decision = d.Seq
		return nil
	})
}

// headsOf returns the dead letters that a decision selects, ordered by sequence: the
// one with its sequence if it has one, otherwise those that failed themselves.
func headsOf(v Viewer, d streams.Decision) (heads []DeadLetter, err error) {
	var prefix []byte
	if d.Page != "" {
		prefix = store.Key(d.Page)
	}
	err = v.View(func(tx *store.Tx) error {
		return eachParked(tx, prefix, func(l DeadLetter) error {
			if d.Event == l.Seq || d.Event == 0 && l.Behind == 0 {
				heads = append(heads, l)
			}
			return nil
		})
	})
	slices.SortFunc(heads, func(x, y DeadLetter) int { return cmp.Compare(x.Seq, y.Seq) })
	return heads, err
}

// Redriven is the result of a decision.
type Redriven struct {
	// Decision is the sequence of the decision among all decisions.
	Decision uint64 `json:"decision"`
	// Heads is the number of dead letters that the decision selected. Applied is
	// the number of events that it applied, Discarded the number of those that it
	// discarded, and Parked the number of those that are still parked.
	Heads     int    `json:"heads"`
	Applied   uint64 `json:"applied"`
	Discarded uint64 `json:"discarded"`
	Parked    uint64 `json:"parked"`
}

// ErrNoDeadLetter is returned when a decision selects no dead letter.
var ErrNoDeadLetter = errors.New("there is no such dead letter")

// About returns the dead letters that a decision selects, ordered by sequence. It
// changes nothing.
func (r *Runner) About(d streams.Decision) ([]DeadLetter, error) {
	heads, err := headsOf(r, d)
	if err != nil {
		return nil, fmt.Errorf("read dead letters: %w", err)
	}
	for i := range heads {
		heads[i].Projection = r.Name()
	}
	return heads, nil
}

// errDecidedLater is returned while the last decision, of another node, is about a later event than this read model has
// applied.
var errDecidedLater = errors.New("the last decision, of another node, is about a later event")

// Decide stores a decision about dead letters and carries it out between two
// transactions. A rebuild carries it out at the same position of the stream, and the runners
// of other nodes as soon as they have seen it and have that position. It fails with
// [ErrNoDeadLetter] if the decision selects no dead letter. It may be repeated.
func (r *Runner) Decide(ctx context.Context, d streams.Decision) (Redriven, error) {
	pause := backoff.Backoff{Min: restartMin, Max: restartMax}
	deadline := time.Now().Add(compareTimeout)
	for {
		out, err := r.decideOnce(ctx, d)
		// Decisions are in one order for all nodes, and each is carried out after the one before.
		if !errors.Is(err, errDecidedLater) && !errors.Is(err, streams.ErrConflict) || time.Now().After(deadline) {
			return out, err
		}
		if err := r.catchUp(ctx); err != nil {
			return out, fmt.Errorf("%s dead letters of %s: %w", d.Action, r.Name(), err)
		}
		if err := pause.Wait(ctx); err != nil {
			return out, err
		}
	}
}

// followDecisions carries out the decisions of other nodes until the context ends. They are looked for when one is
// being stored, after each reconnect, and now and then.
func (r *Runner) followDecisions(ctx context.Context) {
	conn := r.opts.JS.Conn()
	connected := conn.StatusChanged(nats.CONNECTED)
	defer conn.RemoveStatusListener(connected)
	told := make(chan struct{}, 1)
	var listening sync.WaitGroup
	defer listening.Wait()
	listening.Go(func() {
		err := streams.Decided(ctx, r.opts.JS, r.opts.Stream, r.Name(), func() {
			select {
			case told <- struct{}{}:
			default:
			}
		})
		if err != nil && ctx.Err() == nil {
			r.opts.Logger.Error("decisions of other nodes are noticed late", "projection", r.Name(), "err", err)
		}
	})
	seldom := time.NewTicker(decisionsEvery)
	defer seldom.Stop()
	again := 0
	for {
		var soon <-chan time.Time
		if again > 0 {
			soon = time.After(decisionsAgain)
		}
		select {
		case <-ctx.Done():
			return
		case <-told: // it is not stored yet
			again = decisionsTries
		case <-soon:
			again--
		case <-connected:
			again = 1
		case <-seldom.C:
		}
		before, _ := r.decided.latest()
		if err := r.catchUp(ctx); err != nil && ctx.Err() == nil {
			r.opts.Logger.Debug("decisions about dead letters are not carried out yet", "projection", r.Name(), "err", err)
			again = max(again, 1)
		}
		if after, _ := r.decided.latest(); after > before && again > 0 {
			again = 1
		}
	}
}

// When decisions of other nodes are looked for.
const (
	decisionsEvery = time.Minute
	decisionsAgain = 250 * time.Millisecond
	decisionsTries = 20 // after one was announced
)

// catchUp reads the decisions that other nodes have stored, and carries out those that are due.
func (r *Runner) catchUp(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, headTimeout)
	defer cancel()
	seen, _ := r.decided.latest()
	list, last, err := streams.DecisionsAfter(limited, r.opts.JS, r.opts.Stream, r.Name(), seen)
	if err != nil || last == seen {
		return err
	}
	return r.exclusive(ctx, func(s *store.Store) error {
		r.decided.add(seen, last, list...)
		return r.carryOutDue(ctx, s)
	})
}

// carryOutDue carries out the decisions that are due at the position of the file. Nothing else writes to it.
func (r *Runner) carryOutDue(ctx context.Context, s *store.Store) error {
	meta, err := metaOf(s)
	if err != nil {
		return err
	}
	meta, changed, err := r.applier().decide(ctx, s, meta, meta.Seq+1, r.decided.last())
	if changed {
		r.progress.committed(meta)
	}
	return err
}

// decideOnce is [Runner.Decide] without waiting for the decisions of other nodes.
func (r *Runner) decideOnce(ctx context.Context, d streams.Decision) (out Redriven, err error) {
	err = r.exclusive(ctx, func(s *store.Store) error {
		heads, err := headsOf(s, d)
		if err != nil {
			return err
		}
		if len(heads) == 0 {
			return ErrNoDeadLetter
		}
		before, err := metaOf(s)
		if err != nil {
			return err
		}
		seen, after := r.decided.latest()
		if after > before.Seq {
			return errDecidedLater
		}
		d.Projection, d.After = r.Name(), before.Seq
		d.At = time.Now().UTC()
		limited, cancel := context.WithTimeout(ctx, headTimeout)
		defer cancel()
		if d, err = streams.DecideAfter(limited, r.opts.JS, r.opts.Stream, d, seen); err != nil {
			return err
		}
		r.decided.add(seen, d.Seq, d)
		meta, _, err := r.applier().decide(ctx, s, before, before.Seq+1, d.Seq)
		if err != nil {
			return err
		}
		r.progress.committed(meta)
		out = Redriven{
			Decision: d.Seq, Heads: len(heads), Parked: meta.Parked, Discarded: meta.Discarded - before.Discarded,
			Applied: before.Parked - meta.Parked - (meta.Discarded - before.Discarded),
		}
		return nil
	})
	if err != nil {
		return out, fmt.Errorf("%s dead letters of %s: %w", d.Action, r.Name(), err)
	}
	return out, nil
}
