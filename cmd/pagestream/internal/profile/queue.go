package profile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/streams"
)

const (
	// Queue is the name of the stream that is the work queue: it has at most one task for each contact.
	Queue = "PAGESTREAM_PROFILES"
	// queueLimit is the most tasks in the queue. While it is full no further events are looked at.
	queueLimit  = 1000
	queuePrefix = "pagestream-profiles."
	// queuedFor is how long a contact with a task in the queue gets no other one from the same node. If another node works on
	// it, this one is not told that it is done.
	queuedFor = time.Hour
	// journalLag is how long the event of a task may not be in the stream yet, because the journal has not sent it. One that
	// comes later does not exist: the stream was replaced by one that ends before it.
	journalLag = 5 * time.Second
	// positions is the key-value bucket with how far the stream was looked through, under the key position.
	positions = "PAGESTREAM_PROFILES"
	position  = "position"
	// saveEvery is how often the position is stored.
	saveEvery = time.Second
	// setupTimeout bounds the requests at a start.
	setupTimeout = 15 * time.Second
	retryMin     = 50 * time.Millisecond
	retryMax     = 2 * time.Second
)

// task is a message of the queue. It has no id of a person: what is deleted from a stream stays in its file for a while.
type task struct {
	// Seq is the sequence of an event of the contact.
	Seq uint64 `json:"seq"`
}

// looked is how far the stream was looked through.
type looked struct {
	streams.Position
	// Floor is where the first run began, or the end of a stream that ended before that. Nothing before it is looked at,
	// also if the stream has other events there since: a history makes no burst of calls.
	Floor uint64 `json:"floor"`
}

// Run handles the events of contacts that are stored from its first run on, until the context ends, and then returns
// nil. Events that are stored while no node runs are handled later, and those that the consumer of version 0.1.0 had not
// handled.
//
// Most events need no work, so each node looks at them in memory, and puts a task into a queue only for a contact whose
// profile it may have to read. Any node works on the tasks.
func (r *Reactor) Run(ctx context.Context) error {
	if err := r.setUp(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	worked := make(chan error, 1)
	go func() {
		defer stop()
		worked <- r.worker().Run(ctx)
	}()
	err := r.look(ctx)
	stop()
	return errors.Join(err, <-worked)
}

// setUp creates the queue and the bucket, and removes what versions before the queue have left.
func (r *Reactor) setUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	_, err := streams.EnsureBeside(ctx, r.opts.JS, streams.Name, jetstream.StreamConfig{
		Name: Queue, Description: "Contacts whose profile may have to be read.", Subjects: []string{queuePrefix + ">"},
		Retention: jetstream.WorkQueuePolicy, Storage: jetstream.FileStorage, Discard: jetstream.DiscardNew,
		MaxMsgsPerSubject: 1, MaxMsgs: queueLimit, Replicas: r.opts.Replicas,
	})
	if err != nil {
		return fmt.Errorf("make queue of profiles: %w", err)
	}
	r.kv, err = streams.EnsureBucket(ctx, r.opts.JS, streams.Name, jetstream.KeyValueConfig{
		Bucket: positions, Description: "How far the stream was looked through for profiles.", History: 1,
		Storage: jetstream.FileStorage, Replicas: r.opts.Replicas,
	})
	if err != nil {
		return fmt.Errorf("make bucket of profiles: %w", err)
	}
	if err := r.begin(ctx); err != nil {
		return err
	}
	err = r.opts.JS.DeleteConsumer(ctx, streams.Name, former)
	if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fmt.Errorf("delete former consumer: %w", err)
	}
	if r.opts.Parking != nil {
		if err := r.opts.Parking.Clear(ctx, former); err != nil {
			return fmt.Errorf("clear parked events: %w", err)
		}
	}
	return nil
}

