package streams

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/internal/backoff"
)

// maxSingly is the most single publishes that wait for an acknowledgement, so that the last of them is
// acknowledged in time even on a slow disk.
const maxSingly = 128

// Bounds of the pause between two attempts after a lost acknowledgement, and how many "no responders"
// answers mean that the stream is unavailable.
const (
	retryMin     = 25 * time.Millisecond
	retryMax     = time.Second
	noResponders = 3
)

// tooLarge are the server's error codes for an event that is too large, which a retry can't change.
var tooLarge = []jetstream.ErrorCode{jetstream.JSErrCodeStreamMessageExceedsMaximum, codeHeaderExceedsMaximum}

// aboutSpace are the server's error codes for an event for which there is no space: in the store, in the account,
// and in the stream.
var aboutSpace = []jetstream.ErrorCode{10023, 10002, 10047, 10077}

// aboutEvent are the server's error codes that say nothing about whether the stream takes other events.
var aboutEvent = append([]jetstream.ErrorCode{codeDuplicateInBatch, codeDuplicateConflict}, tooLarge...)

const (
	codeHeaderExceedsMaximum jetstream.ErrorCode = 10097
	// codeDuplicateConflict is returned by a replicated stream while a message with the same id is
	// being stored.
	codeDuplicateConflict jetstream.ErrorCode = 10158
)

// errAnswersLost is the error of a publish whose answer is not waited for any more; see [Publisher.Resend].
var errAnswersLost = errors.New("the stream has another leader")

// storeSingly publishes the items one by one, up to maxSingly at the same time, and sends those again
// whose acknowledgement was lost; JetStream's dedup window makes that safe. It gives up on them when no
// caller waits for them any more, or after RetryFor.
//
// Of a shared stream each page has one event on the way only: the stream may get another leader between two, and then
// the first may be lost and the second stored.
func (p *Publisher) storeSingly(items []*item) {
	for len(items) > maxSingly {
		p.storeSingly(items[:maxSingly])
		items = p.hopeful(items[maxSingly:])
	}
	floor := p.newest // a duplicate above this sequence may be our own first attempt
	deadline := time.Now().Add(p.opts.RetryFor)
	pause, unanswered := backoff.Backoff{Min: retryMin, Max: retryMax}, 0
	for {
		start := time.Now()
		now, later := items, []*item(nil)
		if p.opts.Shared {
			now = heads(items)
			later = slices.DeleteFunc(slices.Clone(items), func(it *item) bool { return slices.Contains(now, it) })
		}
		unknown, err := p.publishSingly(now, floor)
		p.opts.Observe(BatchObservation{Size: len(now), Took: time.Since(start), Err: err})
		if items = slices.Concat(unknown, p.hopeful(later)); len(items) == 0 {
			return
		}
		if len(unknown) == 0 { // the next of each page
			continue
		}
		if errors.Is(err, jetstream.ErrNoStreamResponse) {
			unanswered++
		}
		if unanswered >= noResponders || errors.Is(err, nats.ErrConnectionClosed) || !time.Now().Before(deadline) ||
			!awaited(items) || pause.Wait(p.abandoned) != nil {
			for _, it := range items {
				it.fail(fmt.Errorf("%w: %w", ErrUnavailable, err))
			}
			return
		}
	}
}

// heads returns the first item of each page.
func heads(items []*item) (out []*item) {
	seen := make(map[domain.PageID]bool, len(items))
	for _, it := range items {
		if !seen[it.page] {
			seen[it.page] = true
			out = append(out, it)
		}
	}
	return out
}

// hopeful returns the items that may still be stored. Of a shared stream the rest of a call is not when one of its
// events could not be: the call comes again, and its events would be stored in another order.
func (p *Publisher) hopeful(items []*item) (out []*item) {
	if !p.opts.Shared {
		return items
	}
	for _, it := range items {
		if err := it.req.err; errors.Is(err, ErrUnavailable) {
			it.fail(err)
			continue
		}
		out = append(out, it)
	}
	return out
}

// awaited reports whether the caller of any of the items still waits.
func awaited(items []*item) bool {
	for _, it := range items {
		if it.req.ctx.Err() == nil {
			return true
		}
	}
	return false
}

// publishSingly sends each item once and completes those that were acknowledged or refused. It returns
// the items whose result is unknown, in order, and the last error.
func (p *Publisher) publishSingly(items []*item, floor uint64) (unknown []*item, failed error) {
	if err := p.connected(); err != nil {
		return items, err
	}
	answering := p.answering()
	acks := make([]jetstream.PubAckFuture, len(items))
	errs := make([]error, len(items))
	for i, it := range items {
		// A retry inside the client would change the order.
		acks[i], errs[i] = p.async.PublishMsgAsync(
			&nats.Msg{Subject: it.msg.Subject, Data: it.msg.Data, Header: it.msg.Header},
			jetstream.WithStallWait(p.opts.AckTimeout), jetstream.WithExpectStream(p.opts.Stream),
			jetstream.WithRetryAttempts(0))
	}
	for i, it := range items {
		err := errs[i]
		if err == nil {
			select { // it does not wait longer than AckTimeout, after which the client reports an error
			case ack := <-acks[i].Ok():
				d := NotDuplicate
				if ack.Duplicate && !(it.retried && ack.Sequence > floor) {
					d = ByWindow
				}
				p.markStored(it, ack.Sequence, d)
				continue
			case err = <-acks[i].Err():
			case <-answering.Done():
				err = errAnswersLost
			}
		}
		failed = err
		var api *jetstream.APIError
		if !errors.As(err, &api) || api.ErrorCode == codeDuplicateConflict {
			it.retried = true
			unknown = append(unknown, it)
			continue
		}
		if slices.Contains(tooLarge, api.ErrorCode) {
			it.fail(fmt.Errorf("%w: %w", ErrTooLarge, err))
			continue
		}
		it.fail(fmt.Errorf("%w: %w", ErrUnavailable, err))
	}
	return unknown, failed
}

// connected returns an error unless the connection is up. While it is down the client would buffer
// events and might send them after their callers stopped waiting.
func (p *Publisher) connected() error {
	switch p.nc.Status() {
	case nats.CONNECTED:
		return nil
	case nats.CLOSED:
		return nats.ErrConnectionClosed
	default:
		return nats.ErrDisconnected
	}
}
