package streams

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	wmnats "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/nats"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/internal/backoff"
)

// MetaDelivered is how often a [Reactor] was given a message, counted from 1.
const MetaDelivered = "pagestream-delivered"

// Defaults of [ReactorOptions].
const (
	DefaultReactorTimeout = 30 * time.Second
	DefaultMaxDeliver     = 20
	DefaultReactorPause   = time.Second
	DefaultReactorRest    = 5 * time.Minute
)

// reactorPending bounds what the server has given to the reactors of one name
// and has no answer for. It is small, since the time to answer runs from the
// giving.
const reactorPending = 4

// reactorRestart is the pause before [KeepRunning] runs a reactor again.
const reactorRestart = 2 * time.Second

// ReactorOptions configure a [Reactor]. Connect, Filter, Durable and Handle are
// required.
type ReactorOptions struct {
	// Connect returns a connection for the reactor alone; it is closed with it.
	Connect func() (*nats.Conn, error)
	// Stream is the stream's name, by default [Name].
	Stream string
	// Filter is the subject filter of what is reacted to.
	Filter string
	// Durable names the consumer. All reactors of that name, on any node, share
	// its messages.
	Durable string
	// FromNow leaves out what the stream holds when the consumer is first made.
	FromNow bool
	// Pass, if not nil, is asked about every event, by all of it but its data,
	// before anything else is done for it. One that it passes over is acknowledged
	// at once: for a reactor that has nothing to do about most of what it is given.
	// It must be quick, and does not see what is no event.
	Pass func(e Stored) bool
	// Handle does the work. An error gives the message again after a growing
	// pause. See [OnEvent] for events.
	Handle func(ctx context.Context, m *message.Message) error
	// Timeout bounds one call of Handle.
	Timeout time.Duration
	// MaxDeliver is how often a message is given before it is left for good.
	MaxDeliver int
	// Pause is the first pause after an error, doubling up to MaxPause.
	Pause, MaxPause time.Duration
	// Parking, if not nil, keeps an event that is given up, and those of its
	// conversation that come after that.
	Parking *Parking
	// GaveUp is told of a message that is left for good, or parked.
	GaveUp func(m *message.Message, err error)
	Logger *slog.Logger
}

// Reactor does what an event asks for in the world outside: a call, a deletion.
// It is a durable consumer run by watermill-nats, one message at a time in each
// process, at least once and not always in order. A replay of the stream does
// not run it again.
//
// It is for low rates. Projections follow the stream by a [Subscriber].
type Reactor struct{ opts ReactorOptions }

// NewReactor returns a reactor that does not run yet. It panics if a required
// option is missing, which is a mistake in the wiring.
func NewReactor(o ReactorOptions) *Reactor {
	if o.Connect == nil || o.Filter == "" || o.Durable == "" || o.Handle == nil {
		panic("streams: a reactor needs Connect, Filter, Durable and Handle")
	}
	o.Stream = cmp.Or(o.Stream, Name)
	o.Timeout = cmp.Or(max(o.Timeout, 0), DefaultReactorTimeout)
	o.MaxDeliver = cmp.Or(max(o.MaxDeliver, 0), DefaultMaxDeliver)
	o.Pause = cmp.Or(max(o.Pause, 0), DefaultReactorPause)
	o.MaxPause = cmp.Or(max(o.MaxPause, 0), DefaultReactorRest)
	if o.GaveUp == nil {
		o.GaveUp = func(*message.Message, error) {}
	}
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	return &Reactor{opts: o}
}

// OnEvent makes a reactor's Handle of a function on events. What is no event is
// passed over.
func OnEvent(f func(ctx context.Context, e Stored) error) func(context.Context, *message.Message) error {
	return func(ctx context.Context, m *message.Message) error {
		e, err := FromMessage(m)
		if errors.Is(err, ErrMalformed) {
			return nil // the projections keep a list of these
		}
		if err != nil {
			return err
		}
		return f(ctx, e)
	}
}

