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
	"github.com/pagestream/pagestream/streams"
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

// reasonGone is why a 410 disables an endpoint.
const reasonGone = "answered 410"

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
		send: &sender{client: client, url: c.URL, keys: keys, contentType: o.ContentType, timeout: c.Timeout, now: o.Now},
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
func (e *endpoint) note(failure string) { e.lastError, e.lastErrorAt = failure, e.opts.Now() }

// job returns the lane's next event; false if it was found to have none.
func (e *endpoint) job(ctx context.Context, l *lane) (job, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	e.mu.Lock()
	if len(l.redrive) > 0 {
		seq := l.redrive[0]
		e.mu.Unlock()
		return e.redriven(ctx, l, seq)
	}
	if len(l.queue) == 0 && l.spilled {
		from, to, most := l.next, l.tail, laneEvents
		if l.attempts > 0 {
			most = 1 // it may fail again
		}
		e.mu.Unlock()
		list, more, err := e.refill(ctx, l.page, from, to, most)
		e.mu.Lock()
		if err != nil {
			e.mu.Unlock()
			return job{}, false, err
		}
		e.refilled(l, list, to, more)
	}
	defer e.mu.Unlock()
	if len(l.queue) == 0 {
		return job{}, false, nil
	}
	return job{event: l.queue[0]}, true, nil
}

// refilled puts into the lane what was read up to to, or less where more is
// left.
func (e *endpoint) refilled(l *lane, list []streams.Stored, to uint64, more bool) {
	failing := l.next
	for _, s := range list {
		e.hold(l, s)
	}
	end := to
	if len(list) > 0 {
		l.next = list[0].Seq
		if more {
			end = list[len(list)-1].Seq
		}
	} else {
		l.next = to + 1
	}
	if l.next != failing && l.attempts > 0 { // the one that failed was erased
		l.attempts, l.since = 0, time.Time{}
	}
	l.spilled = l.tail > end
	e.touch(l)
}

// refill reads the page's next events from the stream, and reports whether there
// may be more.
func (e *endpoint) refill(ctx context.Context, page domain.PageID, from, to uint64, most int) (list []streams.Stored, more bool, err error) {
	held := 0
	_, err = streams.Read(ctx, e.opts.JS, streams.ReadOptions{
		Stream: e.opts.Stream, From: from, To: to, Filters: streams.Filter(page, e.Types...),
		Malformed: func(uint64, error) error { return nil },
	}, func(s streams.Stored) error {
		if s.Page != page || !e.wants(s) {
			return nil
		}
		if held > 0 && held+size(s) > laneBytes {
			return errEnough
		}
		list, held = append(list, s), held+size(s)
		if len(list) >= most {
			return errEnough
		}
		return nil
	})
	more = errors.Is(err, errEnough)
	if err != nil && !more {
		return nil, false, fmt.Errorf("read events of a page: %w", err)
	}
	return list, more, nil
}

// try makes one try and does what follows from it.
func (e *endpoint) try(ctx context.Context, l *lane, j job) {
	var out outcome
	body, err := e.opts.Encode(j.event)
	if err != nil {
		out.failure = "event can't be encoded"
	} else {
		out = e.send.send(ctx, j.event.ID, body)
	}
	switch {
	case out.canceled:
		e.settle(l, func() {})
	case out.gone:
		e.gone(l)
	case out.failure == "":
		e.sent(l, j)
	case j.redrive:
		e.redriveFailed(l, j, out)
	default:
		e.retry(l, j, out)
	}
}

func (e *endpoint) sent(l *lane, j job) {
	if j.redrive {
		e.redriveDone(l, j.event.Seq)
		return
	}
	e.settle(l, func() {
		e.delivered++
		e.finish(l, j.event.Seq)
	})
}

// gone disables the endpoint; what it did not take stays next.
func (e *endpoint) gone(l *lane) {
	e.settle(l, func() {
		e.failed++
		e.disabled = reasonGone
		e.note(reasonGone)
		e.dirty = true
		for _, l := range e.lanes {
			e.spill(l)
		}
		e.cond.Broadcast()
	})
	e.log.Warn("webhook endpoint disabled", "reason", reasonGone)
	if err := e.flush(); err != nil { // tried again soon
		e.log.Error("webhook position not written", "err", err)
	}
}

// retry is what follows a failed try: a pause, or a dead letter.
func (e *endpoint) retry(l *lane, j job, out outcome) {
	now := e.opts.Now()
	e.mu.Lock()
	e.failed++
	l.attempts++
	if l.since.IsZero() {
		l.since = now
	}
	attempts, since, room := l.attempts, l.since, e.dead < e.opts.MaxDeadLetters
	e.note(out.failure)
	e.mu.Unlock()

	over := (e.opts.MaxAttempts > 0 && attempts >= e.opts.MaxAttempts) || now.Sub(since) >= e.opts.GiveUpAfter
	failure := out.failure
	if over && !room {
		failure += "; not given up, as there are too many dead letters"
	}
	if over && room {
		err := e.bury(DeadLetter{
			Seq: j.event.Seq, ID: j.event.ID, Type: j.event.Type, Page: j.event.Page,
			Attempts: attempts, LastError: failure, At: now,
		})
		if err == nil {
			e.log.Warn("webhook given up", "seq", j.event.Seq, "attempts", attempts, "reason", failure)
			e.settle(l, func() {
				e.limit(out, attempts)
				e.finish(l, j.event.Seq)
			})
			return
		}
		e.log.Error("webhook dead letter not written", "seq", j.event.Seq, "err", err)
		failure += "; not given up, as the dead letter can't be written"
	}
	e.settle(l, func() {
		e.note(failure)
		e.limit(out, attempts)
		e.spill(l)
		l.next = j.event.Seq
		l.until = time.Now().Add(max(backoff(attempts, e.opts.BackoffMin, e.opts.BackoffMax), min(out.after, e.opts.BackoffMax)))
		e.touch(l)
	})
}

// limit pauses the whole endpoint after a 429.
func (e *endpoint) limit(out outcome, attempts int) {
	if !out.limited || e.paused {
		return
	}
	wait := min(out.after, e.opts.BackoffMax)
	if wait == 0 {
		wait = backoff(attempts, e.opts.BackoffMin, e.opts.BackoffMax)
	}
	e.paused = true
	for _, l := range e.lanes {
		e.spill(l)
	}
	e.pause = time.AfterFunc(wait, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.paused = false
		e.cond.Broadcast()
	})
}

// enable takes back a disabling, and lets every page be tried at once.
func (e *endpoint) enable() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.disabled != "" {
		e.disabled, e.dirty = "", true
	}
	if e.pause != nil {
		e.pause.Stop()
	}
	e.paused = false
	for _, l := range e.lanes {
		l.until = time.Time{}
		if l.state == waiting {
			e.enqueue(l)
		}
	}
	e.cond.Broadcast()
}
