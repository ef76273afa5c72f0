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
	// ErrBuilding is returned when a rebuild, verification or explanation of this read
	// model is running already.
	ErrBuilding = errors.New("read model is being rebuilt or verified already")
	// ErrUnsound is returned when the new file does not have the position that was
	// written to it.
	ErrUnsound = errors.New("the new file does not read back as it was written")
)

const (
	// rebuildBatch is the number of events in one transaction of a rebuild, and
	// rebuildBytes the size of their raw data: a larger transaction writes rows and
	// pages that several events change only once. Two such batches are in memory.
	rebuildBatch = 32768
	rebuildBytes = 16 << 20
	// swapLag is how many events the new read model may be behind the live one when
	// it replaces it: the live one waits until these are applied.
	swapLag = 512
	// catchUps is how often a rebuild tries to come that close.
	catchUps = 100
)

// Phase is a phase of a rebuild.
type Phase string

// The phases of a rebuild, in order.
const (
	PhaseReplay  Phase = "replay"
	PhaseVerify  Phase = "verify"
	PhaseCatchUp Phase = "catch up"
)

// Rebuilding is the progress of a rebuild.
type Rebuilding struct {
	Phase Phase `json:"phase"`
	// Seq is the last event in the new file, Target the last event of the replay.
	Seq     uint64    `json:"seq"`
	Target  uint64    `json:"target"`
	Started time.Time `json:"started"`
	// Rate is the number of events per second since the start, ETA the remaining
	// time of the replay at that rate.
	Rate float64       `json:"rate"`
	ETA  time.Duration `json:"eta_ns"`
	// Why is the reason for the rebuild, empty if it was requested.
	Why string `json:"why,omitempty"`
}

// Rebuilt is the result of a rebuild.
type Rebuilt struct {
	Name string `json:"name"`
	// Seq is the position at which the new file replaced the live one.
	Seq  uint64        `json:"seq"`
	Took time.Duration `json:"took_ns"`
	Rate float64       `json:"rate"`
	// Digest is the digest of the new file at event VerifiedSeq, Was that of the live
	// file at the same event. Was is empty if they can't be compared: the live file
	// was of another version, or did not reach the position of the new one.
	VerifiedSeq uint64 `json:"verified_seq"`
	Digest      string `json:"digest"`
	Was         string `json:"was,omitempty"`
	// Equal reports whether both are the same. If they are not, the live file was
	// wrong; it is replaced nevertheless, and kept as the previous one.
	Equal bool `json:"equal"`
}

// Rebuild builds the read model again in a second file and then replaces the live
// file by it. The live file serves reads and follows the stream meanwhile. The old
// file is kept until the next rebuild or erasure.
//
// The function progress, if not nil, is called from this goroutine at each change of
// the phase, and within a phase at most every 200 ms. If the rebuild ends early, because of an error, the
// context, or a killed process, the live file remains as it is; the next start
// removes an incomplete file. Rebuild works only while Run is running. It fails with
// [ErrBuilding] if a rebuild or verification is running already, with [ErrUnsound] if
// the new file can't be read back, and with the error of RunnerOptions.Refuse.
func (r *Runner) Rebuild(ctx context.Context, progress func(Rebuilding)) (Rebuilt, error) {
	if !r.rebuilds.TryLock() {
		return Rebuilt{}, fmt.Errorf("rebuild %s: %w", r.Name(), ErrBuilding)
	}
	defer r.rebuilds.Unlock()
	if err := r.progress.unreadable(false); err != nil {
		return Rebuilt{}, err
	}
	var out Rebuilt
	err := r.refused(false)
	if err == nil {
		out, err = r.rebuild(ctx, "", progress)
	}
	if err != nil {
		return out, fmt.Errorf("rebuild %s: %w", r.Name(), err)
	}
	return out, nil
}

func (r *Runner) building() string { return r.path + ".building" }
func (r *Runner) previous() string { return r.path + ".previous" }

