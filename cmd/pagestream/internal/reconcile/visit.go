package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

// Pauses between attempts on one page.
const (
	minBackoff = time.Minute
	maxBackoff = 6 * time.Hour
	// permissionBackoff is for errors that only a person can resolve.
	permissionBackoff = time.Hour
	// throttledBackoff is for a rate limit without a retry time.
	throttledBackoff = 5 * time.Minute
	// catchUp limits the wait for the read models.
	catchUp = 10 * time.Second
)

// needsPerson reports whether only a person can resolve an error of this class. No
// message is sent here, so a code that usually concerns a recipient concerns
// permissions.
func needsPerson(c meta.Class) bool {
	return slices.Contains([]meta.Class{meta.Permission, meta.Restricted, meta.PersonUnreachable, meta.WindowClosed}, c)
}

// retryWait returns how long Graph must not be called for the page, 0 if there is no
// rate limit.
func retryWait(o meta.Outcome, err error) time.Duration {
	wait := max(o.Wait(), meta.RetryAfter(err))
	if wait <= 0 && (o.Class() == meta.Throttled || meta.ClassOf(err) == meta.Throttled) {
		return throttledBackoff
	}
	return wait
}

// visit is one run of the work on one page. It changes a copy of the page's entry,
// which end stores.
type visit struct {
	r    *Reconciler
	page pages.Page
	e    entry
	now  time.Time
}

// visit checks one page and corrects its subscription. A page that another goroutine
// works on, that is not connected, or that is on hold is skipped.
func (r *Reconciler) visit(ctx context.Context, page domain.PageID) {
	v, ok := r.begin(page, false)
	if !ok {
		return
	}
	defer v.end()
	v.check(ctx)
}

// begin reserves the page for the caller until end is called. It returns false if the
// page is not connected or busy, or if it is on hold and force is false.
func (r *Reconciler) begin(page domain.PageID, force bool) (*visit, bool) {
	p, err := pages.Get(r.opts.Pages, page)
	if err != nil || p.State != pages.Connected {
		if err != nil && !errors.Is(err, pages.ErrNotFound) {
			r.opts.Logger.Warn("page can't be read", "page", page, "err", err)
		}
		return nil, false
	}
	now := r.opts.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.entry(page)
	if e.busy || !force && now.Before(e.hold) {
		return nil, false
	}
	e.busy = true
	return &visit{r: r, page: p, e: *e, now: now}, true
}

// end stores the entry, releases the page and logs a change of its state.
func (v *visit) end() {
	v.r.mu.Lock()
	defer v.r.mu.Unlock()
	e := v.r.entry(v.page.ID)
	was, s := e.status, &v.e.status
	s.Silence = was.Silence // updateSilence owns it
	v.e.busy = false
	v.e.queued = e.queued
	*e = v.e
	log := v.r.opts.Logger.With("page", v.page.ID)
	switch {
	case was.State == s.State || was.State == meta.LoopUnknown && s.State == meta.LoopConfirmed:
	case s.State == meta.LoopConfirmed:
		log.Info("page is subscribed again", "was", was.State)
	default:
		log.Warn("page is not subscribed as wanted", "state", s.State, "was", was.State, "code", s.Code,
			"subcode", s.Subcode, "missing", s.Missing, "app_missing", s.AppMissing, "reason", s.Reason)
	}
	if s.TokenWarning != was.TokenWarning && s.TokenWarning != "" {
		log.Warn("page's token needs a new consent soon", "warning", s.TokenWarning)
	}
}

// count updates the counters.
func (v *visit) count(f func(*Counters)) {
	v.r.mu.Lock()
	defer v.r.mu.Unlock()
	f(&v.r.counters)
}

