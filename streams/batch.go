package streams

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/pagestream/pagestream/internal/backoff"
)

// Headers of an atomic batch publish (NATS ADR-50).
const (
	BatchIDHeader       = "Nats-Batch-Id"
	BatchSequenceHeader = "Nats-Batch-Sequence"
	BatchCommitHeader   = "Nats-Batch-Commit"

	// codeDuplicateInBatch is the error code for a batch with an id that JetStream already knows.
	codeDuplicateInBatch jetstream.ErrorCode = 10201
)

// storeBatch publishes the items as one atomic batch, which costs one disk sync for all of them.
// If that fails it publishes them one by one, which gives a result for each: JetStream rejects the
// whole batch if it knows one of the ids, and after a lost answer its dedup window recognises the
// items that were stored. Of a shared stream the whole batch is sent again after a lost answer, which keeps the order.
func (p *Publisher) storeBatch(items []*item) {
	var api *jetstream.APIError
	var err error
	pause, deadline := backoff.Backoff{Min: retryMin, Max: retryMax}, time.Now().Add(p.opts.RetryFor)
	for tries := 1; ; tries++ {
		var last uint64
		start := time.Now()
		last, err = p.publishBatch(items)
		p.opts.Observe(BatchObservation{Size: len(items), Atomic: true, Took: time.Since(start), Err: err})
		if err == nil {
			for i, it := range items {
				p.markStored(it, last-uint64(len(items)-1-i), NotDuplicate)
			}
			return
		}
		api = nil
		refused := errors.As(err, &api) // nothing was stored
		if !refused {
			for _, it := range items {
				it.retried = true
			}
		}
		if refused && slices.Contains(aboutEvent, api.ErrorCode) ||
			(refused || errors.Is(err, nats.ErrNoResponders)) && tries >= noResponders || !p.opts.Shared ||
			p.connected() != nil || !time.Now().Before(deadline) || !awaited(items) || pause.Wait(p.abandoned) != nil {
			break
		}
	}
	if api == nil || api.ErrorCode != codeDuplicateInBatch {
		p.opts.Logger.Warn("batch not acknowledged; publishing its events one by one", "events", len(items), "err", err)
	}
	for _, it := range items {
		for _, h := range []string{BatchIDHeader, BatchSequenceHeader, BatchCommitHeader} {
			it.msg.Header.Del(h)
		}
	}
	p.storeSingly(items)
}

// publishAck is JetStream's answer to a publish. Batch and Count are set in that to the last message of a batch.
type publishAck struct {
	Stream    string              `json:"stream"`
	Seq       uint64              `json:"seq"`
	Duplicate bool                `json:"duplicate"`
	Batch     string              `json:"batch"`
	Count     int                 `json:"count"`
	Error     *jetstream.APIError `json:"error"`
}

// publishBatch returns the sequence of the batch's last event; the other events have the sequences
// right before it. It leaves the batch's headers on the messages.
func (p *Publisher) publishBatch(items []*item) (uint64, error) {
	if err := p.connected(); err != nil {
		return 0, err
	}
	batch := nuid.Next()
	ctx, cancel := context.WithTimeout(p.answering(), p.opts.AckTimeout)
	defer cancel()
	stream, id := []string{p.opts.Stream}, []string{batch}
	for i, it := range items {
		m := it.msg
		m.Header[jetstream.ExpectedStreamHeader], m.Header[BatchIDHeader] = stream, id
		m.Header.Set(BatchSequenceHeader, strconv.Itoa(i+1))
		if i < len(items)-1 {
			if err := p.nc.PublishMsg(m); err != nil {
				return 0, fmt.Errorf("publish batch: %w", err)
			}
			continue
		}
		m.Header.Set(BatchCommitHeader, "1")
		resp, err := p.nc.RequestMsgWithContext(ctx, m)
		if err != nil {
			return 0, fmt.Errorf("commit batch: %w", err)
		}
		var ack publishAck
		if err := json.Unmarshal(resp.Data, &ack); err != nil {
			return 0, fmt.Errorf("decode batch answer: %w", err)
		}
		switch {
		case ack.Error != nil:
			return 0, fmt.Errorf("commit batch: %w", ack.Error)
		case ack.Batch != batch || ack.Count != len(items) || ack.Seq < uint64(len(items)):
			return 0, fmt.Errorf("commit batch: the answer is for %d events, not %d", ack.Count, len(items))
		}
		return ack.Seq, nil
	}
	return 0, nil
}
