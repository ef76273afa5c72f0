package projections

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// Errors of [Runner.Rebuild].
var (
	// ErrBuilding is returned when this read model is being rebuilt, or replayed beside
	// the live one, already.
	ErrBuilding = errors.New("read model is being rebuilt or verified already")
	// ErrUnsound is returned when the new file does not hold what was written to it.
	ErrUnsound = errors.New("the new file does not read back as it was written")
)

const (
	// rebuildBatch is how many events go into one transaction of a rebuild, and
	// rebuildBytes how much raw data of them: the more, the more of them change the
	// same rows and pages. Two such batches are in memory.
	rebuildBatch = 32768
	rebuildBytes = 16 << 20
	// swapLag is how far behind the live read model the new one may be when it
	// takes its place: the live one waits for the rest.
	swapLag = 512
	// catchUps bounds how often a rebuild tries to come that close.
	catchUps = 100
)

// Phase is what a rebuild is doing.
type Phase string

// The phases of a rebuild, in order.
const (
	PhaseReplay  Phase = "replay"
	PhaseVerify  Phase = "verify"
	PhaseCatchUp Phase = "catch up"
)

// Rebuilding is how far a rebuild is.
type Rebuilding struct {
	Phase Phase `json:"phase"`
	// Seq is the last event in the new file, Target where the replay ends.
	Seq     uint64    `json:"seq"`
	Target  uint64    `json:"target"`
	Started time.Time `json:"started"`
	// Rate is events a second since the start, ETA how long the replay takes
	// from here at that rate.
	Rate float64       `json:"rate"`
	ETA  time.Duration `json:"eta_ns"`
	// Why is empty if somebody asked for it.
	Why string `json:"why,omitempty"`
}

// Rebuilt is what a rebuild came to.
type Rebuilt struct {
	Name string `json:"name"`
	// Seq is the event at which the new file took the live one's place.
	Seq  uint64        `json:"seq"`
	Took time.Duration `json:"took_ns"`
	Rate float64       `json:"rate"`
	// Digest is that of the new file at event VerifiedSeq, Was that of the live
	// one at the same event. Was is empty where they can't be compared: the live
	// one was of another version, or stood still behind the new one.
	VerifiedSeq uint64 `json:"verified_seq"`
	Digest      string `json:"digest"`
	Was         string `json:"was,omitempty"`
	// Equal says that both are the same. If they are not, the live one was wrong,
	// and it is replaced all the same: its file is kept.
	Equal bool `json:"equal"`
}

// Rebuild builds the read model once more in a file beside the live one, which is
// read and follows the stream meanwhile, and puts it in the live one's place.
// The old file is kept until the next rebuild.
//
// Progress, if not nil, is called now and then from this goroutine. Whatever
// ends it early, an error, the context, or the process being killed, leaves the
// live file as it is; the next start removes what was begun. It needs Run.
func (r *Runner) Rebuild(ctx context.Context, progress func(Rebuilding)) (Rebuilt, error) {
	if !r.rebuilds.TryLock() {
		return Rebuilt{}, fmt.Errorf("rebuild %s: %w", r.Name(), ErrBuilding)
	}
	defer r.rebuilds.Unlock()
	out, err := r.rebuild(ctx, "", progress)
	if err != nil {
		return out, fmt.Errorf("rebuild %s: %w", r.Name(), err)
	}
	return out, nil
}

func (r *Runner) building() string { return r.path + ".building" }
func (r *Runner) previous() string { return r.path + ".previous" }

// rebuild is Rebuild under the lock. Why is not empty where the live file is of
// another version: then there is no drive to take turns with.
func (r *Runner) rebuild(ctx context.Context, why string, progress func(Rebuilding)) (out Rebuilt, err error) {
	b, err := r.newBuild(r.building(), why, progress)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	frozen := why != ""
	if err := b.replay(ctx, frozen); err != nil {
		return out, err
	}
	out.Name, out.Rate = r.Name(), b.at.Rate
	b.phase(PhaseVerify)
	if err := b.verify(ctx, frozen, &out); err != nil {
		return out, err
	}
	b.phase(PhaseCatchUp)
	if frozen {
		err = b.take()
	} else {
		err = b.swap(ctx)
	}
	out.Seq, out.Took = b.meta.Seq, time.Since(b.at.Started)
	return out, err
}

