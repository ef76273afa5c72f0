package projections

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// Defaults of [RunnerOptions]. A commit costs one fsync whatever is in it.
const (
	DefaultMaxBatch     = 4096
	DefaultHeadInterval = time.Second
	DefaultPace         = 50 * time.Millisecond
)

const (
	// spacings is how many of the subscriber's messages come within a pace at most,
	// but for full ones.
	spacings     = 16
	headTimeout  = 5 * time.Second
	openTimeout  = 15 * time.Second
	closeTimeout = 10 * time.Second
	restartMin   = 50 * time.Millisecond
	restartMax   = 5 * time.Second
	maxErrorText = 500
	// checkEvery is how often a file is read whole because of panics.
	checkEvery = time.Minute
	// maxMalformed bounds the messages that are remembered as malformed.
	maxMalformed = 1000
)

// malformedBucket has the sequence of each message that was no event, and what
// was wrong with it.
const malformedBucket = "_malformed"

var validName = regexp.MustCompile(`^[a-z0-9_]{1,64}$`)

// Errors when a runner is made or used.
var (
	// ErrBadOptions says what is missing.
	ErrBadOptions = errors.New("bad options of a projection")
	// ErrRan says that Run was called before: a runner runs once.
	ErrRan = errors.New("runner has run already")
	// ErrStopped says that the runner was stopped before it came that far.
	ErrStopped = errors.New("projection is stopped")
)

// Errors that end one drive over the stream and begin another.
var (
	errReplaced = errors.New("the stream was replaced")
	errCorrupt  = errors.New("the store is corrupt")
	errEnded    = errors.New("the subscription ended")
)

// RunnerOptions configure a [Runner]. Dir, JS and Identity are required.
type RunnerOptions struct {
	// Dir has one file a projection, <name>.db.
	Dir string
	JS  jetstream.JetStream
	// Stream is the stream's name, by default streams.Name.
	Stream string
	// Identity is what streams.Ensure returned. A read model of another
	// identity is rebuilt.
	Identity streams.Identity
	// Dedup names the first event of each id; an event that is not the first
	// is counted and left out. Nil for the index itself.
	Dedup Index
	// MaxBatch is the most events in one transaction, by default 4096: the more
	// of them, the more change the same rows and pages.
	MaxBatch int
	// MaxInFlight bounds the events that are read ahead, by default twice
	// MaxBatch: while one batch is committed the next one gathers.
	MaxInFlight int
	// Pace is the least time from one transaction to the next, by default 50 ms;
	// negative is none. A transaction is synced, and every sync takes its turn
	// with those of the stream that deliveries wait for: a read model that
	// commits each event as it comes would slow down what it reads. The first
	// event after a pause does not wait, nor does a full batch.
	Pace time.Duration
	// HeadInterval is how often the stream is asked how far it is, by default
	// each second. Events don't wait for that, only Lag does.
	HeadInterval time.Duration
	// Tail may be shared by all the runners of a process; nil reads the stream
	// for this one alone.
	Tail *streams.Tail
	// Subscriber makes the subscriber; by default a streams.Subscriber.
	Subscriber func(streams.SubscriberOptions) message.Subscriber
	// Attempts is how often an event that can't be applied is tried before it is
	// parked (see [DeadLetter]); 0 is for ever: the read model then stands still at
	// it. An [Index] has to, since what it has not seen would look new.
	Attempts int
	// Store configures the file.
	Store  store.Options
	Now    func() time.Time
	Logger *slog.Logger
}

