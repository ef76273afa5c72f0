package streams

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
)

// item is one event of a request while it is being stored.
type item struct {
	req   *request
	index int // in req.items and req.receipts
	msg   *nats.Msg
	size  int       // of msg, before it was judged
	grown int       // by how much msg is larger since
	event *Replayed // see frame
	page  domain.PageID
	claim *Claim // nil for an event that is not judged
	// after is the sequence that the page's last event with the same noun must have, nil without that condition.
	after *uint64
	id    string
	time  time.Time // the event's own
	// also are other ids under which the event may have been stored.
	also []string
	// foreign is set if the event is stored as foreign.
	foreign bool
	// retried is set after an answer was lost: the event may have been stored.
	retried bool
}

// runCommitter is the committer: the only goroutine that publishes, except for Append.
func (p *Publisher) runCommitter() {
	defer close(p.done)
	for {
		_, open := <-p.wake
		for {
			items := p.nextRound()
			if len(items) == 0 {
				break
			}
			p.store(items)
			p.mu.Lock()
			p.queue.stored(items, time.Since(p.round))
			p.mu.Unlock()
			p.yield(len(items))
		}
		if !open {
			return
		}
	}
}

// maxYields bounds how often the committer lets others go on before the next round.
const maxYields = 16

// yield lets those go on that just got their answer and may have more for the next round, until as many events wait as the
// last round had: a round costs one sync and one answer of JetStream, however many events it has. It does not wait: it
// returns at once if nobody else has anything to do.
func (p *Publisher) yield(stored int) {
	for range maxYields {
		runtime.Gosched()
		p.mu.Lock()
		waiting := p.queue.waiting
		p.mu.Unlock()
		if waiting >= stored {
			return
		}
	}
}

// nextRound takes the items of the next round from the queue, none if nothing waits.
func (p *Publisher) nextRound() []*item {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	items := p.queue.take(now)
	p.round = now
	if len(items) == 0 {
		p.round = time.Time{}
	}
	return items
}

// store stores the items of one round, and completes the requests of which they are the last.
func (p *Publisher) store(items []*item) {
	if after := p.forget.Swap(0); after > 0 {
		// What was stored before can be looked up in the index.
		p.recent, p.newest, p.primed = recent{}, min(p.newest, after-1), false
		p.window.from = later(p.window.from, time.Now().Round(0))
	}
	if p.journal != nil {
		p.storeJournaled(items)
		return
	}
	// A page is not connected while its events are judged and stored.
	p.pageOrder.RLock()
	defer p.pageOrder.RUnlock()
	p.storeUnconditional(items)
}

// storeUnconditional stores the items that are not stored yet.
func (p *Publisher) storeUnconditional(items []*item) {
	if p.opts.Judge != nil {
		if err := p.judge(items); err != nil {
			for _, it := range items {
				it.fail(fmt.Errorf("%w: judge whose pages they are: %w", ErrUnavailable, err))
			}
			return
		}
	}
	fresh, duplicates := p.deduplicate(items)
	if p.journal != nil {
		p.storeInJournal(fresh)
		fresh = nil
	}
	for len(fresh) > 0 {
		if fresh = p.hopeful(fresh); len(fresh) == 0 {
			break
		}
		n := p.batchLen(fresh)
		if n >= p.opts.BatchThreshold || p.opts.Shared && len(heads(fresh[:n])) < n {
			p.storeBatch(fresh[:n])
		} else {
			p.storeSingly(fresh[:n])
		}
		fresh = fresh[n:]
	}
	for _, d := range duplicates {
		if d.first.req.err != nil {
			d.item.fail(d.first.req.err)
			continue
		}
		d.item.complete(d.first.req.receipts[d.first.index].Seq, ByWindow)
	}
}

// duplicateItem is an item with the same id as an earlier item of the same round.
type duplicateItem struct{ item, first *item }

