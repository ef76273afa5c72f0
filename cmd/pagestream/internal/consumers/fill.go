package consumers

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/streams"
)

const (
	// One filler of the process works at a time. Then all of them rest, for this many times
	// as long as it took. So ingest has the disk and the processors most of the time, and
	// the more fillers there are, the more events are in a batch.
	rest    = 3
	maxRest = time.Second
	// pace is the least time between two batches of a filler that reads the end of the
	// stream, so that a batch has many events when many arrive.
	pace = 50 * time.Millisecond
	// A filler that is more than behind events before the head stores complete batches.
	behind = 1000
	// Without an event for the consumer the position is stored when it is so many events
	// or so much time behind. A filler that starts looks at these events again.
	positionEvents = 10_000
	positionEvery  = 30 * time.Second
	// keepEvery is how often a copy of the position is stored, see [outbox.written].
	keepEvery = time.Second
	// A filler that was second looks after the outbox again in half of standby or more,
	// see [filler.standBy].
	standby = 4 * time.Second
	// roomEvery is how often a full outbox is looked at.
	roomEvery = time.Second

	retryMin = 100 * time.Millisecond
	retryMax = 10 * time.Second
)

// filler copies the events that a consumer gets to its outbox.
type filler struct {
	*Consumers
	outbox

	selection meta.Selection
	stop      context.CancelFunc
	done      chan struct{}

	session streams.Interruptible // or the wait for the next one

	mu     sync.Mutex
	filled uint64
	full   bool
}

// run fills the outbox until the context ends.
func (f *filler) run(ctx context.Context) {
	defer close(f.done)
	retry := backoff.Backoff{Min: retryMin, Max: retryMax}
	for ctx.Err() == nil {
		err := f.session.Do(ctx, func(ctx context.Context) error {
			err := f.follow(ctx, retry.Reset)
			switch {
			case errors.Is(err, errFull):
				return f.awaitRoom(ctx)
			case errors.Is(err, errLost):
				return f.standBy(ctx)
			}
			return err
		})
		if err == nil || ctx.Err() != nil {
			continue
		}
		f.opts.Logger.Warn("events can't be copied for a consumer; trying again", "consumer", f.name, "err", err)
		_ = retry.Wait(ctx) // the loop ends with the context
	}
}

func (f *filler) setProgress(filled uint64, full bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.filled, f.full = filled, full
}

// follow reads the position and goes on from it, until an error. It calls progressed
// when events were copied.
func (f *filler) follow(ctx context.Context, progressed func()) error {
	at, err := f.position(ctx)
	if err != nil {
		return err
	}
	head, err := f.resume(ctx, &at)
	if err != nil {
		return err
	}
	f.setProgress(at.Seq, false)
	s := &session{filler: f, at: at, head: head, stored: at.Seq, storedAt: time.Now(), read: at.Position}
	return streams.FollowMessages(ctx, f.opts.JS, f.opts.Stream, at.Seq+1, f.opts.Tail,
		func(list []streams.Message) error {
			more, err := s.fill(ctx, list)
			if err != nil {
				return err
			}
			progressed()
			if len(s.batch) == 0 {
				f.setProgress(list[len(list)-1].Seq, false)
			}
			if more {
				return nil
			}
			return backoff.Sleep(ctx, pace)
		})
}

// resume makes at the position to go on from, see [streams.Position.Resume], and returns the
// stream's head. What the stream has after the position is copied, also if it was copied before.
func (f *filler) resume(ctx context.Context, at *position) (head uint64, err error) {
	before := at.Seq
	if at.Position, head, err = at.Resume(ctx, f.opts.JS, f.opts.Stream); err != nil {
		return 0, err
	}
	if at.Seq != before {
		f.opts.Logger.Warn("the stream has other events than those that were copied for a consumer; it goes on after the last "+
			"one that is known to be in both", "consumer", f.name, "position", before, "common", at.Seq, "head", head)
	}
	return head, nil
}

