package streams

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/internal/backoff"
)

// Defaults of [TailOptions]: somewhat more than the readers of one process have
// in hand while the stream grows by ten thousand events a second.
const (
	DefaultTailEvents = 8192
	DefaultTailBytes  = 32 << 20
)

// TailOptions configure a [Tail].
type TailOptions struct {
	// Stream is the stream's name, by default [Name].
	Stream string
	// Events and Bytes bound what is kept; the latest message always is.
	Events int
	Bytes  int
	Logger *slog.Logger
}

// Tail keeps the end of a stream in memory, each event read and decoded once,
// for all the subscribers of a process that are there (see
// SubscriberOptions.Tail). One that is further back reads the stream itself
// until it has caught up. What was erased from the stream meanwhile may still be
// given until newer events have pushed it out.
type Tail struct {
	js   jetstream.JetStream
	opts TailOptions
	stop context.CancelFunc
	done chan struct{}

	mu    sync.Mutex
	held  []arrival // in order, nothing of the stream missing in between
	bytes int
	moved chan struct{} // closed when held has more, or the tail is over
	over  bool
}

// NewTail returns a tail that begins at the stream's end. The caller must close
// it.
func NewTail(js jetstream.JetStream, o TailOptions) *Tail {
	o.Stream = cmp.Or(o.Stream, Name)
	o.Events = cmp.Or(max(o.Events, 0), DefaultTailEvents)
	o.Bytes = cmp.Or(max(o.Bytes, 0), DefaultTailBytes)
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	ctx, stop := context.WithCancel(context.Background())
	t := &Tail{js: js, opts: o, stop: stop, done: make(chan struct{}), moved: make(chan struct{})}
	go t.run(ctx)
	return t
}

// Close ends the tail and waits for it; subscribers go on without. It is
// idempotent.
func (t *Tail) Close() error {
	t.stop()
	<-t.done
	return nil
}

// run follows the stream until it is stopped. Whatever it has lost it begins
// again at the end.
func (t *Tail) run(ctx context.Context) {
	defer close(t.done)
	defer t.end()
	pause := backoff.Backoff{Min: sourceRetryMin, Max: sourceRetryMax}
	for {
		err := t.follow(ctx, pause.Reset)
		if ctx.Err() != nil {
			return
		}
		t.opts.Logger.Debug("tail of the stream begins again", "err", err)
		t.forget()
		if pause.Wait(ctx) != nil {
			return
		}
	}
}

func (t *Tail) follow(ctx context.Context, progressed func()) error {
	asking, cancel := context.WithTimeout(ctx, 5*time.Second)
	head, err := Last(asking, t.js, t.opts.Stream)
	cancel()
	if err != nil {
		return err
	}
	src := newSource(t.js, t.opts.Stream, []string{All}, head)
	defer src.close()
	for {
		list, err := src.chunk(ctx)
		decodeAll(list)
		t.add(list)
		if err != nil {
			return err
		}
		progressed()
	}
}

func (t *Tail) add(list []arrival) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held = append(t.held, list...)
	for _, a := range list {
		t.bytes += a.size()
	}
	for len(t.held) > 1 && (len(t.held) > t.opts.Events || t.bytes > t.opts.Bytes) {
		t.bytes -= t.held[0].size()
		t.held[0] = arrival{} // the array lives on for a while
		t.held = t.held[1:]
	}
	t.wake()
}

// size is about what an arrival takes: its bytes, and those decoded.
func (a arrival) size() int { return 2 * len(a.msg.Data()) }

func (t *Tail) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held, t.bytes = nil, 0
	t.wake()
}

func (t *Tail) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held, t.over = nil, true
	t.wake()
}

func (t *Tail) wake() {
	close(t.moved)
	t.moved = make(chan struct{})
}

// after returns what follows the message that a reader had last, no more than a
// source would fetch. It is not ok where the tail does not hold that very message:
// sequences start over when a stream is replaced. Where nothing follows yet, moved
// is closed when that changes.
func (t *Tail) after(last *jetstream.MsgMetadata) (list []arrival, moved <-chan struct{}, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	seq := last.Sequence.Stream
	i := sort.Search(len(t.held), func(i int) bool { return t.held[i].seq() >= seq })
	if t.over || i == len(t.held) || t.held[i].seq() != seq || !t.held[i].meta.Timestamp.Equal(last.Timestamp) {
		return nil, nil, false
	}
	next := t.held[i+1:]
	return slices.Clone(next[:min(len(next), sourceFetch)]), t.moved, true
}

// tailed reads from a tail where that has what comes next, and from a source of
// its own where not.
type tailed struct {
	tail *Tail
	own  *source
	last *jetstream.MsgMetadata // of the message given last
}

func (f *tailed) chunk(ctx context.Context) (list []arrival, err error) {
	for f.last != nil {
		list, moved, ok := f.tail.after(f.last)
		if !ok {
			break
		}
		f.own.drop()
		if len(list) > 0 {
			f.last = list[len(list)-1].meta
			f.own.last = f.last.Sequence.Stream
			return list, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	list, err = f.own.chunk(ctx)
	if len(list) > 0 {
		f.last = list[len(list)-1].meta
	}
	return list, err
}

func (f *tailed) close() { f.own.close() }
