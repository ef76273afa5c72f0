package projections

import (
	"context"
	"errors"
	"time"

	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// checkEvery is how often a file is read whole because of panics.
const checkEvery = time.Minute

// committer is the one writer: it takes what has come, in order, and commits
// it at once.
func (r *Runner) committer(ctx context.Context, in <-chan *parcel, end context.CancelCauseFunc) {
	o, a := newOrder(), r.applier()
	var last, checked time.Time
	a.giveUp = func(failed *applyError) error {
		// A corrupt page makes a projection panic too. To look takes reading it all.
		if now := time.Now(); failed.panicked && now.Sub(checked) > checkEvery {
			checked = now
			r.check(end)
		}
		if ctx.Err() == nil {
			r.opts.Logger.Error("event parked as a dead letter", "projection", r.Name(), "seq", failed.seq, "err", failed.err)
		}
		return ctx.Err()
	}
	for {
		select {
		case p := <-in:
			o.add(p)
		case sw := <-r.swaps:
			sw.done <- sw.do(ctx)
		case <-r.verify:
			r.check(end)
		case <-ctx.Done():
			return
		}
		for ctx.Err() == nil {
			r.gather(ctx, o, in, time.Until(last.Add(r.opts.Pace)))
			last = time.Now()
			batch := o.take(r.opts.MaxBatch)
			if len(batch) == 0 {
				break
			}
			r.commit(ctx, a, o, batch, end)
			select { // between two batches, also where there is always one more
			case sw := <-r.swaps:
				sw.done <- sw.do(ctx)
			case <-r.verify:
				r.check(end)
			default:
			}
		}
	}
}

// gather takes in what comes within the pause, up to a full batch, and then
// whatever else is there already.
func (r *Runner) gather(ctx context.Context, o *order, in <-chan *parcel, pause time.Duration) {
	if pause > 0 {
		t := time.NewTimer(pause)
		defer t.Stop()
		for waiting := true; waiting && o.events < r.opts.MaxBatch; {
			select {
			case p := <-in:
				o.add(p)
			case <-t.C:
				waiting = false
			case <-ctx.Done():
				return
			}
		}
	}
	for {
		select {
		case p := <-in:
			o.add(p)
		default:
			return
		}
	}
}

// commit applies a batch in one transaction and answers its messages. What
// comes before an event that fails is committed without it.
func (r *Runner) commit(ctx context.Context, a *applier, o *order, batch []*parcel, end context.CancelCauseFunc) {
	var events []*streams.Replayed
	for _, p := range batch {
		events = append(events, p.events...)
	}
	events, err := a.fill(ctx, r.Status().Seq, events)
	if err == nil {
		err = r.apply(ctx, a, events)
	}
	at := r.Status().Seq
	for len(batch) > 0 && (err == nil || batch[0].last() <= at) {
		batch[0].resolve(nil)
		batch = batch[1:]
	}
	if err == nil {
		return
	}
	var failed *applyError
	errors.As(err, &failed)
	if ctx.Err() == nil {
		var seq uint64
		if failed != nil {
			seq = failed.seq
		}
		if r.progress.failing(seq, err) { // once, not at each try
			r.opts.Logger.Error("projection fails and tries again", "projection", r.Name(), "err", err)
			if errors.Is(err, store.ErrCorrupt) || failed != nil && failed.panicked {
				r.check(end)
			}
		}
	}
	o.breakOff()
	if len(batch) > 0 {
		batch[0].resolve(err)
		resolve(batch[1:], errRedrive)
	}
}

func resolve(batch []*parcel, err error) {
	for _, p := range batch {
		p.resolve(err)
	}
}

// apply applies events to the live file.
func (r *Runner) apply(ctx context.Context, a *applier, events []*streams.Replayed) error {
	before := r.Status().Seq
	meta, _, err := a.apply(ctx, r.store.Load(), events)
	if meta.Seq > before {
		r.progress.committed(meta)
	}
	return err
}

// applier returns what applies events to a file of this projection.
func (r *Runner) applier() *applier {
	return &applier{
		projection: r.projection, dedup: r.opts.Dedup, husks: &husks{js: r.opts.JS, stream: r.opts.Stream},
		attempts: max(0, r.opts.Attempts), decided: &r.decided,
	}
}

// resume carries out what was decided before the process was cut off.
func (r *Runner) resume(ctx context.Context, a *applier) error {
	meta, err := metaOf(r)
	if err != nil {
		return err
	}
	meta, changed, err := a.decide(ctx, r.store.Load(), meta, meta.Seq+1, r.decided.last())
	if changed {
		r.progress.committed(meta)
	}
	return err
}

// check ends the drive if the file is corrupt.
func (r *Runner) check(end context.CancelCauseFunc) {
	if err := r.store.Load().Verify(); errors.Is(err, store.ErrCorrupt) {
		r.opts.Logger.Error("read model is corrupt; building it anew", "projection", r.Name(), "err", err)
		end(errCorrupt)
	}
}