func (o RunnerOptions) withDefaults() RunnerOptions {
	if o.Stream == "" {
		o.Stream = streams.Name
	}
	if o.MaxBatch <= 0 {
		o.MaxBatch = DefaultMaxBatch
	}
	if o.MaxInFlight <= 0 {
		o.MaxInFlight = 2 * o.MaxBatch
	}
	if o.Pace == 0 {
		o.Pace = DefaultPace
	}
	if o.HeadInterval <= 0 {
		o.HeadInterval = DefaultHeadInterval
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Subscriber == nil {
		js := o.JS
		o.Subscriber = func(so streams.SubscriberOptions) message.Subscriber { return streams.NewSubscriber(js, so) }
	}
	return o
}

// bundle is how many events come through the router in one message at most: so
// few that several messages make a batch, and are decoded beside one another.
func (o RunnerOptions) bundle() int { return max(1, min(o.MaxBatch, o.MaxInFlight)/8) }

// Runner keeps one read model up to the stream.
//
// Events come through a watermill router and are put back in stream order;
// whatever is there is applied in one transaction, together with the position,
// and then acknowledged. What was applied before is not applied again, and what
// fails is tried again in order with a growing pause. Three kinds are left out
// and counted: an event whose id an earlier one has, a message that is no event,
// and, where Attempts says so, a [DeadLetter]. All are told by the stream and the
// projection alone, so that live and rebuild agree. For the same reason
// an event that was erased is applied as far as it stays (see domain.Husk), in
// its place.
//
// The read model is begun anew when its file belongs to another stream, to a
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
	swaps      chan *swap       // for the committer, between two batches
	older      string           // why the open file is only served until there is a new one

	mu     sync.Mutex
	ran    bool
	closed bool
	cancel context.CancelFunc
	done   chan struct{} // closed when Run has returned
}

var _ Viewer = (*Runner)(nil)

// NewRunner opens the projection's file, or begins it anew. It asks the stream
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
		progress: newProgress(Status{Name: p.Name(), Version: p.Version(), State: StateStarting}, o.Now, o.HeadInterval),
		verify:   make(chan struct{}, 1), swaps: make(chan *swap), done: make(chan struct{}),
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

// look asks for the state of the stream.
func (r *Runner) look(ctx context.Context) (*jetstream.StreamInfo, error) {
	st, err := r.opts.JS.Stream(ctx, r.opts.Stream)
	if err != nil {
		return nil, fmt.Errorf("ask stream %s: %w", r.opts.Stream, err)
	}
	return st.CachedInfo(), nil
}

// open opens the file and begins anew if it does not fit the stream.
func (r *Runner) open(head uint64) error {
	s, err := store.Open(r.path, r.opts.Store)
	if err != nil {
		return err
	}
	meta, why, err := r.fits(s, head)
	if err != nil {
		return errors.Join(fmt.Errorf("open projection %s: %w", r.projection.Name(), err), s.Close())
	}
	if why == "" {
		r.store.Store(s)
		r.progress.began(meta, head, "")
		return nil
	}
	if meta.Identity == string(r.identity) && meta.Version != r.projection.Version() && meta.Seq <= head && s.Recreated() == "" {
		// True as of its position: it is read until there is a new one.
		r.store.Store(s)
		r.older = why
		r.progress.began(store.Meta{}, head, why)
		r.progress.stale(meta.Seq)
		return nil
	}
	if err := s.Close(); err != nil {
		return err
	}
	return r.begin(head, why)
}

// fits says why the file can't be gone on with, empty if it can.
func (r *Runner) fits(s *store.Store, head uint64) (meta store.Meta, why string, err error) {
	var found bool
	err = s.View(func(tx *store.Tx) error {
		meta, found, err = store.ReadMeta(tx)
		return err
	})
	switch {
	case errors.Is(err, store.ErrCorrupt):
		return meta, "the position can't be read", nil
	case err != nil:
		return meta, "", err
	case s.Recreated() != "":
		return meta, "the file was corrupt and is kept as " + filepath.Base(s.Recreated()), nil
	case !found:
		return meta, "there was none", nil
	case meta.Identity != string(r.identity):
		return meta, "it was built from another stream", nil
	case meta.Version != r.projection.Version():
		return meta, fmt.Sprintf("it was built by version %d, this is version %d", meta.Version, r.projection.Version()), nil
	case meta.Seq > head:
		return meta, fmt.Sprintf("it is at event %d, the stream ends at %d: an older stream was restored", meta.Seq, head), nil
	}
	return meta, "", nil
}

