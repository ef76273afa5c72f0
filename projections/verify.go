package projections

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
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
	// Stream says what is wrong with the stream, if that is why they are not the same.
	Stream string `json:"stream,omitempty"`
	// Live is the digest of the live read model, Digest that of the replay.
	Live   string `json:"live"`
	Digest string `json:"digest"`
	// Difference is the first row that differs, nil if there is none.
	Difference *RowDifference `json:"difference,omitempty"`
	// Pages are those whose rows were compared, by [Runner.VerifyPages]; then there are no
	// digests. It is nil if all rows were. Events is the number of events that were replayed.
	Pages  []domain.PageID `json:"pages,omitempty"`
	Events uint64          `json:"events"`
}

// Paged is a projection of which the rows of a few pages can be compared with a replay of
// the events of these pages alone.
type Paged interface {
	Projection
	// PagedBuckets returns the buckets of which the rows depend on the events of one page
	// each: those whose keys begin with the page as store.Key writes it, and those of which
	// a replay shows the keys. Other buckets are not compared.
	PagedBuckets() (byPage, byKey []string)
}

// ErrNotPaged is returned when a projection is not [Paged].
var ErrNotPaged = errors.New("rows of this read model depend on the events of several pages")

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
	b, end, err := r.beginVerify(progress)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, end()) }()
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
	if err == nil && !out.Equal {
		if wrong := r.refused(true); wrong != nil {
			out.Stream = wrong.Error()
		}
	}
	if err == nil && diff != nil {
		out.Difference, err = r.difference(ctx, *diff, out.Seq, nil, progress)
	}
	out.Took, out.Events = time.Since(b.at.Started), b.read
	return out, err
}

// beginVerify begins a scratch file for a comparison with the live one. Until end is called no rebuild and no
// other verification runs.
func (r *Runner) beginVerify(progress func(Rebuilding)) (b *build, end func() error, err error) {
	if !r.rebuilds.TryLock() {
		return nil, nil, fmt.Errorf("verify %s: %w", r.Name(), ErrBuilding)
	}
	if err = r.progress.unreadable(false); err == nil {
		b, err = r.newBuild(r.scratch(), "", progress)
	}
	if err != nil {
		r.rebuilds.Unlock()
		return nil, nil, err
	}
	return b, func() error {
		defer r.rebuilds.Unlock()
		return b.close()
	}, nil
}

// difference describes a difference, with the events that made the row in a replay.
func (r *Runner) difference(
	ctx context.Context, diff store.Difference, upto uint64, pages []domain.PageID, progress func(Rebuilding),
) (d *RowDifference, err error) {
	d = &RowDifference{Bucket: diff.Bucket, Key: fmt.Sprintf("%x", diff.Key), What: "differs"}
	switch {
	case diff.A == nil:
		d.What = "missing"
	case diff.B == nil:
		d.What = "extra"
	}
	d.Events, err = r.explain(ctx, diff.Bucket, diff.Key, upto, pages, progress)
	if errors.Is(err, ErrNoRow) {
		err = nil
	}
	return d, err
}

// VerifyPages is [Runner.Verify] for the rows of a few pages, at most 100: it replays only
// the events of these pages. It fails with [ErrNotPaged] if the projection is not [Paged].
// If an erasure is stored meanwhile, the result may be a difference that is none; a second
// call then finds none.
func (r *Runner) VerifyPages(
	ctx context.Context, pages []domain.PageID, progress func(Rebuilding),
) (out Verified, err error) {
	p, ok := r.projection.(Paged)
	if !ok {
		return out, fmt.Errorf("verify pages of %s: %w", r.Name(), ErrNotPaged)
	}
	b, end, err := r.beginVerify(progress)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, end()) }()
	b.only(pages)
	b.at.Target = r.Status().Seq
	if err := b.until(ctx, b.at.Target); err != nil {
		return out, fmt.Errorf("verify pages of %s: %w", r.Name(), err)
	}
	b.phase(PhaseVerify)
	out.Name, out.Pages = r.Name(), pages
	var diff store.Difference
	var found bool
	err = b.atLivePosition(ctx, func(live *store.Tx, meta store.Meta) error {
		out.Seq = meta.Seq
		return b.s.View(func(replayed *store.Tx) error {
			byPage, byKey := p.PagedBuckets()
			diff, found = store.DiffParts(live, replayed, byPage, pageKeys(pages), byKey)
			return nil
		})
	})
	out.Equal = err == nil && !found
	if err == nil && found {
		out.Difference, err = r.difference(ctx, diff, out.Seq, pages, progress)
	}
	out.Took, out.Events = time.Since(b.at.Started), b.read
	return out, err
}

func pageKeys(pages []domain.PageID) (keys [][]byte) {
	for _, page := range pages {
		keys = append(keys, store.Key(page))
	}
	return keys
}

// only restricts the build to the events of a few pages.
func (b *build) only(pages []domain.PageID) {
	b.a.tombstones.pages = make(map[domain.PageID]bool, len(pages))
	for _, page := range pages {
		b.a.tombstones.pages[page] = true
		b.filters = append(b.filters, streams.Filter(page)...)
	}
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
	return r.explain(ctx, bucket, key, r.Status().Seq, nil, progress)
}

func (r *Runner) explain(
	ctx context.Context, bucket string, key []byte, upto uint64, pages []domain.PageID, progress func(Rebuilding),
) (t Trace, err error) {
	b, err := r.newBuild(r.scratch()+"2", "", progress)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if len(pages) > 0 {
		b.only(pages)
	}
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