// Recheck makes every filler compare its position with the stream. It is called when the
// stream was replaced. A filler does so in any case when it starts.
func (c *Consumers) Recheck() { c.interruptAll() }

// interruptAll makes every filler read its position again. A channel is closed when a filler has dropped the events that it had
// read.
func (c *Consumers) interruptAll() (ended []<-chan struct{}) {
	c.fillersMu.Lock()
	defer c.fillersMu.Unlock()
	for _, f := range c.fillers {
		if e := f.session.Interrupt(); e != nil {
			ended = append(ended, e)
		}
	}
	return ended
}

// session is one uninterrupted time of filling.
type session struct {
	*filler

	at       position
	head     uint64 // of the stream, when it was last read
	stored   uint64 // the position in the outbox
	storedAt time.Time
	keptAt   time.Time        // when a copy of the position was stored
	read     streams.Position // the events that were looked at

	batch []*nats.Msg
	bytes int
	ids   map[string]bool // of the batch
}

// fill adds those of the messages that the consumer gets to the batch. If the head of the
// stream is near, it stores them and the position after them. Otherwise it reports that
// there are more messages, which complete the batch.
func (s *session) fill(ctx context.Context, list []streams.Message) (more bool, err error) {
	last := list[len(list)-1].Seq
	if last+behind >= s.head {
		if s.head, err = streams.Last(ctx, s.opts.JS, s.opts.Stream); err != nil {
			return false, err
		}
	}
	owners, err := s.selection.Owners(ctx, s.opts.Pages, list)
	if err != nil {
		return false, err
	}
	select {
	case s.filling <- struct{}{}:
	case <-ctx.Done():
		return false, ctx.Err()
	}
	began := time.Now()
	defer func() {
		pause := min(rest*time.Since(began), maxRest)
		if s.opts.busy {
			pause = 0
		}
		time.AfterFunc(pause, func() { <-s.filling })
	}()
	s.read = s.read.After(list)
	for i, m := range list {
		if m.Malformed != nil {
			continue
		}
		if m.Type == domain.ContactErased {
			if err := s.eraseAt(ctx, m); err != nil {
				return false, err
			}
		}
		if !s.selection.Wants(m.Stored, owners[i]) {
			continue
		}
		if err := s.add(ctx, m); err != nil {
			return false, err
		}
	}
	empty, more := len(s.batch) == 0, last+behind < s.head
	if !empty && more || empty && last-s.stored < positionEvents && time.Since(s.storedAt) < positionEvery {
		return more, nil
	}
	err = s.flush(ctx, last)
	if empty && errors.Is(err, errFull) { // the position can wait
		err = nil
	}
	return more, err
}

// add adds an event to the batch, which is stored first if it is complete. A batch with
// one id twice would be refused.
func (s *session) add(ctx context.Context, m streams.Message) error {
	if len(s.batch) >= oneBatch || s.bytes >= batchBytes || s.ids[m.ID] {
		if err := s.flush(ctx, m.Seq-1); err != nil {
			return err
		}
	}
	msg := s.message(m)
	if s.ids == nil {
		s.ids = make(map[string]bool, oneBatch)
	}
	s.ids[m.ID] = true
	s.batch = append(s.batch, msg)
	s.bytes += msg.Size()
	return nil
}

