package streams

import (
	"fmt"
	"slices"
	"time"

	"github.com/pagestream/pagestream/domain"
)

// Bounds of a round, which is what the committer stores at once.
const (
	// maxRound is the most events of a round.
	maxRound = DefaultMaxBatch
	// minTurn and maxTurn bound the events, and turnBytes the bytes, that one page may store in a round
	// while other pages store events too; see [pace].
	minTurn   = 64
	turnSizes = 3 // 64, 128 and 256 events
	turnBytes = 1 << 20
	roundTime = 10 * time.Millisecond
	// calm is how long no other page must have stored events for a page to fill whole rounds.
	calm = time.Second
)

// flowKey identifies a flow: a page, and the app that delivered its events.
type flowKey struct {
	app  string
	page domain.PageID
}

// flowOf returns the flow of a call: its app and the page that most of its events have.
func flowOf(events []domain.Event) flowKey {
	key := flowKey{events[0].Data.App, events[0].Page}
	if !slices.ContainsFunc(events, func(e domain.Event) bool { return e.Page != key.page }) {
		return key
	}
	count, most := map[domain.PageID]int{}, 0
	for _, e := range events {
		count[e.Page]++
		if n := count[e.Page]; n > most {
			key.page, most = e.Page, n
		}
	}
	return key
}

// flow is the queue of the requests of one page, first come, first served.
type flow struct {
	key      flowKey
	requests []*request
	waiting  int    // events that were not taken yet
	round    uint64 // the last round in which it had its turn
	// served counts the events that were taken since the time since, which tells its rate.
	served int
	since  time.Time
}

// rateWindow is how long the rate of a flow is remembered, minRateAge how long it must have been measured, and
// minRateServed with how many events.
const (
	rateWindow    = 2 * time.Second
	minRateAge    = rateWindow / 2
	minRateServed = 4 * minTurn
)

// delay estimates how long a new request would wait for its turn.
func (f *flow) delay(now time.Time) time.Duration {
	if f.waiting == 0 {
		return 0
	}
	oldest, age := now.Sub(f.requests[0].at), now.Sub(f.since)
	if f.served < minRateServed || age < minRateAge { // a rate of a few turns says little
		return oldest
	}
	return max(oldest, time.Duration(float64(age)*float64(f.waiting)/float64(f.served)))
}

// appQueue has the flows of one app that have waiting requests.
type appQueue struct {
	// fresh are flows that had nothing waiting before; they are served first, so that a page that
	// sends little does not wait for one that sends much. The others are in old.
	fresh, old []*flow
	waiting    int // events that are being encoded or wait
}

// queue has the requests that wait for the committer, by app and page. Apps take turns, and so do the
// pages of an app. Its fields are guarded by the publisher's mutex.
type queue struct {
	apps  map[string]*appQueue // all that were ever used
	ring  []*appQueue          // the same, in the order of their next turn
	flows map[flowKey]*flow    // those with waiting requests
	// coming counts the events that are being encoded.
	coming map[flowKey]int
	round  uint64
	pace   pace
	// full is set if a page used its whole turn in the last round.
	full bool
	// waiting counts the events that are being encoded, wait, or are being stored; bytes has the bytes
	// of the last two.
	waiting int
	bytes   int64
	// last is the flow of the last request, mixed the last time that another flow than before had one.
	last  flowKey
	mixed time.Time
}

// admit reserves room for n events of a call that is being encoded, until add or give. It fails with
// [ErrOverloaded] if the limit is used up, or the app's or the page's share of it: a page may have half, and
// an app three quarters if there are several. So no page and no app can take all of it.
func (q *queue) admit(key flowKey, n, limit int) error {
	if q.flows == nil {
		q.flows, q.apps, q.coming = map[flowKey]*flow{}, map[string]*appQueue{}, map[flowKey]int{}
	}
	a := q.apps[key.app]
	if a == nil {
		a = &appQueue{}
		q.apps[key.app] = a
		q.ring = append(q.ring, a)
	}
	switch page := q.of(key); {
	case q.waiting > 0 && q.waiting+n > limit:
		return fmt.Errorf("%d events are waiting: %w", q.waiting, ErrOverloaded)
	case page > 0 && page+n > limit/2:
		return fmt.Errorf("%d events of the page are waiting: %w", page, ErrOverloaded)
	case len(q.apps) > 1 && a.waiting > 0 && a.waiting+n > limit*3/4:
		return fmt.Errorf("%d events of the app are waiting: %w", a.waiting, ErrOverloaded)
	}
	q.coming[key] += n
	a.waiting += n
	q.waiting += n
	return nil
}

// of returns how many events of a flow wait or are being encoded.
func (q *queue) of(key flowKey) int {
	n := q.coming[key]
	if f := q.flows[key]; f != nil {
		n += f.waiting
	}
	return n
}

// arrived takes n events from those that are being encoded.
func (q *queue) arrived(key flowKey, n int) {
	if q.coming[key] -= n; q.coming[key] == 0 {
		delete(q.coming, key)
	}
}