// begin stores where to begin, unless a position is stored: where the former consumer was, or the end of the stream.
func (r *Reactor) begin(ctx context.Context) error {
	var seq uint64
	consumer, err := r.opts.JS.PushConsumer(ctx, streams.Name, former)
	switch {
	case err == nil:
		seq = consumer.CachedInfo().AckFloor.Stream
	case !errors.Is(err, jetstream.ErrConsumerNotFound):
		return fmt.Errorf("get former consumer: %w", err)
	default:
		if seq, err = streams.Last(ctx, r.opts.JS, streams.Name); err != nil {
			return err
		}
	}
	data, err := json.Marshal(looked{streams.Position{Seq: seq}, seq})
	if err != nil {
		return fmt.Errorf("encode position of profiles: %w", err)
	}
	if _, err := r.kv.Create(ctx, position, data); err != nil && !errors.Is(err, jetstream.ErrKeyExists) {
		return fmt.Errorf("store position of profiles: %w", err)
	}
	return nil
}

// worker returns the reactor that works on the tasks.
func (r *Reactor) worker() *streams.Reactor {
	return streams.NewReactor(streams.ReactorOptions{
		Connect: r.opts.Connect, Domain: r.opts.Domain, Stream: Queue, Filter: queuePrefix + "*.*", Durable: durable,
		Timeout: timeout, MaxPause: r.opts.MaxWait, Logger: r.opts.Logger,
		Handle: func(ctx context.Context, m *message.Message) error {
			err := r.work(ctx, m)
			if err == nil {
				r.done(m)
			}
			return err
		},
		GaveUp: func(m *message.Message, _ error) { r.done(m) },
	})
}

// done makes the next message of a task's contact make a task again, unless the contact was asked about.
func (r *Reactor) done(m *message.Message) { r.queued.Remove(m.Metadata[streams.MetaSubject]) }

// work handles the event of a task.
func (r *Reactor) work(ctx context.Context, m *message.Message) error {
	var t task
	if err := json.Unmarshal(m.Payload, &t); err != nil || t.Seq == 0 {
		return nil //nolint:nilerr // it is no task
	}
	e, err := r.event(ctx, t.Seq)
	if errors.Is(err, streams.ErrNotFound) || errors.Is(err, streams.ErrMalformed) {
		r.count(func(s *Stats) { s.Erased++ })
		return nil
	}
	if err != nil {
		return err
	}
	return r.react(ctx, e)
}

// event reads an event of the stream. It waits for one that the journal has not sent to the stream yet. It fails with
// [streams.ErrNotFound] if there is none.
func (r *Reactor) event(ctx context.Context, seq uint64) (streams.Stored, error) {
	waited := time.After(r.lag)
	for pause := (backoff.Backoff{Min: retryMin, Max: retryMax}); ; {
		last, err := streams.Last(ctx, r.opts.JS, streams.Name)
		if err != nil {
			return streams.Stored{}, fmt.Errorf("read event of task: %w", err)
		}
		if seq <= last {
			e, err := streams.Get(ctx, r.opts.JS, streams.Name, seq)
			if err != nil {
				return e, fmt.Errorf("read event of task: %w", err)
			}
			return e, nil
		}
		if err := pause.Wait(ctx); err != nil {
			return streams.Stored{}, fmt.Errorf("wait for event %d in the stream: %w", seq, err)
		}
		select {
		case <-waited:
			return streams.Stored{}, fmt.Errorf("the stream ends before event %d: %w", seq, streams.ErrNotFound)
		default:
		}
	}
}

// Recheck makes the reactor compare its position with the stream. It is called when the stream was replaced.
func (r *Reactor) Recheck() { r.session.Interrupt() }

// look looks at the events of the stream until the context ends.
func (r *Reactor) look(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := r.session.Do(ctx, r.follow); err != nil && !errors.Is(err, streams.ErrReconnected) {
			return fmt.Errorf("look for contacts: %w", err)
		}
	}
	return nil
}

// follow looks at the events after the stored position, until an error.
func (r *Reactor) follow(ctx context.Context) error {
	reconnects := r.opts.JS.Conn().Stats().Reconnects
	r.queued.Purge() // the queue may have lost a task, and the events of others may be different ones
	at, err := r.position(ctx)
	if err != nil {
		return err
	}
	// What is stored is the position of the time before: a task that was put into the queue since may be lost if the
	// process is killed.
	before, saved := at, time.Now()
	save := func(ctx context.Context) error {
		if err := r.save(ctx, before); err != nil {
			return err
		}
		before, saved = at, time.Now()
		return nil
	}
	err = streams.FollowMessages(ctx, r.opts.JS, streams.Name, at.Seq+1, r.opts.Tail, func(list []streams.Message) error {
		if r.opts.JS.Conn().Stats().Reconnects != reconnects {
			return streams.ErrReconnected
		}
		for _, m := range list {
			if m.Malformed != nil || !r.wants(ctx, m.Stored) {
				continue
			}
			if err := r.enqueue(ctx, m.Stored); err != nil {
				return err
			}
		}
		if at.Position = at.After(list); time.Since(saved) < saveEvery {
			return nil
		}
		return save(ctx)
	})
	if r.opts.JS.Conn().Stats().Reconnects == reconnects {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		before = at
		err = errors.Join(err, save(ctx))
	}
	return err
}

