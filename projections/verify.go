package projections

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pagestream/pagestream/projections/store"
)

// ErrNoRow is returned when a replay never made such a row.
var ErrNoRow = errors.New("no event has made such a row")

// maxTrace bounds the events that are named for a row: the first and the last so
// many.
const maxTrace = 100

// Verified is what a verification came to.
type Verified struct {
	Name string `json:"name"`
	// Seq is the event that both are as of.
	Seq   uint64        `json:"seq"`
	Took  time.Duration `json:"took_ns"`
	Equal bool          `json:"equal"`
	// Live is the digest of the live read model, Digest that of the replay.
	Live   string `json:"live"`
	Digest string `json:"digest"`
	// Difference is the first row that differs, nil where none does.
	Difference *RowDifference `json:"difference,omitempty"`
}

// RowDifference is a row in which the live read model is not what its events
// make.
type RowDifference struct {
	Bucket string `json:"bucket"`
	// Key is in hex.
	Key string `json:"key"`
	// What is "missing", "extra" or "differs": in the live read model.
	What string `json:"what"`
	// Events are those that make the row in a replay.
	Events Trace `json:"events"`
}

// Trace is which events changed a row.
type Trace struct {
	// Count is how many there were; First and Last are at most a hundred of them
	// from either end, in order.
	Count int      `json:"count"`
	First []uint64 `json:"first"`
	Last  []uint64 `json:"last,omitempty"`
}

func (t *Trace) add(seq uint64) {
	t.Count++
	if len(t.First) < maxTrace {
		t.First = append(t.First, seq)
		return
	}
	if t.Last = append(t.Last, seq); len(t.Last) > maxTrace {
		t.Last = t.Last[1:]
	}
}

// Verify replays the stream into a file of its own and compares that with the
// live read model at the same event. Nothing is changed, and reads go on. It is
// an error only if it could not be done: see Verified.Equal.
func (r *Runner) Verify(ctx context.Context, progress func(Rebuilding)) (out Verified, err error) {
	if !r.rebuilds.TryLock() {
		return out, fmt.Errorf("verify %s: %w", r.Name(), ErrBuilding)
	}
	defer r.rebuilds.Unlock()
	b, err := r.newBuild(r.scratch(), "", progress)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.replay(ctx, false); err != nil {
		return out, fmt.Errorf("verify %s: %w", r.Name(), err)
	}
	b.phase(PhaseVerify)
	out.Name = r.Name()
	var diff *store.Difference
	err = b.beside(ctx, func(live *store.Tx, meta store.Meta) error {
		if meta.Seq < b.meta.Seq {
			return fmt.Errorf("verify %s: the live read model went back to event %d", r.Name(), meta.Seq)
		}
		if out.Live, err = store.Digest(live); err != nil {
			return fmt.Errorf("read the live file: %w", err)
		}
		return b.s.View(func(own *store.Tx) error {
			if out.Digest, err = store.Digest(own); err != nil {
				return err
			}
			out.Seq, out.Equal = meta.Seq, out.Live == out.Digest && meta == b.meta
			d, found, err := store.Diff(live, own)
			if found {
				diff = &d
			}
			return err
		})
	})
	if err == nil && diff != nil {
		out.Difference = &RowDifference{Bucket: diff.Bucket, Key: fmt.Sprintf("%x", diff.Key), What: "differs"}
		switch {
		case diff.A == nil:
			out.Difference.What = "missing"
		case diff.B == nil:
			out.Difference.What = "extra"
		}
		out.Difference.Events, err = r.explain(ctx, diff.Bucket, diff.Key, out.Seq, progress)
		if errors.Is(err, ErrNoRow) {
			err = nil
		}
	}
	out.Took = time.Since(b.at.Started)
	return out, err
}

// Explain replays the stream up to where the read model is and says which events
// changed a row. It fails with [ErrNoRow] where none did.
func (r *Runner) Explain(ctx context.Context, bucket string, key []byte, progress func(Rebuilding)) (Trace, error) {
	if !r.rebuilds.TryLock() {
		return Trace{}, fmt.Errorf("explain a row of %s: %w", r.Name(), ErrBuilding)
	}
	defer r.rebuilds.Unlock()
	return r.explain(ctx, bucket, key, r.Status().Seq, progress)
}

func (r *Runner) explain(ctx context.Context, bucket string, key []byte, upto uint64, progress func(Rebuilding)) (t Trace, err error) {
	b, err := r.newBuild(r.scratch()+"2", "", progress)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	var value []byte
	b.a.applied = func(tx *store.Tx, seq uint64) {
		now := tx.Bucket(bucket).Get(key)
		if (now == nil) != (value == nil) || !bytes.Equal(now, value) {
			value = now
			t.add(seq)
		}
	}
	b.at.Target = upto
	if err := b.until(ctx, upto); err != nil {
		return t, fmt.Errorf("explain a row of %s: %w", r.Name(), err)
	}
	if t.Count == 0 {
		return t, fmt.Errorf("explain a row of %s: %w", r.Name(), ErrNoRow)
	}
	return t, nil
}

func (r *Runner) scratch() string { return r.path + ".scratch" }
