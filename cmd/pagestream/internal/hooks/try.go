package hooks

import (
	"context"
	"time"

	"github.com/pagestream/pagestream/internal/backoff"
)

// reasonGone is why a 410 disables an endpoint.
const reasonGone = "answered 410"

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
	now := time.Now()
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
		l.until = time.Now().Add(max(e.backoff(attempts), min(out.after, e.opts.BackoffMax)))
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
		wait = e.backoff(attempts)
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

// backoff is the pause after the nth failed try, so that pages that failed together
// don't come back together.
func (e *endpoint) backoff(n int) time.Duration {
	return backoff.Jitter(backoff.After(n, e.opts.BackoffMin, e.opts.BackoffMax))
}
