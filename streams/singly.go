package streams

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/internal/backoff"
)

// maxSingly bounds the single publishes under way, so that the last of them is
// answered in time on a slow disk too.
const maxSingly = 128

// Pause between two tries after a lost answer, and how often nobody may answer
// at all before that counts as unavailable.
const (
	retryMin     = 25 * time.Millisecond
	retryMax     = time.Second
	noResponders = 3
)

// tooLarge are the server's words for an event that no retry makes smaller.
var tooLarge = []jetstream.ErrorCode{jetstream.JSErrCodeStreamMessageExceedsMaximum, codeHeaderExceedsMaximum}

const (
	codeHeaderExceedsMaximum jetstream.ErrorCode = 10097
	// codeDuplicateConflict says that the same id is on its way already, on a
	// replicated stream.
	codeDuplicateConflict jetstream.ErrorCode = 10158
)

// storeSingly publishes the items one by one, several on their way at once, and
// sends again those whose answer was lost: the window makes that safe. It gives
// up on them when nobody waits for them any more, or after RetryFor.
func (p *Publisher) storeSingly(items []*item) {
	for len(items) > maxSingly {
		p.storeSingly(items[:maxSingly])
		items = items[maxSingly:]
	}
	floor := p.newest // what is found stored above it may be of our own first try
	deadline := time.Now().Add(p.opts.RetryFor)
	pause, silent := backoff.Backoff{Min: retryMin, Max: retryMax}, 0
	for {
		start := time.Now()
		n := len(items)
		var err error
		items, err = p.publishSingly(items, floor)
		p.opts.Observe(BatchObservation{Size: n, Took: time.Since(start), Err: err})
		if len(items) == 0 {
			return
		}
		if errors.Is(err, jetstream.ErrNoStreamResponse) {
			silent++
		}
		if silent >= noResponders || errors.Is(err, nats.ErrConnectionClosed) || !time.Now().Before(deadline) ||
			!awaited(items) || pause.Wait(p.abandoned) != nil {
			for _, it := range items {
				it.fail(fmt.Errorf("%w: %w", ErrUnavailable, err))
			}
			return
		}
	}
}

// awaited reports whether any of the items still has a caller.
func awaited(items []*item) bool {
	for _, it := range items {
		if it.req.ctx.Err() == nil {
			return true
		}
	}
	return false
}

// publishSingly sends each item once. It returns those whose fate is unknown,
// in order, and the last error that it met.
func (p *Publisher) publishSingly(items []*item, floor uint64) (unknown []*item, failed error) {
	if err := p.connected(); err != nil {
		return items, err
	}
	acks := make([]jetstream.PubAckFuture, len(items))
	errs := make([]error, len(items))
	for i, it := range items {
		// A retry inside the client would change the order.
		acks[i], errs[i] = p.async.PublishMsgAsync(&nats.Msg{Subject: it.msg.Subject, Data: it.msg.Data, Header: it.msg.Header},
			jetstream.WithStallWait(p.opts.AckTimeout), jetstream.WithExpectStream(p.opts.Stream), jetstream.WithRetryAttempts(0))
	}
	for i, it := range items {
		err := errs[i]
		if err == nil {
			select { // bounded: the client ends each after AckTimeout
			case ack := <-acks[i].Ok():
				d := NotDuplicate
				if ack.Duplicate && !(it.retried && ack.Sequence > floor) {
					d = ByWindow
				}
				p.stored(it, ack.Sequence, d)
				continue
			case err = <-acks[i].Err():
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

// connected keeps events out of the client's buffer, where they would outlive
// the wait for them.
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
