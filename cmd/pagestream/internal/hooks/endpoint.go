package hooks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

const (
	// streamTimeout bounds one request to the stream.
	streamTimeout = 15 * time.Second
	// headEvery is how often the stream's head is read.
	headEvery = time.Second
)

var (
	// errDisabled ends the reading of the stream when the endpoint is disabled.
	errDisabled = errors.New("endpoint is disabled")
	// errStop ends a read of the stream early.
	errStop = errors.New("stop")
)

// endpoint delivers events to one [Endpoint].
type endpoint struct {
	Endpoint
	selection meta.Selection
	company   string // the id
	opts      Options
	store     *store.Store
	send      *sender
	log       *slog.Logger
	// flush writes all changed positions now.
	flush func() error

	mu    sync.Mutex
	cond  *sync.Cond // broadcasts every change that a goroutine may wait for
	known bool       // the position has been set
	read  uint64     // events that are in no lane are finished up to here
	head  uint64
	trail streams.Trail // of the events up to read
	// recheck is set when the position is to be compared with the stream again, and
	// interrupt then ends the reading of the stream.
	recheck   bool
	interrupt context.CancelFunc
	// reconnects are those of the connection when the position was compared last.
	reconnects uint64

	lanes map[domain.PageID]*lane
	// ready are the lanes that are due. Those whose first event has failed before
	// are in retries instead. slow counts the lanes of retries that workers have:
	// they get at most half of the tries, as each may take until its timeout.
	ready, retries []*lane
	slow           int
	lastRetry      bool // the last picked lane was from retries
	// events and bytes are the totals of the lanes' queues.
	events, bytes int
	paused        bool // by a 429
	pause         *time.Timer
	unwritten     bool // the positions could not be written

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
		log:  o.Logger.With("endpoint", c.Name),

		lanes: make(map[domain.PageID]*lane), dirtyPages: make(map[domain.PageID]bool),
	}
	// A company that is not known yet has the name that it will have as its id.
	e.company = string(c.Company)
	if id, found := e.findCompany(); found {
		e.company = id
	}
	e.selection = c.selection(e.company)
	e.cond = sync.NewCond(&e.mu)
	return e, nil
}

// findCompany returns the id of the endpoint's company, and false if it has none or there is no such company.
func (e *endpoint) findCompany() (string, bool) {
	if e.Company == "" {
		return "", false
	}
	return e.opts.FindCompany(string(e.Company))
}

// wants reports whether the event is sent to the endpoint. For a company it waits until the read model of
// pages has applied the event.
func (e *endpoint) wants(ctx context.Context, s streams.Stored) (bool, error) {
	owners, err := e.selection.Owners(ctx, e.opts.Pages, []streams.Message{{Stored: s}})
	if err != nil {
		return false, err
	}
	return e.selection.Wants(s, owners[0]), nil
}

// lane returns the page's lane and creates it if there is none.
func (e *endpoint) lane(page domain.PageID) *lane {
	l := e.lanes[page]
	if l == nil {
		l = &lane{page: page}
		e.lanes[page] = l
	}
	return l
}

// markDirty records that the rows of the endpoint and of the lane's page must be
// written.
func (e *endpoint) markDirty(l *lane) {
	e.dirty = true
	e.dirtyPages[l.page] = true
}

// wake wakes all waiting goroutines when the context ends.
func (e *endpoint) wake() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cond.Broadcast()
}

// run delivers until the context ends, and then returns nil. It fails if the stream
// can no longer be read.
func (e *endpoint) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, e.wake)()
	if err := e.initPosition(ctx); err != nil || ctx.Err() != nil {
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

// stopTimers stops all timers. It is called after the workers have ended.
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

// take waits for a lane that is due. It returns nil when the context ends.
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

// pick removes and returns the next lane of ready or retries, alternating if both
// have one. It returns nil if there is none.
func (e *endpoint) pick() *lane {
	from := &e.ready
	e.lastRetry = len(e.retries) > 0 && e.slow < max(1, e.opts.Concurrency/2) && (len(e.ready) == 0 || !e.lastRetry)
	if e.lastRetry {
		from = &e.retries
	}
	if len(*from) == 0 {
		return nil
	}
	l := (*from)[0]
	(*from)[0] = nil
	*from = (*from)[1:]
	if e.lastRetry {
		l.slowCounted = true
		e.slow++
	}
	return l
}

// step tries the lane's next event.
func (e *endpoint) step(ctx context.Context, l *lane) {
	j, found, err := e.nextJob(ctx, l)
	switch {
	case ctx.Err() != nil:
		e.releaseAfter(l, func() {})
	case err != nil:
		e.releaseAfter(l, func() {
			e.setLastError("event can't be read")
			e.spill(l)
			l.until, l.unreadable = time.Now().Add(e.opts.BackoffMin), true
		})
	case !found:
		e.releaseAfter(l, func() {})
	default:
		e.try(ctx, l, j)
	}
}

// releaseAfter calls change with the lock held and then releases the busy lane.
func (e *endpoint) releaseAfter(l *lane, change func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change()
	e.release(l)
}

// setLastError records a failure for the status.
func (e *endpoint) setLastError(failure string) { e.lastError, e.lastErrorAt = failure, time.Now() }
