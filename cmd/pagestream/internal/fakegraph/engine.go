package fakegraph

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // Meta's legacy header
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Errors of an [Engine].
var (
	// ErrRunning says that an engine runs already.
	ErrRunning = errors.New("delivery engine runs already")
	// ErrUndelivered says that a POST was not answered 200 in time, or was not
	// sent because delivery is off.
	ErrUndelivered = errors.New("webhook was not delivered")
)

// Defaults of [EngineOptions].
const (
	DefaultRate    = 2.0
	DefaultTimeout = 5 * time.Second
	DefaultFlush   = 250 * time.Millisecond
)

const (
	// maxUpdates is Meta's bound on one POST.
	maxUpdates = 1000
	// maxInFlight bounds the POSTs that are on their way or wait to be sent
	// again. While it is reached, nothing new is made.
	maxInFlight = 256
	// maxQueue bounds the echoes of the Send API that wait for a POST.
	maxQueue = 10_000
	// maxTick bounds what one flush makes, after a pause too.
	maxTick      = 5000
	unsubscribed = time.Hour
	firstRetry   = time.Second
	maxRetry     = time.Minute
)

// EngineOptions configure an [Engine]. Graph and Target are required.
type EngineOptions struct {
	Graph *Graph
	// App is the app whose webhook this is; default the first.
	App string
	// Target is the app's callback URL, while it has subscribed with no other.
	Target string
	// Rate is the events a second, of all pages together.
	Rate float64
	// Seed decides the traffic. RunID is in every message id, so that a second
	// run against the same store is new traffic; default the time of the start.
	Seed  uint64
	RunID string
	// Duplicates is the share of POSTs, in percent, whose items come once more in
	// another POST under another entry.time. Reorder is the share of items that
	// come one to four flushes late, Standby of those that come as standby.
	Duplicates, Reorder, Standby int
	// NumericIDs is the share of items, in percent, whose sender and recipient are
	// JSON numbers, OddTimes of those whose timestamp is 0, in seconds or a string,
	// EditsFirst of the messages with text that come a flush after their first edit.
	NumericIDs, OddTimes, EditsFirst int
	// EchoDelay is how long after the Send API's reply its echo is made, 0 at the
	// next flush. Where it is negative the echo is POSTed before the reply.
	EchoDelay time.Duration
	// Flush is how often POSTs are made of what has happened.
	Flush time.Duration
	// Timeout is how long an answer may take.
	Timeout time.Duration
	// Scale is how fast Meta's clock runs for retries and for the hour of
	// failures: at 60 that hour is a minute. Default 1.
	Scale  float64
	HTTP   *http.Client
	Logger *slog.Logger
	Now    func() time.Time
}

// Counters count one page's items. An item may be sent several times.
type Counters struct {
	// Sent counts items in first tries, Duplicated those of them that repeat
	// others, Retried items in later tries, Acked those in POSTs that were
	// answered 200, Dropped those given up when the page was unsubscribed, Lost
	// those never sent or given up because delivery was off.
	Sent       uint64 `json:"sent"`
	Duplicated uint64 `json:"duplicated"`
	Retried    uint64 `json:"retried"`
	Acked      uint64 `json:"acked"`
	Dropped    uint64 `json:"dropped"`
	Lost       uint64 `json:"lost"`
	// Failing is since when every POST with the page has failed, zero if the last
	// was answered 200. Removed counts how often the page was unsubscribed for
	// that.
	Failing time.Time `json:"failing,omitzero"`
	Removed uint64    `json:"removed"`
}

// Engine is Meta's delivery of webhooks to one app. Make one with [NewEngine].
type Engine struct {
	opts EngineOptions
	app  App
	http *http.Client
	talk *talk
	plan *planner // of who runs or steps the engine

	mu       sync.Mutex
	running  bool
	counters map[string]*Counters
	queue    []queued        // echoes of the Send API and what Say says
	standby  map[string]bool // pages whose threads another app owns
	quiet    map[string]bool // pages whose people write nothing
	outage   bool
	secret   string // signs; empty is the app's
}

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

// delivery is one POST: items of one or more pages, in order.
type delivery struct {
	items     []item
	duplicate bool
}

