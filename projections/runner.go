package projections

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

const (
	openTimeout = 15 * time.Second
	restartMin  = 50 * time.Millisecond
	restartMax  = 5 * time.Second
)

var validName = regexp.MustCompile(`^[a-z0-9_]{1,64}$`)

// Errors when a runner is made or used.
var (
	// ErrBadOptions is returned when an option is missing, or a name is not valid.
	ErrBadOptions = errors.New("bad options of a projection")
	// ErrRan is returned when Run was called before: a runner runs once.
	ErrRan = errors.New("runner has run already")
	// ErrStopped is returned when the runner was stopped before it came that far.
	ErrStopped = errors.New("projection is stopped")
)

// Runner keeps one read model up to the stream.
//
// Events come through a watermill router, one batch at a time in stream order.
// A batch is applied in one transaction as a rule, together with the position. What
// was applied before is not applied again, and what fails is tried again with a
// growing pause. Three kinds are left out
// and counted: an event whose id an earlier one has, a message that is no event,
// and, where Attempts says so, a [DeadLetter]. All are told by the stream and the
// projection alone, so that live and rebuild agree. For the same reason
// an event that was erased is applied as far as it stays (see domain.Tombstone), in
// its place.
//
// The read model starts over when its file belongs to another stream, to a
// later point of the stream than there is, or is corrupt. It can be read
// meanwhile, as of where it is. Where the file is of another version of the
// projection, a new one is built beside it; the old one is read until then, and
// does not move. [Runner.Rebuild] does the same at any time.
type Runner struct {
	projection Projection
	opts       RunnerOptions
	path       string
	progress   *progress
	store      atomic.Pointer[store.Store]
	created    time.Time        // the stream's, to notice that it was replaced
	identity   streams.Identity // of the stream that is followed
	verify     chan struct{}    // a reader met a corrupt page
	rebuilds   sync.Mutex       // one at a time
	decided    decided          // about dead letters
	turns      chan struct{}    // has one token while there is a drive: see turn
	checked    time.Time        // when the file was last read whole because of a panic
	older      string           // why the open file is only served until there is a new one

	mu     sync.Mutex
	ran    bool
	closed bool
	cancel context.CancelFunc
	done   chan struct{} // closed when Run has returned
}

var _ Viewer = (*Runner)(nil)

// NewRunner opens the projection's file, or starts it over. It asks the stream
// for its head, so it needs a connection. Reads work before Run.
func NewRunner(p Projection, o RunnerOptions) (*Runner, error) {
	o = o.withDefaults()
	switch {
	case !validName.MatchString(p.Name()):
		return nil, fmt.Errorf("%w: name %q is not 1 to 64 of a-z, 0-9 and _", ErrBadOptions, p.Name())
	case o.Dir == "":
		return nil, fmt.Errorf("%w: no directory", ErrBadOptions)
	case o.JS == nil:
		return nil, fmt.Errorf("%w: no JetStream", ErrBadOptions)
	case o.Identity == "":
		return nil, fmt.Errorf("%w: no identity of the stream", ErrBadOptions)
	}
	r := &Runner{
		projection: p, opts: o, path: filepath.Join(o.Dir, p.Name()+".db"), identity: o.Identity,
		progress: newProgress(Status{Name: p.Name(), Version: p.Version(), State: StateStarting}, time.Now, o.headEvery),
		verify:   make(chan struct{}, 1), turns: make(chan struct{}, 1), done: make(chan struct{}),
	}
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	defer cancel()
	info, err := r.look(ctx)
	if err != nil {
		return nil, err
	}
	r.created = info.Created
	list, err := streams.Decisions(ctx, r.opts.JS, r.opts.Stream, p.Name())
	if err != nil {
		return nil, err
	}
	r.decided.set(list)
	for _, left := range []string{r.building(), r.scratch(), r.scratch() + "2"} { // of what was cut off
		if err := removeFile(left); err != nil {
			return nil, err
		}
	}
	if err := r.open(info.State.LastSeq); err != nil {
		return nil, err
	}
	return r, nil
}

// Name returns the projection's name.
func (r *Runner) Name() string { return r.projection.Name() }

// Status returns where the read model stands. It doesn't wait.
func (r *Runner) Status() Status { return r.progress.status() }

// Healthy returns why the read model should not be relied on, nil if it may be:
// it runs, is not failing or being rebuilt, the stream's head was seen lately,
// and no event has been missing for longer than maxLag. A worker that died
// fails that too: the head is watched apart from it.
func (r *Runner) Healthy(maxLag time.Duration) error { return r.progress.healthy(maxLag) }

// Run follows the stream until the context ends or Close is called, and then
// returns nil. Whatever goes wrong meanwhile is in the status and tried again;
// the error is only for what can't be, such as a file that can't be made.
func (r *Runner) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r.mu.Lock()
	if r.ran || r.closed {
		r.mu.Unlock()
		return ErrRan
	}
	r.ran, r.cancel = true, cancel
	r.mu.Unlock()
	defer close(r.done)
	defer r.progress.stopped()

	replaced := make(chan *jetstream.StreamInfo, 1)
	var watching sync.WaitGroup
	watching.Go(func() { r.watch(ctx, replaced) })
	defer watching.Wait()
	defer cancel()

	pause := backoff.Backoff{Min: restartMin, Max: restartMax}
	for {
		before := r.Status().Seq
		err := r.renew(ctx)
		if err == nil {
			err = r.resume(ctx, r.applier())
		}
		if err == nil {
			err = r.drive(ctx, replaced)
		}
		if ctx.Err() != nil {
			return nil
		}
		if r.Status().Seq > before {
			pause.Reset()
		}
		if err := r.recover(ctx, err); err != nil {
			return err
		}
		if pause.Wait(ctx) != nil {
			return nil
		}
	}
}

// Close ends Run, waits for it and closes the file. It is idempotent.
func (r *Runner) Close() error {
	r.mu.Lock()
	ran, cancel := r.ran, r.cancel
	r.closed = true
	r.mu.Unlock()
	if ran {
		cancel()
		<-r.done
	}
	return r.store.Load().Close()
}

// applier returns what applies events to a file of this projection.
func (r *Runner) applier() *applier {
	return &applier{
		projection: r.projection, dedup: r.opts.Dedup, tombstones: &tombstones{js: r.opts.JS, stream: r.opts.Stream},
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