// rebuild is Rebuild for a caller that holds the lock. The reason why is not empty if
// the live file is of another version or stream: in that case there is no drive, and the
// live file is not updated meanwhile.
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
	if !frozen && !out.Equal {
		if err := r.refused(true); err != nil {
			return out, err
		}
	}
	b.phase(PhaseCatchUp)
	if frozen {
		err = b.replaceLive(ctx)
	} else {
		err = b.swap(ctx)
	}
	out.Seq, out.Took = b.meta.Seq, time.Since(b.at.Started)
	return out, err
}

// newBuild creates an empty file.
func (r *Runner) newBuild(path, why string, progress func(Rebuilding)) (*build, error) {
	if err := removeFile(path); err != nil {
		return nil, err
	}
	options := r.opts.Store
	options.NoSync, options.Memory = true, 0 // a batch of a rebuild is as large as the table would be
	s, err := store.Open(path, options)
	if err != nil {
		return nil, err
	}
	b := &build{
		r: r, a: r.applier(), s: s, path: path, notify: progress,
		at:   Rebuilding{Phase: PhaseReplay, Started: time.Now(), Why: why},
		meta: store.Meta{Identity: string(r.stream.Load().identity), Version: r.projection.Version()},
	}
	if err := s.Update(func(tx *store.Tx) error { return store.WriteMeta(tx, b.meta) }); err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

// close removes the file, unless it has become the live one.
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
	// filters select the events by subject; nil selects all. read counts them.
	filters []string
	read    uint64

	notify   func(Rebuilding)
	notified time.Time
}

// notifyEvery is the minimum time between two reports of progress in one phase.
const notifyEvery = 200 * time.Millisecond

// phase begins a phase and reports it.
func (b *build) phase(p Phase) {
	b.at.Phase = p
	b.report(true)
}

// report updates the progress and reports it, always or if the last report is long
// enough ago.
func (b *build) report(always bool) {
	now := time.Now()
	if !always && now.Sub(b.notified) < notifyEvery {
		return
	}
	b.notified, b.at.Seq = now, b.meta.Seq
	if b.at.Phase == PhaseReplay {
		b.at.estimate(now, 0)
	}
	at := b.at
	b.r.progress.rebuilding(&at)
	if b.notify != nil {
		b.notify(at)
	}
}

// estimate sets the rate and the remaining time of a replay that began after the event from.
func (at *Rebuilding) estimate(now time.Time, from uint64) {
	took := now.Sub(at.Started)
	if took <= 0 {
		return
	}
	at.Rate, at.ETA = float64(at.Seq-from)/took.Seconds(), 0
	if at.Rate > 0 && at.Target > at.Seq {
		at.ETA = time.Duration(float64(at.Target-at.Seq) / at.Rate * float64(time.Second))
	}
}