// NewEngine returns an engine that does not run yet.
func NewEngine(o EngineOptions) (*Engine, error) {
	if o.Graph == nil {
		return nil, fmt.Errorf("%w: an engine needs a graph", ErrOptions)
	}
	app, ok := o.Graph.apps[cmp.Or(o.App, o.Graph.opts.Apps[0].ID)]
	if !ok {
		return nil, fmt.Errorf("%w: there is no app %q", ErrOptions, o.App)
	}
	if u, err := url.Parse(o.Target); err != nil || u.Host == "" {
		return nil, fmt.Errorf("%w: target is not a URL", ErrOptions)
	}
	for _, percent := range []int{o.Duplicates, o.Reorder, o.Standby, o.NumericIDs, o.OddTimes, o.EditsFirst} {
		if percent < 0 || percent > 100 {
			return nil, fmt.Errorf("%w: %d is not a percentage", ErrOptions, percent)
		}
	}
	o.Rate = cmp.Or(max(o.Rate, 0), DefaultRate)
	o.Flush = cmp.Or(max(o.Flush, 0), DefaultFlush)
	o.Timeout = cmp.Or(max(o.Timeout, 0), DefaultTimeout)
	o.Scale = cmp.Or(max(o.Scale, 0), 1)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.RunID == "" {
		o.RunID = strconv.FormatInt(o.Now().UnixNano(), 36)
	}
	e := &Engine{
		opts: o, app: app, http: o.HTTP, counters: map[string]*Counters{},
		standby: map[string]bool{}, quiet: map[string]bool{},
	}
	if e.http == nil {
		e.http = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: maxInFlight}}
	}
	e.talk = newTalk(app, o)
	e.plan = &planner{e: e, rng: rand.New(rand.NewPCG(o.Seed, 2)), last: o.Now(), known: map[string]bool{}}
	return e, nil
}

// SetStandby says whether another app owns the threads of a page: then all that
// happens there comes in the entry's standby.
func (e *Engine) SetStandby(page string, on bool) { e.set(e.standby, page, on) }

// SetQuiet says whether the people of a page write nothing. What they wrote
// before may still come, and what the Send API sends is echoed.
func (e *Engine) SetQuiet(page string, on bool) { e.set(e.quiet, page, on) }

func (e *Engine) set(pages map[string]bool, page string, on bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if on {
		pages[page] = true
	} else {
		delete(pages, page)
	}
}

// SetDelivery switches delivery off and on. While it is off people go on
// writing, but what they write, and what had not been answered 200 by then, is
// never sent: a gap that only the Conversations API can fill. A POST that is on
// its way is not broken off.
func (e *Engine) SetDelivery(on bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.outage = !on
}

func (e *Engine) off() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.outage
}

// SetSecret changes what POSTs are signed with; empty is the app's own secret.
func (e *Engine) SetSecret(secret string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.secret = secret
}

// SendTest does what the Test button of Meta's dashboard does: one signed POST
// with a made-up message in the form of a change, of page "0" and long ago. It
// fails with [ErrUndelivered] if that is not answered 200; it is not sent again.
func (e *Engine) SendTest(ctx context.Context) error {
	if e.off() {
		return fmt.Errorf("test webhook: delivery is off: %w", ErrUndelivered)
	}
	body := marshal(map[string]any{"object": "page", "entry": []any{map[string]any{
		"id": "0", "time": 1514862760, "changes": []any{map[string]any{"field": "messages", "value": map[string]any{
			"sender": map[string]any{"id": "12334"}, "recipient": map[string]any{"id": "23245"}, "timestamp": "1527459824",
			"message": map[string]any{"mid": "random_mid", "text": "random_text"},
		}}},
	}}})
	if !e.post(ctx, e.target(objectPage), body) {
		return fmt.Errorf("test webhook: %w", ErrUndelivered)
	}
	return nil
}

// Say makes a person write a message to a page now and returns its mid. It goes
// out with the next flush, if the app is subscribed to it and delivery is on; a
// quiet page has it too. It fails with [ErrUnknown] where the page has no such
// contact.
func (e *Engine) Say(page, psid, text string) (mid string, err error) {
	if e.opts.Graph.contacts[psid].page != page {
		return "", fmt.Errorf("contact of page %s: %w", page, ErrUnknown)
	}
	i, mid := e.talk.say(page, psid, text, e.opts.Now())
	e.enqueue(i, 0)
	return mid, nil
}

// Stats returns the counters of every page that had traffic.
func (e *Engine) Stats() map[string]Counters {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make(map[string]Counters, len(e.counters))
	for page, c := range e.counters {
		out[page] = *c
	}
	return out
}

// Run makes traffic and delivers it until the context ends, which is no error.
// POSTs that are on their way then are broken off; none is left behind.
func (e *Engine) Run(ctx context.Context) error {
	e.mu.Lock()
	if e.running {
		e.mu.Unlock()
		return ErrRunning
	}
	e.running = true
	e.mu.Unlock()
	e.opts.Graph.listen(e, true)
	var posts sync.WaitGroup
	defer func() {
		e.opts.Graph.listen(e, false)
		posts.Wait()
		e.http.CloseIdleConnections()
		e.mu.Lock()
		e.running = false
		e.mu.Unlock()
	}()
	slots := make(chan struct{}, maxInFlight)
	e.plan.last = e.opts.Now()
	tick := time.NewTicker(e.opts.Flush)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, d := range e.plan.flush() {
			select {
			case <-ctx.Done():
				return nil
			case slots <- struct{}{}:
			}
			posts.Go(func() {
				defer func() { <-slots }()
				e.deliver(ctx, d)
			})
		}
	}
}

