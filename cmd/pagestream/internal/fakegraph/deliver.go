package fakegraph

import (
	"cmp"
	"context"
	"crypto/sha1" //nolint:gosec // Meta's legacy header
	"crypto/sha256"
	"encoding/hex"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/pagestream/pagestream/internal/backoff"
)

const (
	// unsubscribeAfter is for how long every POST of a page must fail until Meta
	// unsubscribes the app from it.
	unsubscribeAfter = time.Hour
	// firstRetry is the pause before the third try; there is none before the second
	// one. The pause doubles up to maxRetry.
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
	scaled := func(d time.Duration) time.Duration { return time.Duration(float64(d) / e.opts.Scale) }
	pause := backoff.Backoff{Min: scaled(firstRetry), Max: scaled(maxRetry)}
	for try := 0; ; try++ {
		d.items = e.remaining(d.items)
		if len(d.items) == 0 || e.dropIfOff(d.items) || e.try(ctx, d, try) || ctx.Err() != nil {
			return
		}
		e.recordFailure(d.items)
		if try == 0 {
			continue // the second try has no pause
		}
		if pause.Wait(ctx) != nil {
			return
		}
	}
}

// try sends a POST once and reports whether it was answered 200 in time.
func (e *Engine) try(ctx context.Context, d delivery, try int) bool {
	e.count(d.items, func(c *Counters) {
		if try > 0 {
			c.Retried++
			return
		}
		c.Sent++
		if d.duplicate {
			c.Duplicated++
		}
	})
	if !e.post(ctx, d.items[0].object, encode(d.items, e.opts.Now().UnixMilli())) {
		return false
	}
	e.count(d.items, func(c *Counters) { c.Acked++; c.Failing = time.Time{} })
	return true
}

// remaining returns the items without those of pages that are no longer
// subscribed, which are counted as dropped.
func (e *Engine) remaining(items []item) []item {
	var out, dropped []item
	for _, i := range items {
		if _, ok := e.graph.SubscribedFields(e.app.ID, i.page); ok {
			out = append(out, i)
		} else {
			dropped = append(dropped, i)
		}
	}
	e.count(dropped, func(c *Counters) { c.Dropped++ })
	return out
}

// recordFailure records a failed POST for each of its pages. After an hour of
// failures a page's subscription is removed, as Meta documents.
// https://developers.facebook.com/docs/messenger-platform/webhooks#webhook-performance
func (e *Engine) recordFailure(items []item) {
	now := e.opts.Now()
	pages := map[string]item{} // one item of each page
	for _, i := range items {
		pages[i.page] = i
	}
	for page, i := range pages {
		late := false
		e.count([]item{i}, func(c *Counters) {
			if c.Failing.IsZero() {
				c.Failing = now
			}
			if late = float64(now.Sub(c.Failing))*e.opts.Scale >= float64(unsubscribeAfter); late {
				c.Failing = time.Time{}
				c.Removed++
			}
		})
		if late {
			e.graph.SetSubscription(e.app.ID, page)
			e.opts.Logger.Warn("fake Meta has unsubscribed the app from a page after an hour of failures",
				"app", e.app.ID, "page", page)
		}
	}
}

// post signs a body, sends it to the app's callback URL for the object, and reports
// whether it was answered 200 in time.
func (e *Engine) post(ctx context.Context, object, body string) bool {
	ctx, cancel := context.WithTimeout(ctx, e.opts.Timeout)
	defer cancel()
	_, callback, _ := e.graph.appFields(e.app.ID, object)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, cmp.Or(callback, e.opts.Target), strings.NewReader(body))
	if err != nil {
		return false
	}
	e.mu.Lock()
	secret := cmp.Or(e.secret, e.app.Secret)
	e.mu.Unlock()
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "facebookexternalua")
	req.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(sign(sha256.New, secret, body)))
	req.Header.Set("X-Hub-Signature", "sha1="+hex.EncodeToString(sign(sha1.New, secret, body)))
	resp, err := e.opts.HTTP.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	return resp.StatusCode == http.StatusOK
}

// encode returns the body of a POST of items of one object: for each page one entry
// of what people write and one of changes, items in their order, and entry.time the
// time of sending in Unix milliseconds.
func encode(items []item, sent int64) string {
	type entry struct {
		ID        string           `json:"id"`
		Time      int64            `json:"time"`
		Messaging []map[string]any `json:"messaging,omitempty"`
		Standby   []map[string]any `json:"standby,omitempty"`
		Changes   []map[string]any `json:"changes,omitempty"`
	}
	var entries []*entry
	for _, i := range items {
		n := slices.IndexFunc(entries, func(e *entry) bool {
			return e.ID == i.entry && (len(e.Changes) > 0) == i.change
		})
		if n < 0 {
			n = len(entries)
			entries = append(entries, &entry{ID: i.entry, Time: sent})
		}
		e := entries[n]
		switch {
		case i.change:
			e.Changes = append(e.Changes, i.body)
		case i.standby:
			e.Standby = append(e.Standby, i.body)
		default:
			e.Messaging = append(e.Messaging, i.body)
		}
	}
	return string(marshal(struct {
		Object string   `json:"object"`
		Entry  []*entry `json:"entry"`
	}{items[0].object, entries}))
}

// Counters count one page's items. An item may be sent several times.
type Counters struct {
	// Sent counts items in first tries, Duplicated those of them that are
	// duplicates, Retried items in later tries, Acked items in POSTs that were
	// answered 200, Dropped items given up because the page was unsubscribed, Lost
	// items never sent or given up because delivery was off.
	Sent       uint64 `json:"sent"`
	Duplicated uint64 `json:"duplicated"`
	Retried    uint64 `json:"retried"`
	Acked      uint64 `json:"acked"`
	Dropped    uint64 `json:"dropped"`
	Lost       uint64 `json:"lost"`
	// Failing is since when every POST with the page has failed, zero if the last
	// one was answered 200. Removed counts how often the page was unsubscribed
	// because of failures.
	Failing time.Time `json:"failing,omitzero"`
	Removed uint64    `json:"removed"`
}

// Stats returns the counters of every page that had traffic, by page id.
func (e *Engine) Stats() map[string]Counters {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.counters)
}

func (e *Engine) count(items []item, change func(*Counters)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, i := range items {
		c := e.counters[i.page]
		change(&c)
		e.counters[i.page] = c
	}
}
