package streams

import (
	"fmt"
	"runtime"

	"github.com/nats-io/nats.go"
)

// item is one event of a request on its way.
type item struct {
	req *request
	at  int
	msg *nats.Msg
	id  string
	// retried is set when an answer was lost and the event may be stored.
	retried bool
}

// commit is the committer: the only goroutine that publishes, save for Append.
func (p *Publisher) commit() {
	defer close(p.done)
	for {
		_, open := <-p.wake
		for {
			p.mu.Lock()
			batch := p.queue
			p.queue = nil
			p.mu.Unlock()
			if len(batch) == 0 {
				break
			}
			p.store(batch)
			var n int
			var bytes int64
			for _, r := range batch {
				n += len(r.messages)
				bytes += r.bytes
			}
			p.mu.Lock()
			p.waiting -= n
			p.bytes -= bytes
			p.mu.Unlock()
			runtime.Gosched() // callers just answered may have more for the next drain
		}
		if !open {
			return
		}
	}
}

// store settles every request of one drain.
func (p *Publisher) store(batch []*request) {
	var items []*item
	for _, r := range batch {
		for i, m := range r.messages {
			items = append(items, &item{req: r, at: i, msg: m, id: m.Header.Get(HeaderMsgID)})
		}
	}
	fresh, followers := p.sift(items)
	for len(fresh) > 0 {
		n := p.chunk(fresh)
		if n >= p.opts.BatchThreshold {
			p.storeBatch(fresh[:n])
		} else {
			p.storeSingly(fresh[:n])
		}
		fresh = fresh[n:]
	}
	for _, f := range followers {
		if f.first.req.err != nil {
			f.item.fail(f.first.req.err)
			continue
		}
		f.item.settle(f.first.req.receipts[f.first.at].Seq, ByWindow)
	}
}

// follower is an item whose id another item of the same drain has.
type follower struct{ item, first *item }

// sift settles what is known already and returns what has to be published, and
// what has to wait for an item that is.
func (p *Publisher) sift(items []*item) (fresh []*item, followers []follower) {
	first := make(map[string]*item, len(items))
	ids := make([]string, 0, len(items))
	for _, it := range items {
		if f, again := first[it.id]; again {
			followers = append(followers, follower{it, f})
			continue
		}
		first[it.id] = it
		if seq, ok := p.recent.get(it.id); ok {
			it.settle(seq, ByWindow)
			continue
		}
		fresh = append(fresh, it)
		ids = append(ids, it.id)
	}
	if p.opts.Seen == nil || len(fresh) == 0 {
		return fresh, followers
	}
	seqs, err := p.opts.Seen.Seen(ids)
	if err == nil && len(seqs) != len(ids) {
		err = fmt.Errorf("%d answers for %d ids", len(seqs), len(ids))
	}
	if err != nil {
		// Without the index an old duplicate would get in; better not now.
		for _, it := range fresh {
			it.fail(fmt.Errorf("%w: look ids up: %w", ErrUnavailable, err))
		}
		return nil, followers
	}
	rest := fresh[:0]
	for i, it := range fresh {
		if seqs[i] > 0 {
			it.settle(seqs[i], ByIndex)
			continue
		}
		rest = append(rest, it)
	}
	return rest, followers
}

// maxBatchBytes bounds one atomic batch, and so what the server stages.
const maxBatchBytes = 16 << 20

// chunk returns how many items from the front go together.
func (p *Publisher) chunk(items []*item) int {
	bytes := 0
	for i, it := range items {
		bytes += it.msg.Size()
		if i > 0 && (i >= p.opts.MaxBatch || bytes > maxBatchBytes) {
			return i
		}
	}
	return len(items)
}

func (p *Publisher) stored(it *item, seq uint64, d Duplicate) {
	p.newest = max(p.newest, seq)
	p.recent.put(it.id, seq)
	it.settle(seq, d)
}

func (it *item) settle(seq uint64, d Duplicate) {
	it.req.receipts[it.at] = Receipt{Seq: seq, Duplicate: d}
	it.req.settled()
}

// fail fails the whole request: its caller answers for all of it.
func (it *item) fail(err error) {
	if it.req.err == nil {
		it.req.err = err
	}
	it.req.settled()
}

// settled counts one event down; with the last the caller goes on.
func (r *request) settled() {
	if r.open--; r.open == 0 {
		close(r.done)
	}
}