// wants reports whether the profile of an event's contact may have to be read. It is called for every event, and false
// for most: the contact is known, or was put into the queue before, or Graph can't be asked about the page's contacts. If
// something can't be found out, the work on the task does, which is repeated.
func (r *Reactor) wants(ctx context.Context, e streams.Stored) bool {
	switch {
	case !mayName(e):
		return false
	case r.known(e):
		r.count(func(s *Stats) { s.Known++ })
		return false
	}
	_, err := r.gate.Access(ctx, e.Page)
	if meta.NoToken(err) {
		r.count(func(s *Stats) { s.NoToken++ })
		return false
	}
	if r.longThrottled(err) {
		r.count(func(s *Stats) { s.Throttled, s.Skipped = s.Throttled+1, s.Skipped+1 })
		return false
	}
	if r.opts.Now().Sub(r.queued.get(subject(e))) < queuedFor {
		return false
	}
	recent, err := r.profiled(e)
	return err != nil || !recent
}

// subject returns the subject of the tasks for an event's contact.
func subject(e streams.Stored) string {
	return queuePrefix + e.Page.Token() + "." + domain.ContactHash(e.Contact)
}

// enqueue puts a task for an event's contact into the queue. It waits while the queue has no room. If another node has
// put the task there, it is not stored again: that would have it worked on twice.
func (r *Reactor) enqueue(ctx context.Context, e streams.Stored) error {
	data, err := json.Marshal(task{Seq: e.Seq})
	if err != nil {
		return fmt.Errorf("encode task: %w", err)
	}
	m := &nats.Msg{Subject: subject(e), Data: data}
	id := fmt.Sprint(m.Subject, ".", e.Seq)
	r.queued.Add(m.Subject, r.opts.Now()) // before the task is done, which removes it
	for pause := (backoff.Backoff{Min: retryMin, Max: retryMax}); ; {
		_, err := r.opts.JS.PublishMsg(ctx, m, jetstream.WithExpectStream(Queue), jetstream.WithMsgID(id))
		if err == nil {
			return nil
		}
		if streams.NoSpace(err) {
			if err = pause.Wait(ctx); err == nil {
				continue
			}
		}
		r.queued.Remove(m.Subject)
		return fmt.Errorf("queue a contact: %w", err)
	}
}

// position returns the position to go on from. If the stream was replaced, it is stored at once: what comes after the end
// of a shorter stream is none of its history, also if no node runs then.
func (r *Reactor) position(ctx context.Context) (at looked, err error) {
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	entry, err := r.kv.Get(ctx, position)
	if err != nil {
		return at, fmt.Errorf("read position of profiles: %w", err)
	}
	if err := json.Unmarshal(entry.Value(), &at); err != nil {
		return at, fmt.Errorf("decode position of profiles: %w", err)
	}
	seq, floor := at.Seq, at.Floor
	var last uint64
	if at.Position, last, err = at.Resume(ctx, r.opts.JS, streams.Name); err != nil {
		return at, err
	}
	at.Floor = min(at.Floor, last)
	at.Seq = max(at.Seq, at.Floor)
	if at.Seq == seq && at.Floor == floor {
		return at, nil
	}
	return at, r.save(ctx, at)
}

// save stores a position. Each node looks at all events, so a lower position of another node costs only time.
func (r *Reactor) save(ctx context.Context, at looked) error {
	data, err := json.Marshal(at)
	if err != nil {
		return fmt.Errorf("encode position of profiles: %w", err)
	}
	if _, err := r.kv.Put(ctx, position, data); err != nil {
		return fmt.Errorf("store position of profiles: %w", err)
	}
	return nil
}
