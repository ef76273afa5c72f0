package fakegraph

import (
	"context"
	"slices"
	"time"
)

// maxQueue is the maximum number of items that wait in the engine's queue.
const maxQueue = 10_000

// later is a value that is due at a time in Unix nanoseconds, or at a flush by its
// number.
type later[T any] struct {
	value T
	due   int64
}

// takeDue removes from a list what is due now, and returns it.
func takeDue[T any](list *[]later[T], now int64) (out []T) {
	*list = slices.DeleteFunc(*list, func(l later[T]) bool {
		if l.due <= now {
			out = append(out, l.value)
		}
		return l.due <= now
	})
	return out
}

// item is one element of an entry's messaging, standby or changes. The entry is the page or,
// for object instagram, the account that is linked to it.
type item struct {
	page, object, entry string
	field               string
	standby, change     bool
	body                map[string]any
	stored              *storedMessage // what it adds to the conversation, if anything
}

// toStandby makes it an item of a thread that another app owns.
func (i *item) toStandby() {
	if i.standby || i.change {
		return
	}
	i.standby, i.field = true, "standby"
	if p, ok := i.body["postback"].(map[string]any); ok {
		delete(p, "payload") // only the app that sent the button sees it
	}
}

// queueEcho queues the echo of a message of the Send API, or sends it if EchoDelay
// is negative. It is called before the Send API replies.
func (e *Engine) queueEcho(page, psid string, message map[string]any) {
	i := event(page, page, psid, e.opts.Now().UnixMilli(), "message_echoes", "message", message)
	if e.gen.onInstagram(page, psid) {
		i.toInstagram(e.graph.instagram(page), "")
	}
	if !e.record(&i) {
		return
	}
	if e.opts.EchoDelay < 0 && e.try(context.Background(), delivery{items: []item{i}}, 0) {
		return
	}
	e.enqueue(i, max(e.opts.EchoDelay, 0))
}

// enqueue queues an item. If the queue is full, the oldest item is dropped.
func (e *Engine) enqueue(i item, delay time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.queue = append(e.queue, later[item]{i, e.opts.Now().Add(delay).UnixNano()})
	e.queue = e.queue[max(0, len(e.queue)-maxQueue):]
}

// record stores a new item in its conversation and reports whether it must be
// delivered.
func (e *Engine) record(i *item) bool {
	if e.has(e.standby, i.page) {
		i.toStandby()
	}
	if i.stored != nil {
		e.graph.storeMessage(*i.stored)
		i.stored = nil
	}
	return e.isSubscribed(*i) && !e.dropIf(e.has(e.muted, i.page), []item{*i}) && !e.dropIfOff([]item{*i})
}

// dropIfOff reports whether delivery is off, and then counts the items as lost.
func (e *Engine) dropIfOff(items []item) bool { return e.dropIf(e.outage.Load(), items) }

// dropIf returns off, and if it is true, it counts the items as lost.
func (e *Engine) dropIf(off bool, items []item) bool {
	if !off {
		return false
	}
	e.count(items, func(c *Counters) { c.Lost++ })
	return true
}

// isSubscribed reports whether the app is subscribed to an item's field at both
// levels: the app and the page. For Instagram, any field of the page is enough.
func (e *Engine) isSubscribed(i item) bool {
	appFields := e.graph.delivers(e.app.ID, i.object)
	fields, ok := e.graph.SubscribedFields(e.app.ID, i.page)
	return ok && slices.Contains(appFields, i.field) &&
		(i.object == objectInstagram || slices.Contains(fields, i.field))
}