// check reads the page's subscription, subscribes it again if it has drifted, and
// probes its token if that is due.
func (v *visit) check(ctx context.Context) {
	s := &v.e.status
	s.NextTry, v.e.hold = time.Time{}, time.Time{}
	probe := s.Probed.IsZero() || v.now.Sub(s.Probed) >= v.r.opts.TokenInterval
	switch v.page.Token {
	case pages.TokenNone:
		v.set(meta.LoopTokenDead, meta.Outcome{Reason: "there is no page token"})
		return
	case pages.TokenInvalid:
		p := v.page
		v.set(meta.LoopTokenDead, meta.Outcome{Reason: p.TokenReason, Code: p.TokenCode, Subcode: p.TokenSubcode})
		if !probe || !v.probe(ctx) {
			return
		}
		probe = false
	}
	out, err := v.r.opts.Verbs.Check(ctx, v.page.ID)
	s.Checked = v.now
	v.count(func(c *Counters) { c.Checks++ })
	v.judge(out, err)
	if s.State == meta.LoopDrifted && resubscribeHelps(out) {
		out = v.heal(ctx, out)
	}
	answered := s.State != meta.LoopThrottled && s.State != meta.LoopUnreachable && s.State != meta.LoopTokenMissing
	if class := out.Class(); probe && answered || class == meta.TokenDead || needsPerson(class) {
		v.probe(ctx)
	}
}

// resubscribeHelps reports whether subscribing again may help. It does not if fields
// are missing only at the app level.
func resubscribeHelps(o meta.Outcome) bool { return len(o.Missing) > 0 || len(o.AppMissing) == 0 }

// set sets the page's state with the reason, codes and missing fields of o.
func (v *visit) set(state meta.LoopState, o meta.Outcome) {
	s := &v.e.status
	s.State, s.Reason, s.Code, s.Subcode = state, o.Reason, o.Code, o.Subcode
	s.Missing, s.AppMissing = o.Missing, o.AppMissing
}

// judge derives the page's state and its next try from an outcome or error.
func (v *visit) judge(o meta.Outcome, err error) {
	s := &v.e.status
	wait := retryWait(o, err)
	switch {
	case wait > 0:
		if err != nil {
			o.Reason = err.Error()
		}
		v.set(meta.LoopThrottled, o)
		v.hold(wait)
	case errors.Is(err, meta.ErrToken):
		v.set(meta.LoopTokenMissing, meta.Outcome{Reason: err.Error()})
	case err != nil:
		v.e.errs++
		v.set(meta.LoopUnreachable, meta.Outcome{Reason: err.Error()})
		s.NextTry = v.now.Add(backoff.After(v.e.errs, minBackoff, maxBackoff))
		v.count(func(c *Counters) { c.Errors++ })
		return
	case o.Confirmed() && len(o.AppMissing) == 0:
		v.set(meta.LoopConfirmed, o)
		s.Reason, s.Failures = "", 0
	case o.State != subscriptions.Failed:
		v.set(meta.LoopDrifted, o)
	case o.Class() == meta.TokenDead:
		v.set(meta.LoopTokenDead, o)
	default:
		v.set(meta.LoopFailed, o)
		if needsPerson(o.Class()) {
			v.hold(permissionBackoff)
		}
	}
	v.e.errs = 0
}

// hold prevents calls of Graph for the page for d.
func (v *visit) hold(d time.Duration) {
	v.e.hold = v.now.Add(d)
	v.e.status.NextTry = v.e.hold
}

// heal subscribes the page again if the pause after its earlier failures is over.
func (v *visit) heal(ctx context.Context, drift meta.Outcome) meta.Outcome {
	s := &v.e.status
	next, err := v.nextAttempt(ctx, drift.Seq)
	if err != nil {
		v.judge(drift, err)
		return drift
	}
	if v.now.Before(next) {
		s.NextTry = next
		return drift
	}
	return v.resubscribe(ctx, drift.AppMissing)
}

