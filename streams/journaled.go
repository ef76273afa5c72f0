package streams

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
)

// primeTimeout bounds the reading of the ids that the index does not have yet.
const primeTimeout = 10 * time.Second

// storeJournaled stores the items of one round in the journal. An event with a condition is stored by itself, so that
// those after it are judged by what it decides.
func (p *Publisher) storeJournaled(items []*item) {
	if err := p.prime(); err != nil {
		for _, it := range items {
			it.fail(fmt.Errorf("%w: %w", ErrUnavailable, err))
		}
		return
	}
	for len(items) > 0 {
		n := slices.IndexFunc(items, func(it *item) bool { return it.after != nil })
		switch {
		case n == 0:
			p.storeConditional(items[0])
			n = 1
		case n < 0:
			n = len(items)
			fallthrough
		default:
			p.storeUnconditional(items[:n])
		}
		items = items[n:]
	}
}

// storeInJournal stores items that are new.
func (p *Publisher) storeInJournal(items []*item) {
	for len(items) > 0 {
		n := p.batchLen(items)
		batch := items[:n]
		items = items[n:]
		start := time.Now()
		first, err := p.journal.append(batch)
		p.opts.Observe(BatchObservation{Size: n, Atomic: true, Took: time.Since(start), Err: err})
		for i, it := range batch {
			if err != nil {
				it.fail(fmt.Errorf("%w: %w", ErrUnavailable, err))
				continue
			}
			p.markStored(it, first+uint64(i), NotDuplicate)
			p.pageOrder.stored(it.msg.Subject, first+uint64(i))
		}
	}
}

// storeConditional stores an item if the page's last event with the same noun is the expected one.
func (p *Publisher) storeConditional(it *item) {
	if seq, ok := p.recentOf(it); ok {
		p.found(it, seq, ByWindow)
		return
	}
	noun := nounOf(it.msg.Subject)
	last := p.journal.lastOf(noun)
	if last == 0 {
		ctx, cancel := context.WithTimeout(it.req.ctx, p.opts.AckTimeout)
		defer cancel()
		var err error
		if last, err = p.storedLast(ctx, noun); err != nil {
			it.fail(err)
			return
		}
	}
	if last != *it.after {
		it.fail(ErrConflict)
		return
	}
	p.unchecked(it)
	p.storeInJournal([]*item{it})
}

// appendToJournal is Append with a journal.
func (p *Publisher) appendToJournal(ctx context.Context, e domain.Event, expectedLast uint64) (Receipt, error) {
	events := []domain.Event{e}
	key := flowOf(events)
	if err := p.admit(key, 1); err != nil {
		return Receipt{}, fmt.Errorf("append %s: %w", e.Type, err)
	}
	r, err := p.request(ctx, key, events)
	if err == nil {
		r.items[0].after, r.items[0].claim = &expectedLast, nil
	}
	receipts, err := p.wait(ctx, r, key, 1, err)
	if err != nil {
		return Receipt{}, fmt.Errorf("append %s: %w", e.Type, err)
	}
	return receipts[0], nil
}

// stored takes note of an event in the journal, if it connects a page. Only the committer calls it.
func (o *pageOrder) stored(subject string, seq uint64) {
	if _, t, err := ParseSubject(subject); err == nil && t.Noun() == domain.PageConnected.Noun() {
		o.last = max(o.last, seq)
	}
}

// indexed returns up to which sequence the index finds duplicates, 0 while that is not known.
func (p *Publisher) indexed() uint64 {
	if p.journal == nil { // JetStream's window finds the others
		return math.MaxUint64
	}
	if p.opts.Seen == nil {
		return 0
	}
	_, upto, err := p.opts.Seen.Seen(nil)
	if err != nil {
		return 0
	}
	return upto
}

// remember adds the id of an event with its own time to those that were stored recently.
func (p *Publisher) remember(id string, at time.Time, seq uint64) {
	p.recent.put(id, at, seq, p.indexed)
	p.remembered.Store(p.recent.forgotten)
}

// prime remembers the ids of the stream's events that the index does not have yet. It does so once.
func (p *Publisher) prime() error {
	if p.primed || p.opts.Seen == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(p.abandoned, primeTimeout)
	defer cancel()
	if err := p.journal.Flush(ctx); err != nil { // the ids of what waits for JetStream were known until Forget
		return fmt.Errorf("read the ids of the last events: %w", err)
	}
	last, err := Last(ctx, p.js, p.opts.Stream)
	if err != nil {
		return fmt.Errorf("read the ids of the last events: %w", err)
	}
	from := max(p.indexed(), last-min(last, 2*recentGeneration)) + 1 // the index has to catch up with those before
	if from > last {
		p.primed = true
		return nil
	}
	_, err = each(ctx, p.js, ReadOptions{Stream: p.opts.Stream, From: from, To: last}, func(a *arrival) error {
		p.remember(a.header.Get(jetstream.MsgIDHeader), time.Time{}, a.seq) // see window.from
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the ids of the last events: %w", err)
	}
	p.recent.forgotten = max(p.recent.forgotten, from-1)
	p.remembered.Store(p.recent.forgotten)
	p.primed = true
	return nil
}
