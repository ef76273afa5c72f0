package fakegraph

import (
	"context"
	"slices"
	"time"
)

// maxQueue bounds the echoes of the Send API that wait for a POST.
const maxQueue = 10_000

// queued is an item that goes out with the first flush that is not before due.
type queued struct {
	item
	due time.Time
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
	i := item{page: page, object: objectPage, entry: page, field: "message_echoes", body: map[string]any{
		"sender": map[string]any{"id": page}, "recipient": map[string]any{"id": psid},
		"timestamp": e.opts.Now().UnixMilli(), "message": message,
	}}
	if e.talk.onInstagram(page, psid) {
		i.toInstagram(e.opts.Graph.pages[page].Instagram, "")
	}
	if e.opts.EchoDelay >= 0 {
		e.enqueue(i, e.opts.EchoDelay)
		return
	}
	if !e.made(&i) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), e.opts.Timeout)
	defer cancel()
	if !e.try(ctx, delivery{items: []item{i}}, 0) {
		e.put(queued{item: i})
	}
}

// enqueue takes an item for a flush.
func (e *Engine) enqueue(i item, delay time.Duration) {
	if e.made(&i) {
		e.put(queued{i, e.opts.Now().Add(delay)})
	}
}

// put queues an item. Beyond the queue's bound the oldest falls away.
func (e *Engine) put(q queued) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.queue = append(e.queue, q)
	if n := len(e.queue) - maxQueue; n > 0 {
		e.queue = slices.Delete(e.queue, 0, n)
	}
}

// due takes what is due out of the queue, or all of it.
func (e *Engine) due(now time.Time, all bool) []item {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []item
	e.queue = slices.DeleteFunc(e.queue, func(q queued) bool {
		is := all || !q.due.After(now)
		if is {
			out = append(out, q.item)
		}
		return is
	})
	return out
}

// made takes note of an item and reports whether it is ever to be delivered.
func (e *Engine) made(i *item) bool {
	e.mu.Lock()
	if e.standby[i.page] {
		i.overhear()
	}
	e.mu.Unlock()
	if i.past != nil {
		e.opts.Graph.remember(*i.past)
		i.past = nil
	}
	return e.wants(*i) && !e.lost([]item{*i})
}

// lost reports whether delivery is off, and counts what it costs.
func (e *Engine) lost(items []item) bool {
	if !e.off() {
		return false
	}
	e.count(items, func(c *Counters) { c.Lost++ })
	return true
}

// wants reports whether the app is subscribed to what an item needs: at the
// level of the app, and at that of the page, where for Instagram any field will
// do.
func (e *Engine) wants(i item) bool {
	atApp, _, on := e.opts.Graph.appFields(e.app.ID, i.object)
	if !on || !slices.Contains(atApp, i.field) {
		return false
	}
	fields, ok := e.opts.Graph.SubscribedFields(e.app.ID, i.page)
	return ok && (i.object == objectInstagram || slices.Contains(fields, i.field))
}
