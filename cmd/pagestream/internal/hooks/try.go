package hooks

import (
	"context"
	"time"

	"github.com/pagestream/pagestream/internal/backoff"
)

// reasonGone is the reason that is recorded when a 410 disables an endpoint.
const reasonGone = "answered 410"

// try sends one event once and handles the outcome.
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
		e.releaseAfter(l, func() {})
	case out.gone:
		e.disable(l)
	case out.failure == "":
		e.succeed(l, j)
	case j.redrive:
		e.redriveFailed(l, j, out)
	default:
		e.retry(l, j, out)
	}
}

// succeed records a successful try.
func (e *endpoint) succeed(l *lane, j job) {
	if j.redrive {
		e.redriveDone(l, j.event.Seq)
		return
	}
	e.releaseAfter(l, func() {
		e.delivered++
		e.finish(l, j.event.Seq)
	})
}

// disable disables the endpoint after a 410. The event that was refused stays the
// next one of its page.
func (e *endpoint) disable(l *lane) {
	e.releaseAfter(l, func() {
		e.failed++
		e.disabled = reasonGone
		e.setLastError(reasonGone)
		e.dirty = true
		for _, l := range e.lanes {
			e.spill(l)
		}
		e.cond.Broadcast()
	})
	e.log.Warn("webhook endpoint disabled", "reason", reasonGone)
	if err := e.flush(); err != nil { // it is tried again at the next flush
		e.log.Error("webhook position not written", "err", err)
	}
}

// retry handles a failed try: the lane pauses, or the event becomes a dead letter.
func (e *endpoint) retry(l *lane, j job, out outcome) {
	now := time.Now()
	e.mu.Lock()
	e.failed++
	l.attempts++
	if l.since.IsZero() {
		l.since = now
	}
	attempts, since, room := l.attempts, l.since, e.dead < e.opts.MaxDeadLetters
	e.setLastError(out.failure)
	e.mu.Unlock()

	exhausted := (e.opts.MaxAttempts > 0 && attempts >= e.opts.MaxAttempts) || now.Sub(since) >= e.opts.GiveUpAfter
	failure := out.failure
	if exhausted && !room {
		failure += "; not given up, as there are too many dead letters"
	}
	if exhausted && e.erased(j.event.Seq) {
		e.releaseAfter(l, func() { e.finish(l, j.event.Seq) })
		return
	}
	if exhausted && room {
		err := e.putDeadLetter(DeadLetter{
			Seq: j.event.Seq, ID: j.event.ID, Type: j.event.Type, Page: j.event.Page,
			Attempts: attempts, LastError: failure, At: now,
		})
		if err == nil {
			e.log.Warn("webhook given up; the event is a dead letter now",
				"seq", j.event.Seq, "attempts", attempts, "reason", failure)
			e.releaseAfter(l, func() {
				e.pauseIfLimited(out, attempts)
				e.finish(l, j.event.Seq)
			})
			return
		}
		e.log.Error("webhook dead letter not written", "seq", j.event.Seq, "err", err)
		failure += "; not given up, as the dead letter can't be written"
	}
	e.releaseAfter(l, func() {
		e.setLastError(failure)
		e.pauseIfLimited(out, attempts)
		e.spill(l)
		l.next = j.event.Seq
		l.until = time.Now().Add(max(e.backoff(attempts), min(out.after, e.opts.BackoffMax)))
		e.markDirty(l)
	})
}

// pauseIfLimited pauses the whole endpoint after a 429, for Retry-After or, without
// one, for the backoff of the given number of attempts.
func (e *endpoint) pauseIfLimited(out outcome, attempts int) {
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

// enable enables the endpoint again, and makes every waiting page due now.
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

// backoff returns the pause after the nth failed try. It has jitter, so that pages
// that failed together are not tried again together.
func (e *endpoint) backoff(n int) time.Duration {
	return backoff.Jitter(backoff.After(n, e.opts.BackoffMin, e.opts.BackoffMax))
}
