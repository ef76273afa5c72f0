package projections

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pagestream/pagestream/projections/store"
)

// ErrNoRow is returned when no event of a replay created or changed the row.
var ErrNoRow = errors.New("no event has created or changed this row")

// maxTrace is the maximum number of the first events, and of the last events, in a
// [Trace].
const maxTrace = 100

// Verified is the result of a verification.
type Verified struct {
	Name string `json:"name"`
	// Seq is the position of both read models.
	Seq  uint64        `json:"seq"`
	Took time.Duration `json:"took_ns"`
	// Equal reports whether both are the same.
	Equal bool `json:"equal"`
	// Live is the digest of the live read model, Digest that of the replay.
	Live   string `json:"live"`
	Digest string `json:"digest"`
	// Difference is the first row that differs, nil if there is none.
	Difference *RowDifference `json:"difference,omitempty"`
}

// RowDifference is a row that differs between the live read model and a replay.
type RowDifference struct {
	Bucket string `json:"bucket"`
	// Key is the key of the row in hex.
	Key string `json:"key"`
	// What is "missing", "extra" or "differs", as seen from the live read model.
	What string `json:"what"`
	// Events are the events that change the row in a replay.
	Events Trace `json:"events"`
}

// Trace lists the events that changed a row.
type Trace struct {
	// Count is the number of all of them. First has the sequences of the first 100,
	// Last those of the last 100 of the rest, both in order.
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

// Verify replays the stream into a scratch file and compares that with the live read
// model at the same position. It changes nothing, and the read model can be read
// meanwhile. A difference is not an error: see Verified.Equal. The function progress,
// if not nil, is called as by [Runner.Rebuild]. Verify fails with [ErrBuilding] if a
// rebuild or verification is running already.
func (r *Runner) Verify(ctx context.Context, progress func(Rebuilding)) (out Verified, err error) {
	if !r.rebuilds.TryLock() {
		return out, fmt.Errorf("verify %s: %w", r.Name(), ErrBuilding)
	}
	defer r.rebuilds.Unlock()
	if err := r.progress.unreadable(false); err != nil {
		return out, err
	}
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
	err = b.atLivePosition(ctx, func(live *store.Tx, meta store.Meta) error {
		if meta.Seq < b.meta.Seq {
			return fmt.Errorf("verify %s: the live read model went back to event %d", r.Name(), meta.Seq)
		}
		if out.Live, err = store.Digest(live); err != nil {
			return fmt.Errorf("read the live file: %w", err)
		}
		return b.s.View(func(replayed *store.Tx) error {
			if out.Digest, err = store.Digest(replayed); err != nil {
				return err
			}
			out.Seq, out.Equal = meta.Seq, out.Live == out.Digest && meta == b.meta
			d, found, err := store.Diff(live, replayed)
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

// Explain replays the stream up to the position of the read model and returns the
// events that changed a row. It fails with [ErrNoRow] if none did, and with
// [ErrBuilding] if a rebuild or verification is running already. The function
// progress, if not nil, is called as by [Runner.Rebuild].
func (r *Runner) Explain(ctx context.Context, bucket string, key []byte, progress func(Rebuilding)) (Trace, error) {
	if !r.rebuilds.TryLock() {
		return Trace{}, fmt.Errorf("explain a row of %s: %w", r.Name(), ErrBuilding)
	}
	defer r.rebuilds.Unlock()
	return r.explain(ctx, bucket, key, r.Status().Seq, progress)
}

func (r *Runner) explain(
	ctx context.Context, bucket string, key []byte, upto uint64, progress func(Rebuilding),
) (t Trace, err error) {
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