// give gives back the room of a call that is not added.
func (q *queue) give(key flowKey, n int) {
	q.arrived(key, n)
	q.apps[key.app].waiting -= n
	q.waiting -= n
}

// bytes returns the size of all messages of the request.
func (r *request) bytes() (n int64) {
	for i := range r.items {
		n += int64(r.items[i].size)
	}
	return n
}

// add puts a request that was admitted at the end of its flow.
func (q *queue) add(r *request) {
	a, f := q.apps[r.key.app], q.flows[r.key]
	if f == nil {
		f = &flow{key: r.key, since: r.at}
		q.flows[r.key] = f
		a.fresh = append(a.fresh, f)
	}
	f.requests = append(f.requests, r)
	f.waiting += len(r.items)
	q.arrived(r.key, len(r.items))
	q.bytes += r.bytes()
	if r.key != q.last {
		q.last, q.mixed = r.key, r.at
	}
}

// take removes the events of the next round from the queue.
func (q *queue) take(now time.Time) (round []*item) {
	q.round++
	most, size := q.pace.turn(), turnBytes
	q.full = false
	if len(q.flows) == 1 && now.Sub(q.mixed) > calm { // nobody else would wait
		most, size = maxRound, maxBatchBytes
	}
	left := maxRound
	turn := func(a *appQueue, f *flow) {
		items := q.turn(a, f, min(left, most), size, now)
		q.full = q.full || len(items) == minTurn<<q.pace.size
		round, left = append(round, items...), left-len(items)
	}
	// The fresh flows leave something for the others.
	q.turns(func(a *appQueue) *[]*flow { return &a.fresh }, func() bool { return left > maxRound/4 }, turn)
	q.turns(func(a *appQueue) *[]*flow { return &a.old }, func() bool { return left > 0 }, turn)
	return round
}

// turns gives each flow of a list its turn while there is room, one of each app after another.
func (q *queue) turns(list func(*appQueue) *[]*flow, room func() bool, turn func(*appQueue, *flow)) {
	for idle := 0; room() && idle < len(q.ring); {
		a := q.ring[0]
		q.ring = append(q.ring[1:], a)
		flows := list(a)
		if len(*flows) == 0 || (*flows)[0].round == q.round {
			idle++
			continue
		}
		idle = 0
		f := (*flows)[0]
		*flows = (*flows)[1:]
		f.round = q.round
		turn(a, f)
		if len(f.requests) > 0 {
			a.old = append(a.old, f)
		} else {
			delete(q.flows, f.key)
		}
	}
}

// turn takes at most n events of a flow, and not many more bytes than size.
func (q *queue) turn(a *appQueue, f *flow, n, size int, now time.Time) (items []*item) {
	for len(f.requests) > 0 {
		r := f.requests[0]
		switch {
		case r.next == len(r.items):
			f.requests = f.requests[1:]
			continue
		case r.err != nil: // the others are not stored either
			q.leave(r)
			close(r.done)
			continue
		case r.ctx.Err() != nil:
			q.leave(r)
			continue
		case len(items) == n || size <= 0:
		default:
			it := &r.items[r.next]
			items = append(items, it)
			size -= it.size
			r.next++
			continue
		}
		break
	}
	f.waiting -= len(items)
	a.waiting -= len(items)
	if age := now.Sub(f.since); age > rateWindow {
		f.since, f.served = now.Add(-age/2), f.served/2
	}
	f.served += len(items)
	return items
}

// leave removes the events of a request that were not taken yet. They will not be stored.
func (q *queue) leave(r *request) {
	n := len(r.items) - r.next
	for ; r.next < len(r.items); r.next++ {
		q.bytes -= int64(r.items[r.next].size)
	}
	q.waiting -= n
	q.flows[r.key].waiting -= n
	q.apps[r.key.app].waiting -= n
}

// stored counts the items of a round, which took so long, as stored, or refused.
func (q *queue) stored(items []*item, took time.Duration) {
	if q.full {
		q.pace.observe(took)
	}
	q.waiting -= len(items)
	for _, it := range items {
		q.bytes -= int64(it.size)
	}
}

// pace chooses the size of a turn. A larger one costs fewer disk syncs and delays the other pages longer, so
// it is the largest with which a round takes no longer than roundTime. If every round takes longer, it is
// the largest that stores twice as many events in less than 1.25 times the time: a smaller one would save
// little.
type pace struct {
	size   int // the turn has minTurn << size events
	took   [turnSizes]time.Duration
	rounds int
}

// exploreEvery is after how many rounds another size is tried.
const exploreEvery = 32

func (p *pace) turn() int { return minTurn << p.size }

// observe takes account of a round with a whole turn, and chooses the next size.
func (p *pace) observe(took time.Duration) {
	t := &p.took[p.size]
	if *t == 0 {
		*t = took
	}
	*t += (took - *t) / 8
	p.size = 0
	for i := 1; i < turnSizes && (p.took[i] <= roundTime || 4*p.took[i] < 5*p.took[i-1]); i++ {
		p.size = i
	}
	if p.rounds++; p.rounds%exploreEvery == 0 {
		p.size = p.rounds / exploreEvery % turnSizes
	}
}