// newBuild begins an empty file.
func (r *Runner) newBuild(path, why string, progress func(Rebuilding)) (*build, error) {
	if err := removeFile(path); err != nil {
		return nil, err
	}
	options := r.opts.Store
	options.NoSync = true
	s, err := store.Open(path, options)
	if err != nil {
		return nil, err
	}
	b := &build{
		r: r, a: r.applier(), s: s, path: path, tell: progress,
		at:   Rebuilding{Phase: PhaseReplay, Started: time.Now(), Why: why},
		meta: store.Meta{Identity: string(r.identity), Version: r.projection.Version()},
	}
	if err := s.Update(func(tx *store.Tx) error { return store.WriteMeta(tx, b.meta) }); err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

// close removes the file, unless it is the live one by now.
func (b *build) close() error {
	b.r.progress.rebuilding(nil)
	if b.s == nil {
		return nil
	}
	return errors.Join(b.s.Close(), removeFile(b.path))
}

// build is a file that is being built.
type build struct {
	r    *Runner
	path string
	a    *applier
	s    *store.Store // nil once it is the live one
	meta store.Meta
	at   Rebuilding
	tell func(Rebuilding)
	told time.Time
}

// tellEvery is how often progress is told.
const tellEvery = 200 * time.Millisecond

func (b *build) phase(p Phase) {
	b.at.Phase = p
	b.report(true)
}

func (b *build) report(always bool) {
	now := time.Now()
	if !always && now.Sub(b.told) < tellEvery {
		return
	}
	b.told, b.at.Seq = now, b.meta.Seq
	if took := now.Sub(b.at.Started); took > 0 && b.at.Phase == PhaseReplay {
		b.at.Rate = float64(b.meta.Seq) / took.Seconds()
		b.at.ETA = 0
		if b.at.Rate > 0 && b.at.Target > b.meta.Seq {
			b.at.ETA = time.Duration(float64(b.at.Target-b.meta.Seq) / b.at.Rate * float64(time.Second))
		}
	}
	at := b.at
	b.r.progress.rebuilding(&at)
	if b.tell != nil {
		b.tell(at)
	}
}

// replay builds up to where the live read model is, or to the stream's head if
// there is none to compare with.
func (b *build) replay(ctx context.Context, frozen bool) error {
	for range catchUps {
		target := b.r.Status().Seq
		if frozen {
			info, err := b.r.look(ctx)
			if err != nil {
				return err
			}
			target = info.State.LastSeq
		}
		if target <= b.meta.Seq+swapLag && (b.meta.Seq > 0 || target == 0) {
			break
		}
		b.at.Target = target
		b.report(true)
		if err := b.until(ctx, target); err != nil {
			return err
		}
	}
	b.report(true)
	return b.s.Sync()
}

// until applies the events up to a sequence. While one batch is committed the
// next one gathers.
func (b *build) until(ctx context.Context, target uint64) error {
	if target <= b.meta.Seq {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	batches, from := make(chan []*streams.Replayed), b.meta.Seq+1
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel()
	var failed error // of reading; set before batches is closed
	reading.Go(func() {
		defer close(batches)
		failed = b.gather(ctx, from, target, batches)
	})
	for batch := range batches {
		if err := b.a.apply(ctx, b.write, b.meta.Seq, batch); err != nil {
			return err
		}
		b.report(false)
		if err := ctx.Err(); err != nil { // reading may have ended before
			return err
		}
	}
	return failed
}

// write is the applier's way to the new file, which nobody else writes to.
func (b *build) write(_ context.Context, do func(*store.Store) (store.Meta, error)) error {
	meta, err := do(b.s)
	if err == nil {
		b.meta = meta
	}
	return err
}

// gather reads events and hands them over in batches.
func (b *build) gather(ctx context.Context, from, to uint64, batches chan<- []*streams.Replayed) error {
	var batch []*streams.Replayed
	size := 0
	hand := func() error {
		select {
		case batches <- batch:
			batch, size = nil, 0
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	_, err := streams.Replay(ctx, b.r.opts.JS, streams.ReadOptions{Stream: b.r.opts.Stream, From: from, To: to}, func(list []streams.Replayed) error {
		for i := range list {
			batch = append(batch, &list[i])
			size += len(list[i].Data.Raw)
		}
		if len(batch) < rebuildBatch && size < rebuildBytes {
			return nil
		}
		return hand()
	})
	if err != nil || len(batch) == 0 {
		return err
	}
	return hand()
}

// verify compares the new file with the live one at one event, and with itself
// as it was written.
func (b *build) verify(ctx context.Context, frozen bool, out *Rebuilt) (err error) {
	if frozen {
		out.VerifiedSeq, out.Digest, err = b.own()
		return err
	}
	return b.beside(ctx, func(tx *store.Tx, live store.Meta) error {
		if out.VerifiedSeq, out.Digest, err = b.own(); err != nil {
			return err
		}
		if live.Seq != b.meta.Seq {
			return nil // the live one stands still, further back
		}
		if out.Was, err = store.Digest(tx); err != nil {
			return fmt.Errorf("read the live file: %w", err)
		}
		out.Equal = out.Was == out.Digest && live == b.meta
		return nil
	})
}

// own reads the new file back.
func (b *build) own() (seq uint64, digest string, err error) {
	digest, meta, err := digestOf(b.s)
	if err == nil && meta != b.meta {
		err = fmt.Errorf("%w: it is at event %d, not %d", ErrUnsound, meta.Seq, b.meta.Seq)
	}
	return meta.Seq, digest, err
}

// beside calls f with one view of the live file, which does not change while the
// new one comes to the same event.
func (b *build) beside(ctx context.Context, f func(tx *store.Tx, live store.Meta) error) error {
	return b.r.View(func(tx *store.Tx) error {
		live, _, err := store.ReadMeta(tx)
		if err != nil {
			return err
		}
		if err := b.until(ctx, live.Seq); err != nil {
			return err
		}
		if err := b.decide(ctx, live.Decision); err != nil {
			return err
		}
		return f(tx, live)
	})
}

// decide carries out what the live read model has, up to a decision.
func (b *build) decide(ctx context.Context, upto uint64) error {
	meta, changed, err := b.a.decide(ctx, b.s, b.meta, b.meta.Seq+1, upto)
	if changed {
		b.meta = meta
	}
	return err
}

// swap comes close to the live read model and then takes its place between two
// of its transactions.
func (b *build) swap(ctx context.Context) error {
	for range catchUps {
		live := b.r.Status().Seq
		if live <= b.meta.Seq+swapLag {
			break
		}
		if err := b.until(ctx, live); err != nil {
			return err
		}
	}
	// What NoSync left is written now, while nobody waits.
	if err := b.s.Sync(); err != nil {
		return err
	}
	return b.r.turn(ctx, func(live *store.Store) error {
		meta, err := metaOf(live)
		if err != nil {
			return err
		}
		if err := b.until(ctx, meta.Seq); err != nil {
			return err
		}
		if err := b.decide(ctx, b.r.decided.last()); err != nil {
			return err
		}
		return b.take()
	})
}

// take makes the new file the live one. There is one moment at which it happens,
// the renaming: before it a crash leaves the old file, after it the new one.
func (b *build) take() error {
	r := b.r
	if !r.opts.Store.NoSync {
		if err := b.s.Durable(); err != nil {
			return err
		}
	}
	if err := removeFile(r.previous()); err != nil {
		return err
	}
	if err := os.Link(r.path, r.previous()); err != nil {
		return fmt.Errorf("keep the old read model: %w", err)
	}
	if err := b.s.Rename(r.path); err != nil {
		return err
	}
	old := r.store.Swap(b.s)
	b.s = nil
	r.progress.swapped(b.meta)
	return old.Close()
}

// digestOf reads a file's digest and position in one view.
func digestOf(v Viewer) (digest string, meta store.Meta, err error) {
	err = v.View(func(tx *store.Tx) error {
		if meta, _, err = store.ReadMeta(tx); err != nil {
			return err
		}
		digest, err = store.Digest(tx)
		return err
	})
	return digest, meta, err
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove old file: %w", err)
	}
	return nil
}