// begin puts an empty file in the place of the closed one.
func (r *Runner) begin(head uint64, why string) error {
	if err := os.Remove(r.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove old read model: %w", err)
	}
	s, err := store.Open(r.path, r.opts.Store)
	if err != nil {
		return err
	}
	meta := store.Meta{Identity: string(r.identity), Version: r.projection.Version()}
	if err := s.Update(func(tx *store.Tx) error { return store.WriteMeta(tx, meta) }); err != nil {
		return errors.Join(fmt.Errorf("begin projection %s: %w", r.projection.Name(), err), s.Close())
	}
	r.store.Store(s)
	r.older = ""
	r.progress.stale(0)
	r.progress.began(store.Meta{}, head, why)
	r.opts.Logger.Info("read model begun anew", "projection", r.projection.Name(), "why", why, "events", head)
	return nil
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

// View runs f in one short read-only transaction on the read model. It fails
// with store.ErrClosed after Close.
func (r *Runner) View(f func(*store.Tx) error) error {
	for {
		s := r.store.Load()
		err := s.View(f)
		if errors.Is(err, store.ErrClosed) && r.store.Load() != s {
			continue // begun anew meanwhile
		}
		if errors.Is(err, store.ErrCorrupt) {
			select {
			case r.verify <- struct{}{}:
			default: // it will be looked at
			}
		}
		return err
	}
}

// Digest returns the digest of the read model and the position it is of. It
// reads everything in one transaction: for verification, not for serving.
func (r *Runner) Digest() (digest string, meta store.Meta, err error) {
	return digestOf(r)
}

// WaitFor returns once the read model holds every event up to seq: after it a
// reader sees what was stored at seq. It fails with the context's error, or
// with [ErrStopped].
func (r *Runner) WaitFor(ctx context.Context, seq uint64) error {
	for {
		at, state, moved := r.progress.position()
		if at >= seq {
			return nil
		}
		if state == StateStopped {
			return fmt.Errorf("wait for event %d of %s, at %d: %w", seq, r.Name(), at, ErrStopped)
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("wait for event %d of %s, at %d: %w", seq, r.Name(), at, ctx.Err())
		}
	}
}

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

	for wait := restartMin; ; {
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
			wait = restartMin
		}
		if err := r.recover(ctx, err); err != nil {
			return err
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
		wait = min(2*wait, restartMax)
	}
}

// renew builds a read model of this version where the open file is of another.
func (r *Runner) renew(ctx context.Context) error {
	if r.older == "" {
		return nil
	}
	r.rebuilds.Lock()
	defer r.rebuilds.Unlock()
	r.progress.running()
	r.opts.Logger.Info("read model is built anew; the old one is served meanwhile", "projection", r.Name(), "why", r.older)
	out, err := r.rebuild(ctx, r.older, nil)
	if err != nil {
		return fmt.Errorf("build read model anew: %w", err)
	}
	r.older = ""
	r.opts.Logger.Info("read model built anew", "projection", r.Name(), "seq", out.Seq, "took", out.Took)
	return nil
}

// replacedError carries the new stream.
type replacedError struct{ info *jetstream.StreamInfo }

func (replacedError) Error() string { return errReplaced.Error() }

// recover makes the next drive possible.
func (r *Runner) recover(ctx context.Context, err error) error {
	var replaced replacedError
	switch {
	case errors.As(err, &replaced):
		info := replaced.info
		if !info.Created.Equal(r.created) {
			// Nobody told us its identity; this one is unlike any, so the next
			// start builds once more.
			r.identity = streams.Identity(fmt.Sprintf("%s then %s", r.opts.Identity, info.Created.UTC().Format(time.RFC3339Nano)))
			r.created = info.Created
			r.decided.set(nil)
		}
		if err := r.store.Load().Close(); err != nil {
			return err
		}
		return r.begin(info.State.LastSeq, errReplaced.Error())
	case errors.Is(err, errCorrupt):
		if err := r.store.Load().Close(); err != nil {
			return err
		}
		aside, err := store.SetAside(r.path, r.opts.Now())
		if err != nil {
			return err
		}
		return r.begin(r.Status().Head, "the file was corrupt and is kept as "+filepath.Base(aside))
	}
	if r.progress.failing(0, err) {
		r.opts.Logger.Warn("projection reads the stream again", "projection", r.Name(), "err", err)
	}
	return ctx.Err()
}