// Run reacts until the context ends, which is no error. What was in work then
// is given again later.
func (r *Reactor) Run(ctx context.Context) error {
	conn, err := r.opts.Connect()
	if err != nil {
		return fmt.Errorf("connect reactor %s: %w", r.opts.Durable, err)
	}
	defer conn.Close()
	if r.opts.Parking != nil {
		if err := r.opts.Parking.enter(ctx, r); err != nil && ctx.Err() == nil {
			return fmt.Errorf("read what reactor %s has parked: %w", r.opts.Durable, err)
		}
	}
	if err := r.ensure(ctx, conn); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("make consumer %s: %w", r.opts.Durable, err)
	}
	// An error of watermill's is a message that is skipped or tried again, which is
	// nothing unusual: handle logs what is given up.
	logger := WatermillLogger(r.opts.Logger, slog.LevelDebug)
	subscriber, err := wmnats.NewSubscriberWithNatsConn(conn, wmnats.SubscriberSubscriptionConfig{
		SubscribersCount: 1,
		AckWaitTimeout:   r.opts.Timeout + time.Second,
		CloseTimeout:     r.opts.Timeout + time.Second,
		Unmarshaler:      unmarshaler{r.opts.Pass},
		NakDelay:         r,
		QueueGroupPrefix: r.opts.Durable,
		JetStream: wmnats.JetStreamConfig{
			AckAsync:      true,
			DurablePrefix: r.opts.Durable,
			// Bound: a subscription that made its consumer itself would delete
			// it at the end, and with it the position.
			SubscribeOptions: []nats.SubOpt{nats.Bind(r.opts.Stream, r.opts.Durable), nats.ManualAck()},
		},
		SubjectCalculator: func(queue, topic string) *wmnats.SubjectDetail {
			return &wmnats.SubjectDetail{Primary: topic, QueueGroup: queue}
		},
	}, logger)
	if err != nil {
		return fmt.Errorf("make subscriber: %w", err)
	}
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: r.opts.Timeout + time.Second}, logger)
	if err != nil {
		return fmt.Errorf("make router: %w", err)
	}
	router.AddConsumerHandler(r.opts.Durable, r.opts.Filter, subscriber, func(m *message.Message) error {
		return r.handle(ctx, m)
	})
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var ending sync.WaitGroup
	ending.Go(func() {
		select {
		case <-ctx.Done():
			r.drain(conn)
			stop()
		case <-running.Done():
		}
	})
	err = router.Run(running)
	stop()
	ending.Wait()
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("run reactor %s: %w", r.opts.Durable, err)
	}
	if ctx.Err() == nil {
		return fmt.Errorf("reactor %s: %w", r.opts.Durable, ErrClosed)
	}
	return nil
}

// KeepRunning runs a reactor, or what runs one, until the context ends, and again when
// it ends before: its stream may not have been there.
func KeepRunning(ctx context.Context, log *slog.Logger, run func(context.Context) error) {
	for {
		err := run(ctx)
		if ctx.Err() != nil {
			return
		}
		log.Warn("reactor ended and is run again", "err", err)
		if backoff.Sleep(ctx, reactorRestart) != nil {
			return
		}
	}
}

