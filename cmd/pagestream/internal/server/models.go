package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/ledgers"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/losses"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/ownership"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/comments"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/projections/subscriptions"
	"github.com/pagestream/pagestream/streams"
)

// projections returns all projections. The first one is the index of all ids.
func (p *Program) projections() []projections.Projection {
	return append([]projections.Projection{
		deliveries.New(), pages.New(), subscriptions.New(), conversations.New(), comments.New(),
	}, p.opts.Projections...)
}

// removeFormerModels removes the read models in the default directory if projections.dir is another one. They are not
// updated any more, so what is erased would stay in them.
func (p *Program) removeFormerModels(context.Context) error {
	unset := p.cfg
	unset.Projections.Dir = ""
	former := unset.ProjectionsDir()
	there, err := os.Stat(former)
	if err != nil {
		return nil //nolint:nilerr // there are none
	}
	if here, err := os.Stat(p.cfg.ProjectionsDir()); err == nil && os.SameFile(there, here) {
		return nil
	}
	for _, projection := range p.projections() {
		files, err := filepath.Glob(filepath.Join(former, projection.Name()+".db*"))
		for _, path := range files {
			err = errors.Join(err, os.Remove(path))
			p.log.Info("a read model that is not in projections.dir is removed", "file", path)
		}
		if err != nil {
			return fmt.Errorf("remove former read models: %w", err)
		}
	}
	return nil
}

// startModels opens every read model and starts them on the stream. The deliveries model is the
// first: it is the index of all ids, with which the others drop duplicates.
func (p *Program) startModels(ctx context.Context) (err error) {
	if err := p.ensureStream(ctx); err != nil {
		return err
	}
	if p.headAtStart, err = streams.Last(ctx, p.js, streams.Name); err != nil {
		return err
	}
	p.lost = losses.New(losses.Options{JS: p.js, Stream: streams.Name, Examine: p.examine, Logger: p.log})
	if _, err := p.lost.Check(ctx); err != nil && ctx.Err() == nil {
		p.log.Error("it is not known whether the stream has lost events", "err", err)
	}
	dir := p.cfg.ProjectionsDir()
	if err := projections.RemovePast(dir); err != nil {
		return err
	}
	if p.tail == nil { // there is no journal
		p.tail = streams.NewTail(p.js, streams.TailOptions{Stream: streams.Name, Logger: p.log})
		p.onClose("tail of the stream", func(context.Context) error { return p.tail.Close() })
	}
	p.rollback.tell(func(uint64) { p.tail.Forget() })
	var index projections.Index
	turns := make(chan struct{}, 1)
	var complete func(context.Context) error
	if p.journal != nil {
		complete = p.journal.Complete
	}
	rolledBack := p.rollback.to // it is the index that tells
	attempts := 0               // the index never parks: the id of a parked event would look new
	for _, projection := range p.projections() {
		r, err := projections.NewRunner(projection, projections.RunnerOptions{
			Dir: dir, JS: p.js, Stream: streams.Name, Identity: p.identity, Dedup: index,
			MaxBatch: p.cfg.Projections.MaxBatch, Attempts: attempts, Tail: p.tail, Logger: p.log,
			Turns: turns, RolledBack: rolledBack, Refuse: p.refuse, Renewed: p.renewed(projection.Name()),
			Complete: complete, Check: p.opts.CheckFile,
		})
		if err != nil {
			return fmt.Errorf("open projection %s: %w", projection.Name(), err)
		}
		p.onClose("projection "+projection.Name(), func(context.Context) error { return r.Close() })
		p.models = append(p.models, r)
		if index == nil {
			index, attempts, rolledBack = deliveries.Index{Runner: r}, projections.DefaultAttempts, nil
		}
	}
	run, stop := context.WithCancel(context.Background())
	// One step stops all of them, before any of their files is closed.
	p.onClose("projections", func(context.Context) error { stop(); return nil })
	for _, r := range p.models {
		p.background.Go(func() {
			if err := r.Run(run); err != nil && run.Err() == nil {
				p.fail(fmt.Errorf("projection %s: %w", r.Name(), err))
			}
		})
	}
	p.ledger, err = deliveries.OpenLedger(filepath.Join(dir, "ledger.db"))
	if err != nil {
		return fmt.Errorf("open ledger: %w", err)
	}
	if moved := p.ledger.Moved(); moved != "" {
		p.log.Error("the counts of the webhook endpoint were damaged and begin again", "moved", moved)
	}
	p.onClose("ledger", func(context.Context) error { return p.ledger.Close() })
	return nil
}

