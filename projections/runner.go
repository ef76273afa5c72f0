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

// Errors of [NewRunner] and of the methods of [Runner].
var (
	// ErrBadOptions is returned when a required option is missing or the name of the
	// projection is not valid.
	ErrBadOptions = errors.New("bad options of a projection")
	// ErrRan is returned when Run or Close was called before: a runner runs once.
	ErrRan = errors.New("runner has run already")
	// ErrStopped is returned when the runner stops before it has applied the event
	// that a caller waits for.
	ErrStopped = errors.New("projection is stopped")
)

// Runner keeps one read model up to date with the stream.
//
// Events come through a watermill router, one batch at a time in stream order.
// A batch is usually applied in one transaction, together with the position. Transactions change
// a table in memory, which is read together with the file and written to it every few seconds (see
// store.Options.Memory); after a crash the position is that of the file. An
// event that was applied is not applied again. An event that fails is tried again
// with a growing pause. Three kinds of messages are not applied but counted: an
// event with the id of an earlier one, a message that is not a valid event, and,
// if Attempts is set, a [DeadLetter]. Which ones these are depends on the stream
// and the projection alone, so that a rebuild has the same result as the live read
// model. For the same reason an erased event is replaced by the event of its
// tombstone (see domain.Tombstone), at the same sequence.
//
// The file has the position together with the fingerprints of the event there and of
// some before (streams.Trail). They are compared with the stream at the start, after the
// connection was made again, and when the stream is shorter or was made again. If the
// stream has other events, asked twice, or the file is of another version of the
// projection, a new file is built beside it; until that is complete, the old one is served
// and not updated. A file of before there were fingerprints is accepted once.
//
// If the file is damaged, found so at the start or while it is in use, it is moved aside,
// the read model starts again from the first event, and reads fail with [ErrDamaged] until
// the new file is complete. [Runner.Rebuild] builds a new file at any time.
type Runner struct {
	projection Projection
	opts       RunnerOptions
	path       string
	progress   *progress
	store      atomic.Pointer[store.Store]
	stream     atomic.Pointer[followed]
	verified   atomic.Uint64   // the reconnects when the file was last compared with the stream
	differs    chan difference // receives what makes the drive end
	verify     chan struct{}   // receives a value when a reader finds a corrupt page
	rebuilds   sync.Mutex      // allows one rebuild or verification at a time
	decided    decided         // decisions about dead letters
	token      chan struct{}   // has one token while there is a drive: see exclusive
	checked    time.Time       // when the whole file was last found to be as it was written
	unfounded  int             // how often that was so
	reported   *store.Store    // the suspected store that is in the log
	suspicion  string          // why the file is opened again; see reopen
	checking   context.Context //nolint:containedctx // of Run: it ends a check
	outdated   string          // why the open file is only served until there is a new one
	suspected  bool            // outdated is by one answer of the server, and not confirmed

	mu     sync.Mutex
	ran    bool
	closed bool
	cancel context.CancelFunc
	done   chan struct{} // closed when Run has returned
}

var _ Viewer = (*Runner)(nil)

// NewRunner opens the projection's file, or replaces it by an empty one if it can't
// be read (see [Runner]). It requests the stream's info, so it needs a
// connection. The read model can be read before Run. It fails with [ErrBadOptions],
// and with store.ErrLocked if another runner has the file open.
func NewRunner(p Projection, o RunnerOptions) (*Runner, error) {
	o = o.withDefaults()
	if f, ok := p.(Filtered); ok {
		o.Store.Filter = f.FilteredBucket()
	}
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
		projection: p, opts: o, path: filepath.Join(o.Dir, p.Name()+".db"), differs: make(chan difference, 1),
		verify: make(chan struct{}, 1), token: make(chan struct{}, 1), done: make(chan struct{}),
		checking: context.Background(),
	}
	r.opts.Store.Check = r.check
	status := Status{Name: p.Name(), Version: p.Version(), State: StateStarting}
	r.progress = newProgress(status, time.Now, o.headEvery)
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	defer cancel()
	info, err := r.streamInfo(ctx)
	if err != nil {
		return nil, err
	}
	r.stream.Store(&followed{o.Identity, streams.CreatedAt(info)})
	list, seen, err := streams.DecisionsAfter(ctx, r.opts.JS, r.opts.Stream, p.Name(), 0)
	if err != nil {
		return nil, err
	}
	r.decided.set(list, seen)
	for _, left := range []string{r.building(), r.scratch(), r.scratch() + "2"} { // of a killed process
		if err := removeFile(left); err != nil {
			return nil, err
		}
	}
	if err := r.open(ctx, info.State.LastSeq); err != nil {
		return nil, err
	}
	return r, nil
}