// drain ends the flow of messages before the subscriber is closed: that closes a
// channel on which it may still be sending one.
func (r *Reactor) drain(conn *nats.Conn) {
	_ = conn.Drain() // what can't be drained is closed
	limit := time.After(r.opts.Timeout + time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !conn.IsClosed() {
		select {
		case <-tick.C:
		case <-limit:
			return
		}
	}
}

// ensure makes the consumer, or brings it up to date.
func (r *Reactor) ensure(ctx context.Context, conn *nats.Conn) error {
	js, err := jetstream.New(conn)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, r.opts.Timeout)
	defer cancel()
	deliver := jetstream.DeliverAllPolicy
	if r.opts.FromNow {
		deliver = jetstream.DeliverNewPolicy
	}
	_, err = js.CreateOrUpdatePushConsumer(ctx, r.opts.Stream, jetstream.ConsumerConfig{
		Durable:        r.opts.Durable,
		DeliverSubject: "_pagestream.reactor." + r.opts.Durable,
		DeliverGroup:   r.opts.Durable,
		DeliverPolicy:  deliver,
		FilterSubject:  r.opts.Filter,
		AckPolicy:      jetstream.AckExplicitPolicy,
		AckWait:        (reactorPending + 1) * (r.opts.Timeout + time.Second),
		MaxDeliver:     -1, // handle itself counts, and gives up only what is parked
		MaxAckPending:  reactorPending,
	})
	return err
}

// handle runs Handle with its bounds. After the last try the message is left.
func (r *Reactor) handle(parent context.Context, m *message.Message) (err error) {
	ctx, cancel := context.WithTimeout(parent, r.opts.Timeout)
	defer cancel()
	if waits, err := r.behind(ctx, m); waits || err != nil {
		return err
	}
	if err = r.try(ctx, m); err == nil {
		return nil
	}
	if parent.Err() != nil {
		return err // it was not given its time; what stops takes nothing with it
	}
	if n, odd := number(m, MetaDelivered); odd == nil && n >= uint64(r.opts.MaxDeliver) {
		r.opts.Logger.Error("reactor gives a message up", "reactor", r.opts.Durable, "seq", m.Metadata[MetaSeq], "tries", n, "err", err)
		if err := r.park(m, n, err); err != nil {
			return err // to be given again is better than to be gone
		}
		r.opts.GaveUp(m, err)
		return nil
	}
	r.opts.Logger.Debug("reactor will try again", "reactor", r.opts.Durable, "seq", m.Metadata[MetaSeq], "err", err)
	return err
}

// try turns a panic into an error, which keeps the count of tries.
func (r *Reactor) try(ctx context.Context, m *message.Message) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errPanic, p)
		}
	}()
	return r.opts.Handle(ctx, m)
}

// errPanic says that a handler has panicked.
var errPanic = errors.New("handler panicked")

// WaitTime is the pause before a refused message is given again; watermill asks.
func (r *Reactor) WaitTime(tries uint64) time.Duration {
	return backoff.After(int(min(tries, 64)), r.opts.Pause, r.opts.MaxPause)
}

// unmarshaler makes watermill messages of any message at all: one that it
// refused would be given for ever. What pass passes over is answered here, before
// a message and its way through the router cost anything.
type unmarshaler struct{ pass func(Stored) bool }

// errPassed keeps watermill from a message that has been answered.
var errPassed = errors.New("passed over")

func (u unmarshaler) Unmarshal(in *nats.Msg) (*message.Message, error) {
	meta, err := in.Metadata()
	if err == nil && u.pass != nil {
		e, odd := envelope(in.Subject, in.Header.Get, meta.Sequence.Stream, meta.Timestamp)
		if odd == nil && u.pass(e) && in.Ack() == nil {
			return nil, errPassed
		}
	}
	id := in.Header.Get(HeaderWatermillID)
	if id == "" {
		id = uuid.NewString()
	}
	m := message.NewMessage(id, in.Data)
	m.Metadata = make(message.Metadata, len(in.Header)+4)
	for k := range in.Header {
		m.Metadata[k] = in.Header.Get(k)
	}
	m.Metadata[MetaSubject] = in.Subject
	if err == nil {
		m.Metadata[MetaSeq] = strconv.FormatUint(meta.Sequence.Stream, 10)
		m.Metadata[MetaAt] = meta.Timestamp.UTC().Format(time.RFC3339Nano)
		m.Metadata[MetaDelivered] = strconv.FormatUint(meta.NumDelivered, 10)
	}
	return m, nil
}