// refuse returns why no read model may be replaced by one that is built from the stream as it is now. It is
// projections.RunnerOptions.Refuse.
func (p *Program) refuse(differs bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), tryTimeout)
	defer cancel()
	info, err := streams.Info(ctx, p.js, streams.Name)
	if err == nil {
		err = streams.CheckRestoring(info, "")
	}
	if err != nil {
		return err
	}
	return p.lost.Refuse(differs)
}

// publishLedger begins to publish the counts of the webhook endpoint to the other nodes, if there can be any.
func (p *Program) publishLedger(ctx context.Context) error {
	if p.server != nil {
		return nil
	}
	err := p.await(ctx, "the bucket of ledgers", func(ctx context.Context) (err error) {
		p.others, err = ledgers.Open(ctx, ledgers.Options{
			JS: p.js, Ledger: p.ledger, Replicas: p.cfg.NATS.Replicas, Logger: p.log.With("part", "ledgers"),
		})
		return err
	})
	if err != nil {
		return err
	}
	run, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { p.others.Run(run) })
	p.onClose("published counts", func(context.Context) error {
		stop()
		running.Wait()
		return nil
	})
	return nil
}

// personal returns the read models whose files may have data of persons: all but the index of ids,
// which has only hashes.
func (p *Program) personal() (out []*projections.Runner) {
	for _, m := range p.models {
		if m.Name() != deliveries.Name {
			out = append(out, m)
		}
	}
	return out
}

// startPublisher starts the committer and opens the parking of dead letters.
func (p *Program) startPublisher(context.Context) (err error) {
	p.metrics = newMetrics()
	var judge streams.Judge
	if len(p.cfg.Apps) > 1 { // a single app has nobody to be told apart from
		apps := make(map[string]string, len(p.cfg.Apps))
		for _, a := range p.cfg.Apps {
			apps[a.Name] = a.ID
		}
		judge = ownership.New(ownership.Options{Apps: apps, Pages: p.models.Pages()})
	}
	p.publisher, err = streams.NewPublisher(p.js, streams.PublisherOptions{
		Judge: judge, Journal: p.journal, Shared: p.cfg.NATS.URL != "",
		Stream: streams.Name, Seen: deliveries.Index{Runner: p.models.Deliveries()}, Current: p.indexCurrent,
		Window:         p.cfg.Streams.Window,
		BatchThreshold: p.cfg.Streams.BatchThreshold, MaxBatch: p.cfg.Streams.MaxBatch,
		QueueLimit: p.cfg.Streams.QueueLimit,
		Observe:    func(o streams.BatchObservation) { p.metrics.published(o); p.health.published(o) },
		Logger:     p.log.With("part", "publisher"),
	})
	if err != nil {
		return fmt.Errorf("start publisher: %w", err)
	}
	p.rollback.tell(p.publisher.Forget)
	p.onClose("publisher", p.publisher.Close)
	p.parking = streams.NewParking(p.js, streams.Name)
	return nil
}

// renewed returns a function that puts on record that the process builds a read model again by itself.
func (p *Program) renewed(name string) func(why string, out *projections.Rebuilt) {
	return func(why string, out *projections.Rebuilt) {
		result, good := "The file is damaged. It was moved aside and is built again; it is not read meanwhile.", false
		if out != nil {
			result, good = operate.RebuiltText(*out)
		}
		p.history.NoteResult("projections_rebuild", map[string]string{"projection": name, "why": why}, result, good)
	}
}

// ReleaseMemory gives back to the system the memory that the program does not need now. It takes some milliseconds of
// processor time. It must not be called before Run has returned.
func (p *Program) ReleaseMemory() {
	for _, r := range p.models {
		if err := r.ReleaseMemory(); err != nil && !errors.Is(err, store.ErrClosed) {
			p.log.Debug("the memory of a read model is not released", "projection", r.Name(), "err", err)
		}
	}
	debug.FreeOSMemory()
}