// watch looks at the head of the stream, apart from the worker.
func (r *Runner) watch(ctx context.Context, replaced chan<- *jetstream.StreamInfo) {
	created := r.created
	t := time.NewTicker(r.opts.HeadInterval)
	defer t.Stop()
	for {
		before := r.Status().Seq
		lookCtx, cancel := context.WithTimeout(ctx, headTimeout)
		info, err := r.look(lookCtx)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			r.progress.sawHead(0, err)
		} else {
			if !info.Created.Equal(created) || info.State.LastSeq < before {
				created = info.Created
				select {
				case replaced <- info:
				default:
				}
			}
			r.progress.sawHead(info.State.LastSeq, nil)
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// drive follows the stream from the stored position, until the context ends or
// it has to be done anew.
func (r *Runner) drive(ctx context.Context, replaced <-chan *jetstream.StreamInfo) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	var running sync.WaitGroup
	defer running.Wait()
	defer end(nil)

	in := make(chan *parcel, r.opts.MaxInFlight)
	running.Go(func() { r.committer(ctx, in, end) })
	running.Go(func() {
		select {
		case info := <-replaced:
			end(replacedError{info})
		case <-ctx.Done():
		}
	})

	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: closeTimeout}, watermill.NopLogger{})
	if err != nil {
		return fmt.Errorf("make router: %w", err)
	}
	subscriber := r.opts.Subscriber(streams.SubscriberOptions{
		Stream: r.opts.Stream, Tail: r.opts.Tail, Bundle: r.opts.bundle(), Spacing: r.opts.Pace / spacings,
		MaxInFlight: r.opts.MaxInFlight, Logger: r.opts.Logger,
		From: func(context.Context, string) (uint64, error) { return r.Status().Seq, nil },
	})
	router.AddConsumerHandler(r.Name(), streams.All, subscriber, func(m *message.Message) error {
		return r.handle(ctx, in, m)
	})
	running.Go(func() {
		select {
		case <-router.Running():
			r.progress.running()
		case <-ctx.Done():
		}
	})
	err = router.Run(ctx)
	switch cause := context.Cause(ctx); {
	case cause != nil:
		return cause
	case err != nil:
		return fmt.Errorf("run router: %w", err)
	}
	return errEnded
}

// handle is the router's handler: it decodes, hands over to the committer, and
// returns when the events are durable in the read model.
func (r *Runner) handle(ctx context.Context, in chan<- *parcel, m *message.Message) error {
	pos, err := streams.PositionOf(m)
	if err != nil {
		return fmt.Errorf("find message's place: %w", err)
	}
	events, err := streams.EventsOf(m)
	if err != nil {
		return fmt.Errorf("read message %d: %w", pos.Seq, err)
	}
	p := &parcel{pos: pos, events: events, done: make(chan error, 1)}
	select {
	case in <- p:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-p.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// committer is the one writer: it takes what has come, in order, and commits
// it at once.
func (r *Runner) committer(ctx context.Context, in <-chan *parcel, end context.CancelCauseFunc) {
	o, a := newOrder(), r.applier()
	var last, checked time.Time
	a.giveUp = func(failed *applyError) error {
		// A corrupt page makes a projection panic too. To look takes reading it all.
		if now := r.opts.Now(); failed.panicked && now.Sub(checked) > checkEvery {
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

// check ends the drive if the file is corrupt.
func (r *Runner) check(end context.CancelCauseFunc) {
	if err := r.store.Load().Verify(); errors.Is(err, store.ErrCorrupt) {
		r.opts.Logger.Error("read model is corrupt; building it anew", "projection", r.Name(), "err", err)
		end(errCorrupt)
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

// Malformed is a message in the stream that is no event.
type Malformed struct {
	Seq    uint64 `json:"seq"`
	Reason string `json:"reason"`
}

// Malformed returns the latest such messages, at most 1000, oldest first.
// Status counts them all.
func (r *Runner) Malformed() ([]Malformed, error) {
	var out []Malformed
	err := r.View(func(tx *store.Tx) error {
		return tx.Bucket(malformedBucket).ForEachPrefix(nil, func(k, v []byte) error {
			m := Malformed{Reason: string(v)}
			if store.ParseKey(k, &m.Seq) {
				out = append(out, m)
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read malformed messages: %w", err)
	}
	return out, nil
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
