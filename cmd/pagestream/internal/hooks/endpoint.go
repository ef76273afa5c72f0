package hooks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/store"
)

const (
	// streamTimeout bounds one question to the stream.
	streamTimeout = 15 * time.Second
	// headEvery is how often the head is asked for.
	headEvery = time.Second
)

var (
	errDisabled = errors.New("endpoint is disabled")
	errEnough   = errors.New("enough")
)

// endpoint delivers to one endpoint.
type endpoint struct {
	Endpoint
	opts  Options
	store *store.Store
	send  *sender
	log   *slog.Logger
	// flush writes positions now.
	flush func() error

	mu    sync.Mutex
	cond  *sync.Cond // any change that somebody may wait for
	known bool       // the position has been set
	read  uint64     // what is not in a lane is finished up to here
	head  uint64
	lanes map[domain.PageID]*lane
	// ready are the lanes to work on, again those of them whose first event has
	// failed before. Slow counts those of again that are worked on: they get at
	// most half of the tries, as each may take until its timeout.
	ready, again []*lane
	slow         int
	lastSlow     bool // the last lane taken was of again
	// events and bytes are what the lanes hold.
	events, bytes int
	paused        bool // by a 429
	pause         *time.Timer
	unwritten     bool // positions could not be written

	disabled          string
	delivered, failed uint64
	lastError         string
	lastErrorAt       time.Time
	dead              int

	dirty      bool
	dirtyPages map[domain.PageID]bool
}

func newEndpoint(c Endpoint, o Options, client *http.Client, st *store.Store, flush func() error) (*endpoint, error) {
	keys, err := parseSecrets(c.Secrets)
	if err != nil {
		return nil, fmt.Errorf("endpoint %q: %w", c.Name, err)
	}
	if c.Timeout <= 0 {
		c.Timeout = DefaultTimeout
	}
	e := &endpoint{
		Endpoint: c, opts: o, store: st, flush: flush,
		send: &sender{client: client, url: c.URL, keys: keys, timeout: c.Timeout},
		log:  o.Logger.With("endpoint", c.Name), lanes: make(map[domain.PageID]*lane), dirtyPages: make(map[domain.PageID]bool),
	}
	e.cond = sync.NewCond(&e.mu)
	return e, nil
}

// lane returns the page's lane, a new one if it has none.
func (e *endpoint) lane(page domain.PageID) *lane {
	l := e.lanes[page]
	if l == nil {
		l = &lane{page: page}
		e.lanes[page] = l
	}
	return l
}

// touch says that the page's row, or the endpoint's, has to be written.
func (e *endpoint) touch(l *lane) {
	e.dirty = true
	e.dirtyPages[l.page] = true
}

// wake makes those who wait look again when the context ends.
func (e *endpoint) wake() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cond.Broadcast()
}

// run delivers until the context ends, which is no error, or the stream can't be
// followed any more.
func (e *endpoint) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, e.wake)()
	if err := e.begin(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	var running sync.WaitGroup
	defer e.stopTimers()
	defer running.Wait()
	defer cancel()
	for range e.opts.Concurrency {
		running.Go(func() {
			for l := e.take(ctx); l != nil; l = e.take(ctx) {
				e.step(ctx, l)
			}
		})
	}
	running.Go(func() { e.watchHead(ctx) })
	return e.follow(ctx)
}

// stopTimers is called when nobody works any more.
func (e *endpoint) stopTimers() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range e.lanes {
		if l.timer != nil {
			l.timer.Stop()
		}
	}
	if e.pause != nil {
		e.pause.Stop()
	}
}

// take waits for a lane that can be worked on; nil when the context ends.
func (e *endpoint) take(ctx context.Context) *lane {
	e.mu.Lock()
	defer e.mu.Unlock()
	for ctx.Err() == nil {
		if e.disabled == "" && !e.paused && !e.unwritten {
			if l := e.pick(); l != nil {
				l.state = busy
				return l
			}
		}
		e.cond.Wait()
	}
	return nil
}

// pick takes the next lane from ready or again, in turn where both have one.
func (e *endpoint) pick() *lane {
	from := &e.ready
	e.lastSlow = len(e.again) > 0 && e.slow < max(1, e.opts.Concurrency/2) && (len(e.ready) == 0 || !e.lastSlow)
	if e.lastSlow {
		from = &e.again
	}
	if len(*from) == 0 {
		return nil
	}
	l := (*from)[0]
	(*from)[0] = nil
	*from = (*from)[1:]
	if e.lastSlow {
		l.slow = true
		e.slow++
	}
	return l
}

// step tries the lane's next event.
func (e *endpoint) step(ctx context.Context, l *lane) {
	j, found, err := e.job(ctx, l)
	switch {
	case ctx.Err() != nil:
		e.settle(l, func() {})
	case err != nil:
		e.settle(l, func() {
			e.note("event can't be read")
			e.spill(l)
			l.until, l.stalled = time.Now().Add(e.opts.BackoffMin), true
		})
	case !found:
		e.settle(l, func() {})
	default:
		e.try(ctx, l, j)
	}
}

// settle changes a busy lane and gives it back.
func (e *endpoint) settle(l *lane, change func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change()
	e.release(l)
}

// note keeps a failure for the status.
func (e *endpoint) note(failure string) { e.lastError, e.lastErrorAt = failure, time.Now() }