// resubscribe subscribes the page to its wanted fields and records the result.
func (v *visit) resubscribe(ctx context.Context, appMissing []string) meta.Outcome {
	s := &v.e.status
	out, err := v.r.opts.Verbs.Resubscribe(ctx, v.page.ID)
	v.count(func(c *Counters) {
		c.Resubscribed++
		if err == nil && out.Confirmed() {
			c.Healed++
		}
	})
	if len(out.AppMissing) == 0 {
		out.AppMissing = appMissing // Resubscribe may not return it, a check does
	}
	v.judge(out, err)
	if err != nil || out.Confirmed() {
		return out
	}
	next, err := v.nextAttempt(context.WithoutCancel(ctx), out.Seq)
	if err != nil { // the failure is recorded; only the pause after it is unknown
		next = v.now.Add(backoff.After(s.Failures+1, minBackoff, maxBackoff))
	}
	if s.State != meta.LoopTokenDead && next.After(s.NextTry) {
		s.NextTry = next
	}
	return out
}

// nextAttempt returns when the page may be subscribed again, by the failed attempts in
// its history since it was last confirmed. It waits until the read model has applied
// event seq.
func (v *visit) nextAttempt(ctx context.Context, seq uint64) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, catchUp)
	defer cancel()
	if err := v.r.opts.Subscriptions.WaitFor(ctx, seq); err != nil {
		return time.Time{}, fmt.Errorf("wait for read model: %w", err)
	}
	sub, err := subscriptions.Get(v.r.opts.Subscriptions, v.page.ID, v.page.App)
	if errors.Is(err, subscriptions.ErrNotFound) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("read subscription: %w", err)
	}
	failures, last, class := attempts(sub.History)
	v.e.status.Failures = failures
	if failures == 0 {
		return last, nil
	}
	pause := backoff.After(failures, minBackoff, maxBackoff)
	if needsPerson(class) {
		pause = max(pause, permissionBackoff)
	}
	if last.After(v.now) { // the clock was set back
		last = v.now
	}
	return last.Add(pause), nil
}

// attempts counts the failed subscribe requests since the last confirmation, and
// returns the time and class of the last one. A request without an answer counts.
func attempts(history []subscriptions.Transition) (n int, last time.Time, class meta.Class) {
	open := false
	for _, t := range history {
		switch {
		case t.To == subscriptions.Confirmed:
			n, last, class, open = 0, time.Time{}, meta.Unclassified, false
		case t.To == subscriptions.Requested:
			last, open = t.Time, true
		case t.From == subscriptions.Requested:
			n, last, class, open = n+1, t.Time, meta.Classify(t.Code, t.Subcode), false
		}
	}
	if open {
		n++
	}
	return n, last, class
}

// probe asks Graph about the token, sets the token warning, and reports whether the
// token is valid.
func (v *visit) probe(ctx context.Context) bool {
	s := &v.e.status
	t, err := v.r.opts.Verbs.Probe(ctx, v.page.ID)
	v.count(func(c *Counters) {
		c.Probes++
		if err != nil {
			c.Errors++
		}
	})
	if err != nil {
		if wait := retryWait(meta.Outcome{}, err); wait > 0 {
			v.hold(wait)
		}
		return false
	}
	s.Probed = v.now
	s.TokenWarning, s.MissingScopes = warning(t, v.now), t.MissingScopes
	s.Expires, s.DataAccessExpires = t.Expires, t.DataAccessExpires
	switch t.State {
	case meta.TokenInvalid, meta.TokenDeselected:
		v.set(meta.LoopTokenDead, meta.Outcome{Reason: t.Reason, Code: t.Code, Subcode: t.Subcode})
		s.NextTry, v.e.hold = time.Time{}, time.Time{}
		return false
	}
	return t.State == meta.TokenValid
}

// warning returns what of a valid token ends within two weeks or is missing, empty if
// nothing.
func warning(t meta.TokenReport, now time.Time) string {
	var out []string
	if t.State != meta.TokenValid {
		return ""
	}
	if meta.EndsSoon(t.Expires, now) {
		out = append(out, "the token ends on "+t.Expires.UTC().Format(time.DateOnly))
	}
	if meta.EndsSoon(t.DataAccessExpires, now) {
		out = append(out, "access to data ends on "+t.DataAccessExpires.UTC().Format(time.DateOnly))
	}
	if len(t.MissingScopes) > 0 {
		out = append(out, "permissions are missing: "+strings.Join(t.MissingScopes, ", "))
	}
	return strings.Join(out, "; ")
}
