package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/embedded"
)

// fillers is the number of concurrent calls with a thousand events each: while one is
// stored, the next is generated.
const fillers = 3

// pastWindow returns a dedup window that is short enough for filled events to leave it
// soon, so that JetStream does not keep their ids in memory.
func (r *run) pastWindow() time.Duration {
	return min(max(3*r.opts.Cell, 200*time.Millisecond), 5*time.Second)
}

// fill stores events in the stream of a program that is not running, until the
// stream has upto events.
func (r *run) fill(ctx context.Context, dir string, ids *traffic, upto uint64) error {
	return r.offline(ctx, dir, func(s *server) error { return s.fillTo(ctx, ids, upto) })
}

// offline calls f with the stream of a program that is not running.
func (r *run) offline(ctx context.Context, dir string, f func(*server) error) error {
	streams := filepath.Join(r.opts.Dir, dir, r.opts.Streams)
	if r.opts.Prepare != nil {
		if err := r.opts.Prepare(filepath.Dir(streams)); err != nil {
			return err
		}
	}
	return withServer(ctx, streams, embedded.SyncInterval, r.pastWindow(), f)
}

// foldBatch is the number of events per transaction of prepare.
const foldBatch = 8192

// prepare applies the stream to the read models of a program that is not running. It
// reads each event only once for all of them and syncs once, at the end; otherwise a run
// would spend most of its time here. A test compares the files with those of a
// rebuild.
func (r *run) prepare(ctx context.Context, dir string, s *server) (err error) {
	head, err := streams.Last(ctx, s.js, streams.Name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute+time.Duration(head)*time.Second/catchUpRate)
	defer cancel()
	var folds []*fold
	defer func() {
		for _, f := range folds { // otherwise the first sync that is measured would write all of it
			err = errors.Join(err, f.store.Sync(), f.store.Close())
		}
	}()
	from := head
	for _, p := range models() {
		f, err := newFold(p, filepath.Join(r.opts.Dir, dir, r.opts.Models, p.Name()+".db"), s.identity)
		if err != nil {
			return fmt.Errorf("prepare read models: %w", err)
		}
		folds = append(folds, f)
		from = min(from, f.meta.Seq)
	}
	var events []streams.Stored
	flush := func() error {
		var g errgroup.Group
		for _, f := range folds {
			g.Go(func() error { return f.apply(events) })
		}
		err := g.Wait()
		events = events[:0]
		return err
	}
	_, err = streams.Replay(ctx, s.js, streams.ReadOptions{From: from + 1, To: head},
		func(list []streams.Replayed) error {
			for _, e := range list {
				if e.Malformed != nil {
					return fmt.Errorf("event %d: %w", e.Seq, e.Malformed)
				}
				events = append(events, e.Stored)
			}
			if len(events) < foldBatch {
				return nil
			}
			return flush()
		})
	if err == nil {
		err = flush()
	}
	if err != nil {
		return fmt.Errorf("prepare read models: %w", err)
	}
	return nil
}

// fold is a read model that is being prepared.
type fold struct {
	projection projections.Projection
	store      *store.Store
	meta       store.Meta
}

func newFold(p projections.Projection, file string, identity streams.Identity) (*fold, error) {
	s, err := store.Open(file, store.Options{NoSync: true})
	if err != nil {
		return nil, err
	}
	f := &fold{projection: p, store: s}
	err = s.View(func(tx *store.Tx) (err error) {
		f.meta, _, err = store.ReadMeta(tx)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	f.meta.Identity, f.meta.Version = string(identity), p.Version()
	return f, nil
}

// apply applies the events that the read model does not have yet.
func (f *fold) apply(events []streams.Stored) error {
	return f.store.Update(func(tx *store.Tx) error {
		for _, e := range events {
			if e.Seq <= f.meta.Seq {
				continue
			}
			if err := f.projection.Apply(tx, e); err != nil {
				return err
			}
			f.meta.Seq = e.Seq
		}
		return store.WriteMeta(tx, f.meta)
	})
}

// fillTo stores new events with the program's own publisher until the stream has upto
// events.
func (s *server) fillTo(ctx context.Context, ids *traffic, upto uint64) (err error) {
	last, err := streams.Last(ctx, s.js, streams.Name)
	if err != nil || last >= upto {
		return err
	}
	p, err := streams.NewPublisher(s.js, streams.PublisherOptions{QueueLimit: 2 * fillers * batch, Journal: s.journal})
	if err != nil {
		return fmt.Errorf("fill stream: %w", err)
	}
	defer func() { err = errors.Join(err, cleanUp(ctx, p.Close)) }()
	g, group := errgroup.WithContext(ctx)
	g.SetLimit(fillers)
	for ; last < upto && group.Err() == nil; last += batch {
		events := ids.events(int(min(upto-last, batch)))
		g.Go(func() error {
			limited, cancel := context.WithTimeout(group, requestTimeout)
			defer cancel()
			_, err := p.Publish(limited, events)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("fill stream: %w", err)
	}
	if err := s.journal.Flush(ctx); err != nil {
		return fmt.Errorf("fill stream: %w", err)
	}
	return ctx.Err()
}
