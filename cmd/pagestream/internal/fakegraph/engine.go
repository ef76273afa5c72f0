package fakegraph

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// Errors of an [Engine].
var (
	// ErrRunning is returned when an engine is already running.
	ErrRunning = errors.New("delivery engine is already running")
	// ErrUndelivered is returned when a POST was not answered 200 in time, or was not
	// sent because delivery is off.
	ErrUndelivered = errors.New("webhook was not delivered")
)

// maxInFlight is the maximum number of POSTs that are in flight or wait to be sent
// again. While it is reached, no new events are generated.
const maxInFlight = 256

// EngineOptions configure an [Engine]. Graph and Target are required.
type EngineOptions struct {
	Graph *Graph
	// App is the app whose webhook this is; default the first.
	App string
	// Target is the app's callback URL. A callback URL that the app has subscribed
	// with replaces it.
	Target string
	// Rate is the number of events per second of all pages together; default 2.
	Rate float64
	// Seed determines the traffic. RunID is part of every message id, so that a
	// second run against the same store has new ids; default the start time.
	Seed  uint64
	RunID string
	// Duplicates is the percentage of POSTs whose items are sent again in another
	// POST with another entry.time. Reorder is the percentage of items that are sent
	// one to four flushes late, Standby of items that are sent as standby.
	Duplicates, Reorder, Standby int
	// NumericIDs is the percentage of items whose sender and recipient are JSON
	// numbers, OddTimes of items whose timestamp is 0, in seconds or a string, and
	// EditsFirst of text messages that are sent one flush after their first edit.
	NumericIDs, OddTimes, EditsFirst int
	// Changes is the percentage of events that are comments and reactions on posts, and
	// leads, instead of messages.
	Changes int
	// Opening is the number of events that each page has at once when the app is first
	// seen to be subscribed to it, besides Rate. A quiet page has none.
	Opening int
	// EchoDelay is how long after the Send API's reply the echo is queued; 0 is the
	// next flush. If it is negative, the echo is POSTed before the reply.
	EchoDelay time.Duration
	// Flush is the interval at which events are generated and POSTed; default
	// 250 ms.
	Flush time.Duration
	// Timeout is how long an answer may take; default 5 s.
	Timeout time.Duration
	// Scale is the speed of the clock for retries and for the hour of failures: at
	// 60 that hour is a minute. Default 1.
	Scale  float64
	HTTP   *http.Client
	Logger *slog.Logger
	Now    func() time.Time
}

// Engine is Meta's delivery of webhooks to one app. Make one with [NewEngine].
type Engine struct {
	opts    EngineOptions
	graph   *Graph
	app     App
	gen     *generator
	plan    *planner    // used by the caller of Run or Step only
	running atomic.Bool // true during Run and Step
	outage  atomic.Bool
	// duplicates and reorder are percentages; see [EngineOptions].
	duplicates, reorder atomic.Int32

	mu       sync.Mutex
	counters map[string]Counters
	queue    []later[item]   // echoes of the Send API and messages of Say
	standby  map[string]bool // pages whose threads another app owns
	quiet    map[string]bool // pages whose people write nothing
	muted    map[string]bool // pages of which nothing is delivered
	secret   string          // the signing secret; empty is the app's
}

// NewEngine returns an engine; see [Engine.Run] and [Engine.Step]. [ErrOptions] is
// returned when the options are not valid.
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
	for _, percent := range []int{o.Duplicates, o.Reorder, o.Standby, o.NumericIDs, o.OddTimes, o.EditsFirst, o.Changes} {
		if percent < 0 || percent > 100 {
			return nil, fmt.Errorf("%w: %d is not a percentage", ErrOptions, percent)
		}
	}
	if o.Opening < 0 || o.Opening > maxTick {
		return nil, fmt.Errorf("%w: %d events at once are not 0 to %d", ErrOptions, o.Opening, maxTick)
	}
	o.Rate = cmp.Or(max(o.Rate, 0), 2)
	o.Flush = cmp.Or(max(o.Flush, 0), 250*time.Millisecond)
	o.Timeout = cmp.Or(max(o.Timeout, 0), 5*time.Second)
	o.Scale = cmp.Or(max(o.Scale, 0), 1)
	o.HTTP = cmp.Or(o.HTTP, &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: maxInFlight}})
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	if o.Now == nil {
		o.Now = time.Now
	}
	o.RunID = cmp.Or(o.RunID, strconv.FormatInt(o.Now().UnixNano(), 36))
	e := &Engine{
		opts: o, graph: o.Graph, app: app, counters: map[string]Counters{},
		standby: map[string]bool{}, quiet: map[string]bool{}, muted: map[string]bool{},
		gen: &generator{
			graph: o.Graph, app: app, opts: o, rng: rand.New(rand.NewPCG(o.Seed, 1)),
			threads: map[string]*thread{},
		},
	}
	e.SetDuplicates(o.Duplicates)
	e.SetReorder(o.Reorder)
	e.plan = &planner{e: e, rng: rand.New(rand.NewPCG(o.Seed, 2)), last: o.Now(), known: map[string]bool{}}
	return e, nil
}