// deduplicate completes the items whose ids are already stored. It returns the items that must be
// published, and those that get the result of an earlier item of this round.
func (p *Publisher) deduplicate(items []*item) (fresh []*item, duplicates []duplicateItem) {
	first := make(map[string]*item, len(items))
	ids := make([]string, 0, len(items))
	for _, it := range items {
		if f, again := first[it.id]; again {
			duplicates = append(duplicates, duplicateItem{it, f})
			continue
		}
		first[it.id] = it
		if seq, ok := p.recentOf(it); ok {
			p.found(it, seq, ByWindow)
			continue
		}
		fresh = append(fresh, it)
		ids = append(append(ids, it.id), it.also...)
	}
	if len(fresh) == 0 {
		return fresh, duplicates
	}
	if p.opts.Seen == nil {
		p.unchecked(fresh...)
		return fresh, duplicates
	}
	p.window.look(time.Now(), fresh)
	seqs, upto, err := p.opts.Seen.Seen(ids)
	if err == nil && p.journal != nil && p.recent.forgotten > upto { // it had them, and was opened again as of an earlier event
		err = fmt.Errorf("%w: it has those up to event %d, and those up to event %d are not remembered any more",
			ErrIncomplete, upto, p.recent.forgotten)
	}
	incomplete := errors.Is(err, ErrIncomplete)
	if (err == nil || incomplete) && len(seqs) != len(ids) {
		err, incomplete = fmt.Errorf("%d answers for %d ids", len(seqs), len(ids)), false
	}
	if err != nil && !incomplete {
		// Without the index an old duplicate would be stored again, so the events are refused.
		for _, it := range fresh {
			it.fail(fmt.Errorf("%w: look up ids: %w", ErrUnavailable, err))
		}
		return nil, duplicates
	}
	rest := fresh[:0]
	for _, it := range fresh {
		n := 1 + len(it.also)
		if seq := slices.Max(seqs[:n]); seq > 0 {
			p.found(it, seq, ByIndex)
		} else if incomplete && !p.covered(it) {
			it.fail(fmt.Errorf("%w: look up ids: %w", ErrUnavailable, err))
		} else {
			if incomplete {
				p.unchecked(it)
			}
			rest = append(rest, it)
		}
		seqs = seqs[n:]
	}
	return rest, duplicates
}

// unchecked marks items whose ids were not compared with all ids of the stream; see [Stored].Unique.
func (p *Publisher) unchecked(items ...*item) {
	if p.journal == nil {
		return
	}
	for _, it := range items {
		it.msg.Header[jetstream.ExpectedStreamHeader] = []string{p.opts.Stream}
	}
}

// errReplaced is returned for an event that was found in the place of which the stream has others now.
var errReplaced = errors.New("the stream was replaced by one with other events")

// found completes an item whose id is stored already, or refuses it if that may be true of another stream only.
func (p *Publisher) found(it *item, seq uint64, d Duplicate) {
	var err error
	if p.opts.Current != nil {
		err = p.opts.Current()
	}
	if err == nil && p.forget.Load() > 0 { // since the id was looked up
		err = errReplaced
	}
	if err != nil {
		it.fail(fmt.Errorf("%w: look up ids: %w", ErrUnavailable, err))
		return
	}
	it.complete(seq, d)
}

// recentOf returns the sequence of an event that was stored recently, under any of its
// ids.
func (p *Publisher) recentOf(it *item) (uint64, bool) {
	seq, ok := p.recent.get(it.id)
	for _, id := range it.also {
		if !ok {
			seq, ok = p.recent.get(id)
		}
	}
	return seq, ok
}

// maxBatchBytes bounds one atomic batch, and with it what the server stages for it.
const maxBatchBytes = 16 << 20

// batchLen returns how many items, from the first on, may be published together.
func (p *Publisher) batchLen(items []*item) int {
	bytes := 0
	for i, it := range items {
		bytes += it.size
		if i > 0 && (i >= p.opts.MaxBatch || bytes > maxBatchBytes) {
			return i
		}
	}
	return len(items)
}

func (p *Publisher) markStored(it *item, seq uint64, d Duplicate) {
	p.newest = max(p.newest, seq)
	p.remember(it.id, it.time, seq)
	it.complete(seq, d)
}

func (it *item) complete(seq uint64, d Duplicate) {
	it.req.receipts[it.index] = Receipt{Seq: seq, Duplicate: d, Foreign: it.foreign}
	it.req.itemDone()
}

// fail makes the whole request fail: Publish returns one error for all events of a call.
func (it *item) fail(err error) {
	if it.req.err == nil {
		it.req.err = err
	}
	it.req.itemDone()
}

// itemDone counts one event as completed. After the last one the Publish call returns.
func (r *request) itemDone() {
	if r.pending--; r.pending == 0 {
		close(r.done)
	}
}
