package fakegraph

import (
	"context"
	"slices"
	"time"
)

// maxQueue bounds the echoes of the Send API that wait for a POST.
const maxQueue = 10_000

// later is something that waits until it is due: at a time in ns, or at a flush.
type later[T any] struct {
	what T
	due  int64
}

// take takes out of a list what is due now.
func take[T any](list *[]later[T], now int64) (out []T) {
	*list = slices.DeleteFunc(*list, func(l later[T]) bool {
		if l.due <= now {
			out = append(out, l.what)
		}
		return l.due <= now
	})
	return out
}

// item is one element of an entry's messaging or standby. The entry is the page
// or, of object instagram, its linked account.
type item struct {
	page, object, entry string
	field               string
	standby             bool
	body                map[string]any
	past                *historic // what it adds to the conversation, if anything
}

// overhear makes it an item of another app's thread.
func (i *item) overhear() {
	if i.standby {
		return
	}
	i.standby, i.field = true, "standby"
	if p, ok := i.body["postback"].(map[string]any); ok {
		delete(p, "payload") // only the app that sent the button sees it
	}
}

// sent takes what the Send API has sent, before that replies.
func (e *Engine) sent(page, psid string, message map[string]any) {
	i := event(page, page, psid, e.opts.Now().UnixMilli(), "message_echoes", "message", message)
	if e.talk.onInstagram(page, psid) {
		i.toInstagram(e.graph.pages[page].Instagram, "")
	}
	if !e.made(&i) {
		return
	}
	if e.opts.EchoDelay < 0 && e.try(context.Background(), delivery{items: []item{i}}, 0) {
		return
	}
	e.put(i, max(e.opts.EchoDelay, 0))
}

// put queues an item. Beyond the queue's bound the oldest falls away.
func (e *Engine) put(i item, delay time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.queue = append(e.queue, later[item]{i, e.opts.Now().Add(delay).UnixNano()})
	e.queue = e.queue[max(0, len(e.queue)-maxQueue):]
}

// made takes note of an item and reports whether it is ever to be delivered.
func (e *Engine) made(i *item) bool {
	if e.has(e.standby, i.page) {
		i.overhear()
	}
	if i.past != nil {
		e.graph.remember(*i.past)
		i.past = nil
	}
	return e.wants(*i) && !e.lost([]item{*i})
}

// lost reports whether delivery is off, and counts what it costs.
func (e *Engine) lost(items []item) bool {
	if !e.outage.Load() {
		return false
	}
	e.count(items, func(c *Counters) { c.Lost++ })
	return true
}

// wants reports whether the app is subscribed to what an item needs: at the
// level of the app, and at that of the page, where for Instagram any field will
// do.
func (e *Engine) wants(i item) bool {
	atApp, _, _ := e.graph.appFields(e.app.ID, i.object)
	fields, ok := e.graph.SubscribedFields(e.app.ID, i.page)
	return ok && slices.Contains(atApp, i.field) && (i.object == objectInstagram || slices.Contains(fields, i.field))
}