// testWebhook is the delivery that the Test button of Meta's dashboard sends.
const testWebhook = `{"entry":[{"changes":[{"field":"messages","value":{` +
	`"message":{"mid":"random_mid","text":"random_text"},"recipient":{"id":"23245"},"sender":{"id":"12334"},` +
	`"timestamp":"1527459824"}}],"id":"0","time":1514862760}],"object":"page"}`

// SendTest does what the Test button of Meta's dashboard does: it sends one signed
// POST with a made-up old message of page "0" as a change. [ErrUndelivered] is
// returned when the POST is not answered 200; it is not sent again.
func (e *Engine) SendTest(ctx context.Context) error {
	if e.outage.Load() {
		return fmt.Errorf("test webhook: delivery is off: %w", ErrUndelivered)
	}
	if !e.post(ctx, objectPage, testWebhook) {
		return fmt.Errorf("test webhook: %w", ErrUndelivered)
	}
	return nil
}

// Say makes a person write a message to a page now and returns its mid. The message
// is delivered with the next flush, if the app is subscribed to it and delivery is
// on, also on a quiet page. [ErrUnknown] is returned when the page has no such
// contact.
func (e *Engine) Say(page, psid, text string) (mid string, err error) {
	if c := e.graph.contacts[psid]; c == nil || c.page != page {
		return "", fmt.Errorf("contact of page %s: %w", page, ErrUnknown)
	}
	i, mid := e.gen.say(page, psid, text, e.opts.Now())
	if e.record(&i) {
		e.enqueue(i, 0)
	}
	return mid, nil
}

// Run generates traffic and delivers it until the context ends, which is not an
// error. POSTs in flight are then canceled, and Run waits for them. [ErrRunning] is
// returned when the engine is already running.
func (e *Engine) Run(ctx context.Context) error {
	if !e.running.CompareAndSwap(false, true) {
		return ErrRunning
	}
	e.graph.setActive(e, true)
	var posts errgroup.Group
	posts.SetLimit(maxInFlight)
	defer func() {
		e.graph.setActive(e, false)
		_ = posts.Wait() // the functions return nil
		e.opts.HTTP.CloseIdleConnections()
		e.running.Store(false)
	}()
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
			posts.Go(func() error {
				if ctx.Err() == nil { // it may have ended while the POST was waiting
					e.deliver(ctx, d)
				}
				return nil
			})
		}
	}
}

// Step does one flush without [Engine.Run]: it generates the events since the last
// flush and sends them, one POST after the other, until each is answered 200 or
// given up. With an injected clock and no concurrent calls, the traffic depends
// on the seed only. [ErrRunning] is returned while the engine is running, and the
// context's error when the context ends.
func (e *Engine) Step(ctx context.Context) error {
	if !e.running.CompareAndSwap(false, true) {
		return ErrRunning
	}
	defer e.running.Store(false)
	e.graph.setActive(e, true)
	for _, d := range e.plan.flush() {
		e.deliver(ctx, d)
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("step the delivery engine: %w", err)
		}
	}
	return nil
}

// setActive adds an engine to the active ones, or removes it; see
// [Graph.activeEngines].
func (g *Graph) setActive(e *Engine, on bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if on {
		g.engines[e] = struct{}{}
	} else {
		delete(g.engines, e)
	}
}
