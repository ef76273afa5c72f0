package streams

import (
	"cmp"
	"context"
	"log/slog"
	"sort"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
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
	for wait := sourceRetryMin; ctx.Err() == nil; {
		err := t.follow(ctx, func() { wait = sourceRetryMin })
		if ctx.Err() != nil {
			return
		}
		t.opts.Logger.Debug("tail of the stream begins again", "err", err)
		t.forget()
		wait = rest(ctx, wait, sourceRetryMax)
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
	var list []arrival
	for {
		list = list[:0]
		for len(list) == 0 || len(list) < sourceFetch && src.ready() { // what is there, at once
			a, err := src.next(ctx)
			if err != nil {
				t.add(list)
				return err
			}
			a.event = a.replayed()
			list = append(list, a)
		}
		t.add(list)
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

// after appends to list what follows the message that a reader had last, no more
// than a source would fetch. It is
// not ok where the tail does not hold that very message: sequences start over
// when a stream is replaced. Where nothing follows yet, moved is closed when
// that changes.
func (t *Tail) after(last *jetstream.MsgMetadata, list []arrival) (more []arrival, moved <-chan struct{}, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	seq := last.Sequence.Stream
	i := sort.Search(len(t.held), func(i int) bool { return t.held[i].seq() >= seq })
	if t.over || i == len(t.held) || t.held[i].seq() != seq || !t.held[i].meta.Timestamp.Equal(last.Timestamp) {
		return list, nil, false
	}
	next := t.held[i+1:]
	return append(list, next[:min(len(next), sourceFetch)]...), t.moved, true
}

// tailed reads from a tail where that has what comes next, and from a source of
// its own where not.
type tailed struct {
	tail  *Tail
	own   *source
	last  *jetstream.MsgMetadata // of the message given last
	ready []arrival              // taken from the tail
	buf   []arrival              // to take into
}

func (f *tailed) next(ctx context.Context) (arrival, error) {
	for {
		if len(f.ready) > 0 {
			a := f.ready[0]
			f.ready[0] = arrival{}
			f.ready = f.ready[1:]
			f.last, f.own.last = a.meta, a.seq()
			return a, nil
		}
		if f.last != nil {
			more, moved, ok := f.tail.after(f.last, f.buf[:0])
			if ok {
				f.own.drop()
				f.ready, f.buf = more, more
			}
			if ok && len(more) > 0 {
				continue
			}
			if ok {
				select {
				case <-moved:
				case <-ctx.Done():
				}
				if ctx.Err() != nil {
					return arrival{}, ctx.Err()
				}
				continue
			}
		}
		a, err := f.own.next(ctx)
		if err != nil {
			return arrival{}, err
		}
		f.last = a.meta
		return a, nil
	}
}

func (f *tailed) close() { f.own.close() }
