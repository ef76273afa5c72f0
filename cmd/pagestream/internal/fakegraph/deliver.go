package fakegraph

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // Meta's legacy header
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"time"
)

const (
	// unsubscribed is how long every POST of a page has to fail for Meta to
	// unsubscribe the app from it.
	unsubscribed = time.Hour
	// firstRetry is the pause before the third try, the second comes at once. It
	// doubles up to maxRetry.
	firstRetry = time.Second
	maxRetry   = time.Minute
)

// delivery is one POST: items of one or more pages, in order.
type delivery struct {
	items     []item
	duplicate bool
}

// deliver sends one POST until it is answered 200, until all its pages are
// unsubscribed, until delivery is off, or until the context ends.
func (e *Engine) deliver(ctx context.Context, d delivery) {
	for try := 0; ; try++ {
		d.items = e.remaining(d.items)
		if len(d.items) == 0 || e.lost(d.items) || e.try(ctx, d, try) || ctx.Err() != nil {
			return
		}
		e.failed(d.items)
		if try == 0 {
			continue // the first time at once
		}
		wait := min(firstRetry<<min(try-1, 20), maxRetry)
		timer := time.NewTimer(time.Duration(float64(wait) / e.opts.Scale))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// try sends a POST once and reports whether it was answered 200 in time.
func (e *Engine) try(ctx context.Context, d delivery, try int) bool {
	e.count(d.items, func(c *Counters) {
		switch {
		case try > 0:
			c.Retried++
		case d.duplicate:
			c.Sent++
			c.Duplicated++
		default:
			c.Sent++
		}
	})
	if !e.post(ctx, e.target(d.items[0].object), encode(d.items, e.opts.Now().UnixMilli())) {
		return false
	}
	e.count(d.items, func(c *Counters) { c.Acked++; c.Failing = time.Time{} })
	return true
}

// remaining leaves out the items of pages that are not subscribed any more.
func (e *Engine) remaining(items []item) []item {
	var out, gone []item
	for _, i := range items {
		if _, ok := e.opts.Graph.SubscribedFields(e.app.ID, i.page); ok {
			out = append(out, i)
		} else {
			gone = append(gone, i)
		}
	}
	e.count(gone, func(c *Counters) { c.Dropped++ })
	return out
}

// failed runs each page's clock of failures. After an hour the subscription is
// gone, as Meta's documentation has it.
// https://developers.facebook.com/docs/messenger-platform/webhooks#webhook-performance
func (e *Engine) failed(items []item) {
	now := e.opts.Now()
	e.count(items, func(c *Counters) {
		if c.Failing.IsZero() {
			c.Failing = now
		}
	})
	pages := map[string]bool{}
	for _, i := range items {
		pages[i.page] = true
	}
	for page := range pages {
		e.mu.Lock()
		c := e.counters[page]
		late := !c.Failing.IsZero() && float64(now.Sub(c.Failing))*e.opts.Scale >= float64(unsubscribed)
		if late {
			c.Failing = time.Time{}
			c.Removed++
		}
		e.mu.Unlock()
		if late {
			e.opts.Graph.SetSubscription(e.app.ID, page)
			e.opts.Logger.Warn("fake Meta has unsubscribed the app from a page after an hour of failures", "app", e.app.ID, "page", page)
		}
	}
}

// post signs and sends a body and reports whether it was answered 200 in time.
func (e *Engine) post(ctx context.Context, target string, body []byte) bool {
	ctx, cancel := context.WithTimeout(ctx, e.opts.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return false
	}
	e.mu.Lock()
	secret := []byte(cmp.Or(e.secret, e.app.Secret))
	e.mu.Unlock()
	strong := hmac.New(sha256.New, secret)
	strong.Write(body)
	legacy := hmac.New(sha1.New, secret)
	legacy.Write(body)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "facebookexternalua")
	req.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(strong.Sum(nil)))
	req.Header.Set("X-Hub-Signature", "sha1="+hex.EncodeToString(legacy.Sum(nil)))
	resp, err := e.http.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	return resp.StatusCode == http.StatusOK
}

// target is the callback URL of an object.
func (e *Engine) target(object string) string {
	_, callback, _ := e.opts.Graph.appFields(e.app.ID, object)
	return cmp.Or(callback, e.opts.Target)
}

// encode makes the body of one POST about one object: an entry a page, items in
// their order, and entry.time the moment of sending.
func encode(items []item, sent int64) []byte {
	type entry struct {
		ID        string           `json:"id"`
		Time      int64            `json:"time"`
		Messaging []map[string]any `json:"messaging,omitempty"`
		Standby   []map[string]any `json:"standby,omitempty"`
	}
	var entries []*entry
	byID := map[string]*entry{}
	for _, i := range items {
		e := byID[i.entry]
		if e == nil {
			e = &entry{ID: i.entry, Time: sent}
			byID[i.entry] = e
			entries = append(entries, e)
		}
		if i.standby {
			e.Standby = append(e.Standby, i.body)
		} else {
			e.Messaging = append(e.Messaging, i.body)
		}
	}
	return marshal(struct {
		Object string   `json:"object"`
		Entry  []*entry `json:"entry"`
	}{items[0].object, entries})
}