// replay applies the events up to the position of the live read model, or up to the
// end of the stream if the live read model is of another version or stream (frozen).
func (b *build) replay(ctx context.Context, frozen bool) error {
	for range catchUps {
		target := b.r.Status().Seq
		if frozen {
			info, err := b.r.streamInfo(ctx)
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

// until applies the events up to a sequence. The next batch is read while one is
// committed.
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

// write is the [writeFunc] of the new file, which nothing else writes to.
func (b *build) write(_ context.Context, do func(*store.Store) (store.Meta, error)) error {
	meta, err := do(b.s)
	if err == nil {
		b.meta = meta
	}
	return err
}

// gather reads events and sends them in batches.
func (b *build) gather(ctx context.Context, from, to uint64, batches chan<- []*streams.Replayed) error {
	var batch []*streams.Replayed
	size := 0
	send := func() error {
		select {
		case batches <- batch:
			batch, size = nil, 0
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	options := streams.ReadOptions{Stream: b.r.opts.Stream, From: from, To: to, Filters: b.filters}
	_, err := streams.ReplayShared(ctx, b.r.opts.JS, b.r.opts.Tail, options, func(list []*streams.Replayed) error {
		for _, e := range list {
			size += len(e.Data.Raw)
		}
		batch = append(batch, list...)
		b.read += uint64(len(list))
		if len(batch) < rebuildBatch && size < rebuildBytes {
			return nil
		}
		return send()
	})
	if err != nil || len(batch) == 0 {
		return err
	}
	return send()
}

// verify reads the new file back, and compares it with the live one at the same
// position.
func (b *build) verify(ctx context.Context, frozen bool, out *Rebuilt) (err error) {
	if frozen {
		out.VerifiedSeq, out.Digest, err = b.readBack()
		return err
	}
	return b.atLivePosition(ctx, func(tx *store.Tx, live store.Meta) error {
		if out.VerifiedSeq, out.Digest, err = b.readBack(); err != nil {
			return err
		}
		if live.Seq != b.meta.Seq {
			return nil // the live file is behind and does not advance
		}
		if out.Was, err = store.Digest(tx); err != nil {
			return fmt.Errorf("read the live file: %w", err)
		}
		out.Equal = out.Was == out.Digest && live == b.meta
		return nil
	})
}

// readBack returns the position and the digest of the new file. It fails with
// [ErrUnsound] if the position is not the one that was written.
func (b *build) readBack() (seq uint64, digest string, err error) {
	digest, meta, err := digestOf(b.s)
	if err == nil && meta != b.meta {
		err = fmt.Errorf("%w: it is at event %d, not %d", ErrUnsound, meta.Seq, b.meta.Seq)
	}
	return meta.Seq, digest, err
}

// ErrBegun is returned by a rebuild or a verification when the live read model can't be compared, because a large event
// is applied to it in parts.
var ErrBegun = errors.New("an event is not completely applied yet")

// atLivePosition opens one View of the live file, applies events to the new file up
// to the position in that View, and calls f with it. [ErrBegun] is returned if only a part of the next event is in it.
func (b *build) atLivePosition(ctx context.Context, f func(tx *store.Tx, live store.Meta) error) error {
	return b.r.View(func(tx *store.Tx) error {
		live, _, err := store.ReadMeta(tx)
		if err != nil {
			return err
		}
		if live.Begun > live.Seq {
			return fmt.Errorf("%w: event %d; try again when it is", ErrBegun, live.Begun)
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

// decide carries out the decisions with sequences up to upto.
func (b *build) decide(ctx context.Context, upto uint64) error {
	meta, changed, err := b.a.decide(ctx, b.s, b.meta, b.meta.Seq+1, upto)
	if changed {
		b.meta = meta
	}
	return err
}

// swap applies events until the new file is close to the live one, and then replaces
// it between two of its transactions.
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
	// The data that NoSync did not sync is written now, while the live file does not wait.
	if err := b.s.Sync(); err != nil {
		return err
	}
	return b.r.exclusive(ctx, func(live *store.Store) error {
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
		return b.replaceLive(ctx)
	})
}

// replaceLive makes the new file the live one. The rename is atomic: after a crash
// before it there is the old file, after a crash later on the new one.
func (b *build) replaceLive(ctx context.Context) error {
	r := b.r
	// Events may have been erased since the new file was begun.
	if err := b.s.Scrub(ctx); err != nil {
		return err
	}
	if !r.opts.Store.NoSync {
		if err := b.s.Durable(); err != nil {
			return err
		}
	}
	if err := removeFile(r.previous()); err != nil {
		return err
	}
	if err := os.Link(r.path, r.previous()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("keep the old read model: %w", err)
	}
	if err := b.s.Rename(r.path); err != nil {
		return err
	}
	b.s.KeepInMemory(r.opts.Store.Memory)
	old := r.store.Swap(b.s)
	b.s = nil
	r.progress.swapped(b.meta)
	if err := old.Close(); err != nil { // the new one is live
		r.opts.Logger.Warn("old read model was not closed", "projection", r.Name(), "err", err)
	}
	return nil
}

// digestOf returns the digest and the position of a read model, both of one View.
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

// removeFile removes a file if it exists.
func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove old file: %w", err)
	}
	return nil
}