// Step is one flush without [Engine.Run]: it makes what has happened since the
// one before and sends it, one POST after the other, until each is answered 200
// or given up. With an injected clock and nothing else at work, what is sent
// follows from the seed. It fails with [ErrRunning] while the engine runs, and
// with the context's error when that ends.
func (e *Engine) Step(ctx context.Context) error {
	e.mu.Lock()
	if e.running {
		e.mu.Unlock()
		return ErrRunning
	}
	e.running = true
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		e.running = false
		e.mu.Unlock()
	}()
	e.opts.Graph.listen(e, true)
	for _, d := range e.plan.flush() {
		e.deliver(ctx, d)
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("step the delivery engine: %w", err)
		}
	}
	return nil
}

func (g *Graph) listen(e *Engine, on bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if on {
		g.engines[e] = struct{}{}
	} else {
		delete(g.engines, e)
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

// planner decides what goes into which POST. It belongs to Run's goroutine.
type planner struct {
	e     *Engine
	rng   *rand.Rand
	last  time.Time
	owed  float64
	round int
	known map[string]bool // pages that the app was ever subscribed to
	// kept are items for a later flush, again whole deliveries for one.
	kept  []keptItem
	again []keptDelivery
}

type keptItem struct {
	item
	round int
}

type keptDelivery struct {
	delivery
	round int
}

// flush returns the POSTs that are to be made now.
func (p *planner) flush() []delivery {
	now := p.e.opts.Now()
	p.owed += min(now.Sub(p.last).Seconds()*p.e.opts.Rate, maxTick)
	p.last = now
	p.round++
	off := p.e.off() // then nothing is kept for later either
	var items []item
	p.kept = slices.DeleteFunc(p.kept, func(k keptItem) bool {
		if off || k.round <= p.round {
			items = append(items, k.item)
		}
		return off || k.round <= p.round
	})
	items = append(items, p.e.due(now, off)...)
	for _, page := range p.e.opts.Graph.subscribedPages(p.e.app.ID) {
		p.known[page] = true
	}
	// People go on writing to a page that has lost its subscription.
	pages := slices.Sorted(maps.Keys(p.known))
	for ; p.owed >= 1; p.owed-- {
		if len(pages) == 0 {
			p.owed = 0
			break
		}
		page := pages[p.rng.IntN(len(pages))]
		if p.e.isQuiet(page) {
			continue
		}
		for n, i := range p.e.talk.next(page, now) {
			switch {
			case !p.e.made(&i):
			case n > 0: // a message after its edit
				p.kept = append(p.kept, keptItem{i, p.round + 1})
			case p.rng.IntN(100) < p.e.opts.Reorder:
				p.kept = append(p.kept, keptItem{i, p.round + 1 + p.rng.IntN(4)})
			default:
				items = append(items, i)
			}
		}
	}
	if off {
		p.e.count(items, func(c *Counters) { c.Lost++ })
		p.again = nil
		return nil
	}
	out := p.split(items)
	for _, d := range out {
		if p.rng.IntN(100) < p.e.opts.Duplicates {
			p.again = append(p.again, keptDelivery{delivery{d.items, true}, p.round + 1 + p.rng.IntN(4)})
		}
	}
	p.again = slices.DeleteFunc(p.again, func(k keptDelivery) bool {
		if k.round <= p.round {
			out = append(out, k.delivery)
		}
		return k.round <= p.round
	})
	return out
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

func (e *Engine) isQuiet(page string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.quiet[page]
}

// split makes POSTs of a flush's items, each about one object. All of a page's
// go into one POST, so that their order holds; several pages may share it.
func (p *planner) split(items []item) []delivery {
	byEntry := map[string][]item{}
	for _, i := range items {
		byEntry[i.entry] = append(byEntry[i.entry], i)
	}
	entries := slices.Sorted(maps.Keys(byEntry))
	p.rng.Shuffle(len(entries), func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
	var out []delivery
	for _, entry := range entries {
		for chunk := range slices.Chunk(byEntry[entry], maxUpdates) {
			last := len(out) - 1
			if last >= 0 && out[last].items[0].object == chunk[0].object &&
				len(out[last].items)+len(chunk) <= maxUpdates && p.rng.IntN(100) < 70 {
				out[last].items = append(out[last].items, chunk...)
				continue
			}
			out = append(out, delivery{items: slices.Clone(chunk)})
		}
	}
	return out
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

// target is the callback URL of an object.
func (e *Engine) target(object string) string {
	_, callback, _ := e.opts.Graph.appFields(e.app.ID, object)
	return cmp.Or(callback, e.opts.Target)
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

func (e *Engine) count(items []item, change func(*Counters)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, i := range items {
		c := e.counters[i.page]
		if c == nil {
			c = &Counters{}
			e.counters[i.page] = c
		}
		change(c)
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

// number is an id that Meta writes as a JSON number.
func number(id string) json.Number { return json.Number(id) }