// flush stores the batch and the position seq. An event whose id is in the deduplication
// window waits until it is no longer there: the consumer gets both.
func (s *session) flush(ctx context.Context, seq uint64) error {
	for {
		at, err := s.publish(ctx, s.at, s.batch, position{Position: s.read.Upto(seq)})
		if errors.Is(err, errRepeated) {
			if err := backoff.Sleep(ctx, 2*window); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		s.at, s.stored, s.storedAt = at, seq, time.Now()
		s.setProgress(seq, false)
		if s.storedAt.Sub(s.keptAt) >= keepEvery {
			if err := s.keep(ctx, at); err != nil {
				return err
			}
			s.keptAt = s.storedAt
		}
		s.batch, s.bytes = nil, 0
		clear(s.ids)
		return nil
	}
}

// eraseAt deletes erased events from the outbox. All of them are before the event that
// records the erasure, so what is not in the outbox by now will not be.
func (s *session) eraseAt(ctx context.Context, m streams.Message) error {
	if len(s.batch) > 0 {
		if err := s.flush(ctx, m.Seq-1); err != nil {
			return err
		}
	}
	e := m.Event
	var err error
	if e.Data, err = domain.DecodeData(m.Body); err != nil {
		return fmt.Errorf("decode event %d: %w", m.Seq, err)
	}
	return s.erase(ctx, e)
}

// awaitRoom waits until a quarter of the full outbox is free. Nothing is kept in memory
// meanwhile.
func (f *filler) awaitRoom(ctx context.Context) error {
	f.mu.Lock()
	f.full = true
	f.mu.Unlock()
	for {
		if err := backoff.Sleep(ctx, roomEvery); err != nil {
			return err
		}
		room, err := f.room(ctx)
		if err != nil {
			return err
		}
		if room >= f.maxBytes/4 {
			return nil
		}
	}
}

// standBy waits while another filler, of another node, fills the outbox: until the
// position has been the same for 2 to 4 seconds while there are events after it.
func (f *filler) standBy(ctx context.Context) error {
	var before position
	for {
		at, err := f.position(ctx)
		if err != nil {
			return err
		}
		head, err := streams.Last(ctx, f.opts.JS, f.opts.Stream)
		if err != nil {
			return err
		}
		f.setProgress(at.Seq, false)
		if at.Seq == before.Seq && at.last == before.last && at.Seq < head {
			return nil
		}
		before = at
		if err := backoff.Sleep(ctx, backoff.Jitter(standby)); err != nil {
			return err
		}
	}
}

// progress returns how far the filler of a consumer is, 0 if none runs here, and whether
// the outbox is full.
func (c *Consumers) progress(name string) (filled uint64, full bool) {
	c.fillersMu.Lock()
	f := c.fillers[name]
	c.fillersMu.Unlock()
	if f == nil {
		return 0, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.filled, f.full
}

// start starts the filler of a consumer, if it does not run, after it has made sure of
// the outbox.
func (c *Consumers) start(ctx context.Context, r record) error {
	c.fillersMu.Lock()
	running := c.fillers[r.Name] != nil
	c.fillersMu.Unlock()
	if running {
		return nil
	}
	f := &filler{Consumers: c, outbox: c.outbox(r), selection: r.selection(), done: make(chan struct{})}
	if err := f.ensure(ctx); err != nil {
		return err
	}
	run, stop := context.WithCancel(ctx)
	f.stop = stop
	c.fillersMu.Lock()
	c.fillers[r.Name] = f
	c.fillersMu.Unlock()
	go f.run(run)
	return nil
}

// stop stops the filler of a consumer, if one runs, and waits for it.
func (c *Consumers) stop(name string) {
	c.fillersMu.Lock()
	f := c.fillers[name]
	delete(c.fillers, name)
	c.fillersMu.Unlock()
	if f != nil {
		f.stop()
		<-f.done
	}
}

// Erase deletes the events that an erasure lists from all outboxes. They must not be in the stream any more: the fillers of
// this process, and the tail that they read, drop what they have of them. One of another node may still copy such an event, and deletes it when it
// comes to the erasure.
func (c *Consumers) Erase(ctx context.Context, e domain.Event) error {
	if c.opts.Tail != nil {
		c.opts.Tail.Drop()
	}
	for _, ended := range c.interruptAll() {
		select {
		case <-ended:
		case <-ctx.Done():
			return fmt.Errorf("wait for the copying of events: %w", ctx.Err())
		}
	}
	list, err := c.records(ctx)
	if err != nil {
		return err
	}
	for _, r := range list {
		err := c.outbox(r).erase(ctx, e)
		if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("consumer %s: %w", r.Name, err)
		}
	}
	return nil
}
