package streams

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/internal/backoff"
)

// run sends the journal's events to JetStream and takes checkpoints, until the context ends.
func (j *Journal) run(ctx context.Context) {
	defer close(j.stopped)
	done := make(chan struct{})
	go func() {
		defer close(done)
		j.takeCheckpoints(ctx)
	}()
	defer func() { <-done }()
	pause := backoff.Backoff{Min: retryMin, Max: shipMax}
	most := shipEvents
	j.mu.Lock()
	err := j.failed
	j.mu.Unlock()
	changes := j.js.Conn().StatusChanged(nats.CONNECTED)
	defer j.js.Conn().RemoveStatusListener(changes)
	for ctx.Err() == nil {
		j.mu.Lock()
		suspected := j.suspected()
		j.mu.Unlock()
		if err == nil && suspected {
			if err = j.resume(ctx); err != nil {
				continue
			}
		}
		if err != nil {
			j.fail(err)
			if pause.Wait(ctx) != nil {
				return
			}
			if err = j.resume(ctx); err != nil {
				continue
			}
			// One event at a time shows which one JetStream refuses, and why.
			most = 1
		}
		if frames := j.next(ctx, most, changes); len(frames) > 0 {
			if err = j.send(ctx, frames); err != nil {
				continue
			}
			j.accept(frames)
		}
		most = shipEvents
		pause.Reset()
	}
}

// fail records why nothing is sent now.
func (j *Journal) fail(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed == nil && !errors.Is(err, context.Canceled) {
		j.opts.Logger.Error("JetStream does not take the events of the journal; no more are accepted", "err", err)
	}
	j.failed = err
	j.notify()
}

// Suspect tells that the server was started again: it may lack events that it has acknowledged. No more are accepted
// until it is known what it has, and it has the others again.
func (j *Journal) Suspect() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.suspect = true
	j.notify()
}

// next waits for events, and returns at most so many. It returns none when the context ends, or when the server may
// have been started again.
func (j *Journal) next(ctx context.Context, most int, connected <-chan nats.Status) []frame {
	for {
		j.mu.Lock()
		n, bytes := 0, 0
		for n < len(j.queue) && n < most && (n == 0 || bytes < shipBytes) {
			bytes += j.queue[n].size
			n++
		}
		frames, changed, suspect := j.queue[:n:n], j.changed, j.suspected()
		j.mu.Unlock()
		if suspect {
			return nil
		}
		if n > 0 {
			return frames
		}
		select {
		case <-changed:
		case <-connected: // see suspected
		case <-ctx.Done():
			return nil
		}
	}
}

// send publishes the frames, which follow the stream's last event, and waits until JetStream has them. Each has the
// sequence of the one before it as a condition, so one that is refused is never skipped.
func (j *Journal) send(ctx context.Context, frames []frame) error {
	nc := j.js.Conn()
	if !nc.IsConnected() { // the client would keep them, and send them later
		return nats.ErrDisconnected
	}
	ctx, cancel := context.WithTimeout(ctx, j.opts.AckTimeout)
	defer cancel()
	// A request that is under way when the connection breaks is never answered.
	changes := nc.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	defer nc.RemoveStatusListener(changes)
	go func() {
		select {
		case <-changes:
			cancel()
		case <-ctx.Done():
		}
	}()
	for i, f := range frames {
		if i < len(frames)-1 {
			if err := nc.PublishMsg(f.msg); err != nil {
				return fmt.Errorf("publish event %d: %w", f.seq, err)
			}
			continue
		}
		answer, err := nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: f.msg.Subject, Header: f.msg.Header, Data: f.msg.Data})
		if err != nil {
			return fmt.Errorf("publish event %d: %w", f.seq, err)
		}
		if err := acknowledged(answer.Data, f.seq); err != nil {
			return fmt.Errorf("publish event %d: %w", f.seq, err)
		}
	}
	return nil
}

// acknowledged returns an error unless the answer says that the event was stored with that sequence.
func acknowledged(answer []byte, seq uint64) error {
	var ack publishAck
	switch err := json.Unmarshal(answer, &ack); {
	case err != nil:
		return fmt.Errorf("decode answer: %w", err)
	case ack.Error != nil:
		return ack.Error
	case ack.Duplicate, ack.Seq != seq:
		return fmt.Errorf("JetStream has it as event %d (duplicate: %t): %w", ack.Seq, ack.Duplicate, ErrJournal)
	}
	return nil
}