// Name returns the projection's name.
func (r *Runner) Name() string { return r.projection.Name() }

// Status returns the position and the health of the read model. It does not block.
func (r *Runner) Status() Status { return r.progress.status() }

// Healthy returns nil if the read model is up to date: it is running, not failing
// and not being rebuilt, the stream's last sequence was requested successfully not
// long ago, and no event has been missing for longer than maxLag. Otherwise it
// returns one of [ErrNotRunning], [ErrDamaged], [ErrFailing], [ErrRebuilding], [ErrNoHead] and
// [ErrBehind], wrapped. A worker that hangs is reported as well, since the last
// sequence is requested independently of it.
func (r *Runner) Healthy(maxLag time.Duration) error { return r.progress.healthy(maxLag) }

// Run follows the stream until the context ends or Close is called, and then
// returns nil. Failures meanwhile are in the status and tried again. Run returns an
// error only for a failure that can't be retried, such as a file that can't be
// created, and [ErrRan] if Run or Close was called before.
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
	r.checking = ctx
	defer close(r.done)
	defer r.progress.stopped()

	var watching sync.WaitGroup
	watching.Go(func() { r.watch(ctx) })
	watching.Go(func() { r.followDecisions(ctx) })
	defer watching.Wait()
	defer cancel()

	pause := backoff.Backoff{Min: restartMin, Max: restartMax}
	for {
		before := r.Status().Seq
		suspicion := r.store.Load().Suspicion()
		err := r.reopen(ctx)
		if err == nil && suspicion != nil {
			pause.Reset() // it is as good as a new start
		}
		if err == nil {
			err = r.renew(ctx)
		}
		if err == nil {
			err = r.resume(ctx)
		}
		if err == nil {
			err = r.drive(ctx)
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

// closeWait bounds the wait of Close for Run: a router waits closeTimeout for its handler.
const closeWait = closeTimeout + 5*time.Second

// Close stops Run, waits until it has returned and closes the file. It is idempotent. If a
// transaction does not end, or writing the file does not, it gives up after at most 50 seconds and fails with store.ErrHangs.
func (r *Runner) Close() error {
	r.mu.Lock()
	ran, cancel := r.ran, r.cancel
	r.closed = true
	r.mu.Unlock()
	if ran {
		cancel()
		select {
		case <-r.done:
		case <-time.After(closeWait):
			return errors.Join(fmt.Errorf("close projection %s: %w", r.Name(), store.ErrHangs), r.store.Load().Close())
		}
	}
	return r.store.Load().Close()
}

// applier returns an applier for a file of this projection.
func (r *Runner) applier() *applier {
	return &applier{
		projection: r.projection, dedup: r.opts.Dedup, attempts: max(0, r.opts.Attempts), decided: &r.decided,
		part:       r.opts.part,
		tombstones: &tombstones{js: r.opts.JS, stream: r.opts.Stream},
	}
}

// resume carries out the decisions that were stored before the process was killed.
func (r *Runner) resume(ctx context.Context) error { return r.carryOutDue(ctx, r.store.Load()) }

// ReleaseMemory gives back to the system the memory of what was read of the file; see [store.Store.ReleaseMemory].
func (r *Runner) ReleaseMemory() error { return r.store.Load().ReleaseMemory() }
