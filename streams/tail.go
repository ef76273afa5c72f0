package streams

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/internal/backoff"
)

// Defaults of [TailOptions]. They are somewhat more than the readers of one process lag behind while the
// stream grows by ten thousand events a second.
const (
	DefaultTailEvents = 8192
	DefaultTailBytes  = 32 << 20
)

// TailOptions configure a [Tail].
type TailOptions struct {
	// Stream is the stream's name, by default [Name].
	Stream string
	// Events and Bytes bound what is kept in memory. The newest message is always kept.
	Events int
	Bytes  int
	// Logger discards everything by default.
	Logger *slog.Logger
}

// Tail keeps the newest events of a stream in memory, so that each is read and decoded once for all
// subscribers of the process that have caught up (see [SubscriberOptions].Tail). A subscriber that is
// further back reads the stream itself until it has caught up. An event that was erased from the stream
// may still be delivered from the tail until newer events have displaced it, or until Drop.
type Tail struct {
	js   jetstream.JetStream // nil for one that a journal feeds
	opts TailOptions
	stop context.CancelFunc
	done chan struct{}

	mu     sync.Mutex
	events []*arrival         // in order, without a gap
	again  context.CancelFunc // makes the tail start again
	// reconnects is how often the connection had been made again when the tail started: after that the
	// stream may be another one.
	reconnects uint64
	bytes      int
	changed    chan struct{} // closed and replaced when events or closed changes
	closed     bool

	passes passes // of those that read together what the tail does not have
}

// NewTail returns a tail that starts at the end of the stream. The caller must close it.
func NewTail(js jetstream.JetStream, o TailOptions) *Tail {
	o = o.withDefaults()
	ctx, stop := context.WithCancel(context.Background())
	t := &Tail{js: js, opts: o, stop: stop, done: make(chan struct{}), changed: make(chan struct{})}
	go t.run(ctx)
	return t
}

// NewFedTail returns a tail that gets its events from a [Journal] and does not read the stream. The caller must
// close it.
func NewFedTail(o TailOptions) *Tail {
	o = o.withDefaults()
	t := &Tail{opts: o, stop: func() {}, done: make(chan struct{}), changed: make(chan struct{})}
	close(t.done)
	return t
}

func (o TailOptions) withDefaults() TailOptions {
	o.Stream = cmp.Or(o.Stream, Name)
	o.Events = cmp.Or(max(o.Events, 0), DefaultTailEvents)
	o.Bytes = cmp.Or(max(o.Bytes, 0), DefaultTailBytes)
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	return o
}

// Close stops the tail and waits until it has stopped. Subscribers then read the stream themselves. It is
// idempotent.
func (t *Tail) Close() error {
	t.stop()
	<-t.done
	t.markClosed()
	t.passes.close()
	return nil
}

// Forget drops the events and starts again at the end of the stream. It is for a stream that was replaced by
// one with other events.
func (t *Tail) Forget() {
	t.passes.forget()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events, t.bytes = nil, 0
	if t.again != nil {
		t.again()
	}
	t.notify()
}

// run follows the stream until it is stopped. After an error it drops its events and starts again at the
// end of the stream.
func (t *Tail) run(ctx context.Context) {
	defer close(t.done)
	defer t.markClosed()
	pause := backoff.Backoff{Min: sourceRetryMin, Max: sourceRetryMax}
	for {
		err := t.follow(ctx, pause.Reset)
		if ctx.Err() != nil {
			return
		}
		t.opts.Logger.Debug("tail of the stream starts again", "err", err)
		t.Drop()
		if pause.Wait(ctx) != nil {
			return
		}
	}
}

func (t *Tail) follow(ctx context.Context, progressed func()) error {
	ctx, again := context.WithCancel(ctx)
	defer again()
	t.mu.Lock()
	t.again, t.reconnects = again, t.js.Conn().Stats().Reconnects
	t.mu.Unlock()
	lookup, cancel := context.WithTimeout(ctx, 5*time.Second)
	head, err := Last(lookup, t.js, t.opts.Stream)
	cancel()
	if err != nil {
		return err
	}
	src := newSource(t.js, t.opts.Stream, []string{All}, head)
	defer src.close()
	for {
		list, err := src.chunk(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err() // what was read before Forget may be of another stream
		case !t.sameConnection():
			return ErrReconnected
		}
		decodeAll(list)
		t.add(list)
		if err != nil {
			return err
		}
		progressed()
	}
}

// ErrReconnected is returned when the connection was made again: the stream may be another one since.
var ErrReconnected = errors.New("the connection was made again")

// sameConnection reports whether the tail has only read from one connection.
func (t *Tail) sameConnection() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.connected()
}

// connected is sameConnection for a caller that holds t.mu. What a journal has sent does not change.
func (t *Tail) connected() bool { return t.js == nil || t.reconnects == t.js.Conn().Stats().Reconnects }

func (t *Tail) add(list []*arrival) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events = append(t.events, list...)
	for _, a := range list {
		t.bytes += a.size()
	}
	for len(t.events) > 1 && (len(t.events) > t.opts.Events || t.bytes > t.opts.Bytes) {
		t.bytes -= t.events[0].size()
		t.events[0] = nil // the array stays in memory for a while, the event must not
		t.events = t.events[1:]
	}
	t.notify()
}

// size estimates an arrival's memory in bytes: its data as stored, and decoded.
func (a *arrival) size() int { return 2 * len(a.data) }

// Drop drops the events that the tail has. Its readers get those that the stream still has from there. It is for events
// that were erased.
func (t *Tail) Drop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events, t.bytes = nil, 0
	t.notify()
}

func (t *Tail) markClosed() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	t.events, t.closed = nil, true
	t.notify()
}

// notify wakes the readers that wait for a change. The caller must hold t.mu.
func (t *Tail) notify() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// after returns at most sourceFetch messages that follow the last message that a reader has. ok is false
// if the tail does not have that message, compared by sequence and id, since sequences start again at
// 1 when a stream is replaced. If no message follows yet, the reader must wait until changed is closed.
func (t *Tail) after(last arrivalKey) (list []*arrival, changed <-chan struct{}, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := sort.Search(len(t.events), func(i int) bool { return t.events[i].seq >= last.seq })
	if t.closed || !t.connected() || i == len(t.events) || t.events[i].key() != last {
		return nil, nil, false
	}
	next := t.events[i+1:]
	return slices.Clone(next[:min(len(next), sourceFetch)]), t.changed, true
}

// tailFeed reads from a tail if that has the next message, and from a source otherwise.
type tailFeed struct {
	tail   *Tail
	source past
	last   arrivalKey // of the last message returned
}

func (f *tailFeed) chunk(ctx context.Context) (list []*arrival, err error) {
	for f.last.seq > 0 {
		list, changed, ok := f.tail.after(f.last)
		if !ok {
			break
		}
		f.source.drop()
		if len(list) > 0 {
			f.returned(list)
			f.source.skip(f.last.seq)
			return list, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	list, err = f.source.chunk(ctx)
	if len(list) > 0 {
		f.returned(list)
	}
	return list, err
}

func (f *tailFeed) returned(list []*arrival) {
	f.last = list[len(list)-1].key()
}

func (f *tailFeed) close() { f.source.close() }