// accept counts frames as shipped.
func (j *Journal) accept(frames []frame) {
	if j.opts.Tail != nil {
		list := make([]*arrival, len(frames))
		for i, f := range frames {
			list[i] = f.arrival()
		}
		decodeAll(list)
		j.opts.Tail.add(list)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	s := shipment{last: frames[len(frames)-1].seq}
	for _, f := range frames {
		s.bytes += int64(f.size)
	}
	j.since += s.bytes
	j.shipments = append(j.shipments, s)
	j.shippedUpto(s.last)
	j.recovered()
}

// shippedUpto removes what was shipped from the queue. The caller must hold j.mu.
func (j *Journal) shippedUpto(seq uint64) {
	j.shipped = seq
	for len(j.queue) > 0 && j.queue[0].seq <= seq {
		f := j.queue[0]
		j.waiting -= int64(f.size)
		j.queue[0] = frame{} // the array stays in memory for a while
		j.queue = j.queue[1:]
	}
}

// resume finds out what the stream has, after an answer was lost or the server was started again: it may have more
// than what was acknowledged, or less, if it could not write that. Or it is another stream.
func (j *Journal) resume(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, j.opts.AckTimeout)
	defer cancel()
	reconnects := j.js.Conn().Stats().Reconnects
	info, err := Info(limited, j.js, j.opts.Stream)
	if err != nil {
		return err
	}
	last := info.State.LastSeq
	if !info.Created.Equal(j.created) {
		return j.replaced(info, fmt.Errorf("it was created at %s: %w", info.Created.Format(time.RFC3339), ErrJournal))
	}
	if err := j.compare(limited, last, last); errors.Is(err, ErrJournal) {
		return j.replaced(info, err)
	} else if err != nil {
		return err
	}
	j.mu.Lock()
	head, before := j.head, j.head-uint64(len(j.queue)) // the files have those up to before
	if last > head {
		j.mu.Unlock()
		return fmt.Errorf("the stream has event %d, the journal ends with %d: %w", last, head, ErrJournal)
	}
	accepted := j.queue[:max(last, before)-before]
	j.mu.Unlock()
	if len(accepted) > 0 {
		j.accept(accepted)
	}
	if first, _ := j.opts.Files.Range(); last+1 < first && last < head {
		return j.replaced(info, fmt.Errorf("event %d is not in the journal any more: %w", last+1, ErrJournal))
	}
	if last < before {
		j.opts.Logger.Warn("JetStream lacks events that the journal has", "events", before-last)
	}
	if err := j.sendFiles(ctx, last, before); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.shipped, j.suspect, j.reconnects = max(j.shipped, before), false, reconnects
	if len(j.queue) == 0 {
		j.recovered()
	}
	return nil
}

// replaced accepts that the stream is an older one than the journal is of, or another one, for the reason why. It fails with
// that if the stream before may not have had all events of the journal: a start says what to do then.
func (j *Journal) replaced(info *jetstream.StreamInfo, why error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	last := info.State.LastSeq
	if j.head > j.durable {
		return fmt.Errorf("the stream was replaced by one that ends with event %d: %w", last, why)
	}
	if err := j.opts.Files.Begin(last); err != nil {
		return err
	}
	j.opts.Logger.Warn("the stream was replaced by another one", "stored", j.head, "last", last, "why", why)
	j.queue, j.waiting, j.last = nil, 0, map[string]uint64{}
	j.shipments, j.since = nil, 0
	j.created, j.head, j.shipped, j.durable = info.Created, last, last, last
	j.suspect, j.reconnects = false, j.js.Conn().Stats().Reconnects
	j.recovered()
	return nil
}

// recovered is called when JetStream takes events. The caller must hold j.mu.
func (j *Journal) recovered() {
	if j.failed != nil {
		j.opts.Logger.Info("JetStream takes the events of the journal again")
		j.failed = nil
	}
	j.notify()
}

// takeCheckpoints takes a checkpoint after checkpointBytes, and after checkpointEvery while events are shipped.
func (j *Journal) takeCheckpoints(ctx context.Context) {
	tick := time.NewTicker(checkpointEvery)
	defer tick.Stop()
	for last := uint64(0); ; {
		j.mu.Lock()
		since, changed := j.since, j.changed
		j.mu.Unlock()
		if since < checkpointBytes {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			case <-changed:
				continue
			}
		}
		if ctx.Err() != nil {
			return
		}
		if since == 0 {
			continue
		}
		durable, err := j.checkpoint()
		if err != nil {
			j.opts.Logger.Error("it could not be made durable what JetStream has; the journal keeps it", "err", err)
		}
		if err != nil || durable == last { // JetStream has written nothing more
			if backoff.Sleep(ctx, checkpointEvery) != nil {
				return
			}
		}
		last = durable
	}
}

// nounOf returns the subject's part with the page and the noun.
func nounOf(subject string) string {
	return subject[:max(0, strings.LastIndexByte(subject, '.'))]
}
