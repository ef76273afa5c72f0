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

// MetaDelivered is the metadata key of how often a message was delivered to a [Reactor], from 1.
const MetaDelivered = "pagestream-delivered"

// Defaults of [ReactorOptions].
const (
	DefaultReactorTimeout  = 30 * time.Second
	DefaultMaxDeliver      = 20
	DefaultReactorPause    = time.Second
	DefaultReactorMaxPause = 5 * time.Minute
)

// reactorPending is the most messages that the server delivers to the reactors of one name without an
// acknowledgement. It is small, since the time to acknowledge a message starts when it is delivered.
const reactorPending = 4

// reactorRestart is the pause before [KeepRunning] starts a reactor again.
const reactorRestart = 2 * time.Second

// ErrNoRetry is returned by [ReactorOptions].Handle, wrapped, when another attempt is no use before
// something else has changed. The reactor then gives up at once.
var ErrNoRetry = errors.New("not tried again")

// ReactorOptions configure a [Reactor]. Connect, Filter, Durable and Handle are
// required.
type ReactorOptions struct {
	// Connect returns a connection that only this reactor uses. Run closes it when it returns. It should not keep what is
	// sent while it is broken ([nats.ReconnectBufSize] of -1): an acknowledgement that is sent later may be for another
	// event.
	Connect func() (*nats.Conn, error)
	// Domain is the JetStream domain of the stream; empty is that of the connection's server.
	Domain string
	// Stream is the stream's name, by default [Name].
	Stream string
	// Filter is the subject filter of the events to react to.
	Filter string
	// Durable is the name of the durable consumer. All reactors of that name, on any node, share its
	// messages.
	Durable string
	// FromNow skips the events that are in the stream when the consumer is first created.
	FromNow bool
	// Handle does the work. After an error the message is delivered again after a growing pause; after
	// an error that wraps [ErrNoRetry] the reactor gives up at once. See [OnEvent] for a function that
	// takes events.
	Handle func(ctx context.Context, m *message.Message) error
	// Timeout bounds one call of Handle.
	Timeout time.Duration
	// MaxDeliver is how often a message is delivered before the reactor gives up on it.
	MaxDeliver int
	// Pause is the first pause after an error, doubling up to MaxPause.
	Pause, MaxPause time.Duration
	// Parking, if not nil, keeps an event that the reactor gave up on, and the later events of the
	// same conversation.
	Parking *Parking
	// Unordered lets the later events of a conversation be handled while an earlier one is parked.
	Unordered bool
	// GaveUp is called with a message that the reactor gave up on, after it was parked if there is a
	// Parking, and with the last error.
	GaveUp func(m *message.Message, err error)
	// Logger discards everything by default.
	Logger *slog.Logger
}

// Reactor runs a side effect for each event, such as an HTTP call or a deletion. It is a durable
// consumer on watermill-nats. It handles one message at a time in each process, at least once and not
// always in order. A replay of the stream does not run it again.
//
// It is for low rates. Projections use a [Subscriber] instead.
type Reactor struct{ opts ReactorOptions }

// NewReactor returns a reactor, which [Reactor.Run] runs. It panics if a required option is missing,
// which is a programming error.
func NewReactor(o ReactorOptions) *Reactor {
	if o.Connect == nil || o.Filter == "" || o.Durable == "" || o.Handle == nil {
		panic("streams: a reactor needs Connect, Filter, Durable and Handle")
	}
	o.Stream = cmp.Or(o.Stream, Name)
	o.Timeout = cmp.Or(max(o.Timeout, 0), DefaultReactorTimeout)
	o.MaxDeliver = cmp.Or(max(o.MaxDeliver, 0), DefaultMaxDeliver)
	o.Pause = cmp.Or(max(o.Pause, 0), DefaultReactorPause)
	o.MaxPause = cmp.Or(max(o.MaxPause, 0), DefaultReactorMaxPause)
	if o.GaveUp == nil {
		o.GaveUp = func(*message.Message, error) {}
	}
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	return &Reactor{opts: o}
}

// OnEvent returns a function for ReactorOptions.Handle that decodes the message and calls f with the
// event. It skips messages that are not events.
func OnEvent(f func(ctx context.Context, e Stored) error) func(context.Context, *message.Message) error {
	return func(ctx context.Context, m *message.Message) error {
		e, err := FromMessage(m)
		if errors.Is(err, ErrMalformed) {
			return nil // the projections report malformed messages
		}
		if err != nil {
			return err
		}
		return f(ctx, e)
	}
}

// Run handles events until the context ends, which is no error. A message that was not finished then is
// delivered again when a reactor of that name runs. [ErrClosed] is returned when the subscription ends
// before the context does.
func (r *Reactor) Run(ctx context.Context) error {
	conn, err := r.opts.Connect()
	if err != nil {
		return fmt.Errorf("connect reactor %s: %w", r.opts.Durable, err)
	}
	defer conn.Close()
	if r.opts.Parking != nil {
		if err := r.opts.Parking.register(ctx, r); err != nil && ctx.Err() == nil {
			return fmt.Errorf("read parked events of reactor %s: %w", r.opts.Durable, err)
		}
	}
	if err := r.ensureConsumer(ctx, conn); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("create consumer %s: %w", r.opts.Durable, err)
	}
	acks := &acks{conn: conn, domain: r.opts.Domain, stream: r.opts.Stream}
	// Watermill logs an error for each message that is refused, which is nothing unusual, so they are
	// logged at debug level. handle logs the messages that it gives up on.
	logger := WatermillLogger(r.opts.Logger, slog.LevelDebug)
	var domain []nats.JSOpt
	if r.opts.Domain != "" {
		domain = append(domain, nats.Domain(r.opts.Domain))
	}
	subscriber, err := wmnats.NewSubscriberWithNatsConn(conn, wmnats.SubscriberSubscriptionConfig{
		SubscribersCount: 1,
		AckWaitTimeout:   r.opts.Timeout + time.Second,
		CloseTimeout:     r.opts.Timeout + time.Second,
		Unmarshaler:      unmarshaler{},
		NakDelay:         r,
		QueueGroupPrefix: r.opts.Durable,
		JetStream: wmnats.JetStreamConfig{
			AckAsync:       true,
			ConnectOptions: domain,
			DurablePrefix:  r.opts.Durable,
			// The subscription binds to an existing consumer: nats.go deletes a consumer that a
			// subscription created itself, and with it the position.
			SubscribeOptions: []nats.SubOpt{nats.Bind(r.opts.Stream, r.opts.Durable), nats.ManualAck()},
		},
		SubjectCalculator: func(queue, topic string) *wmnats.SubjectDetail {
			return &wmnats.SubjectDetail{Primary: topic, QueueGroup: queue}
		},
	}, logger)
	if err != nil {
		return fmt.Errorf("create subscriber: %w", err)
	}
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: r.opts.Timeout + time.Second}, logger)
	if err != nil {
		return fmt.Errorf("create router: %w", err)
	}
	router.AddConsumerHandler(r.opts.Durable, r.opts.Filter, subscriber, func(m *message.Message) error {
		if err := r.handle(ctx, m); err != nil {
			return err
		}
		seq, at, err := positionOf(m)
		if err != nil {
			return err
		}
		return acks.allow(ctx, seq, at)
	})
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var draining sync.WaitGroup
	draining.Go(func() {
		select {
		case <-ctx.Done():
			r.drain(conn)
			stop()
		case <-running.Done():
		}
	})
	err = router.Run(running)
	stop()
	draining.Wait()
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("run reactor %s: %w", r.opts.Durable, err)
	}
	if ctx.Err() == nil {
		return fmt.Errorf("reactor %s: %w", r.opts.Durable, ErrClosed)
	}
	return nil
}

// KeepRunning calls run, such as [Reactor.Run], until the context ends. If run returns before, for
// example since the stream does not exist yet, KeepRunning logs its error and calls it again after a
// pause.
func KeepRunning(ctx context.Context, log *slog.Logger, run func(context.Context) error) {
	for {
		err := run(ctx)
		if ctx.Err() != nil {
			return
		}
		log.Warn("reactor ended; starting it again", "err", err)
		if backoff.Sleep(ctx, reactorRestart) != nil {
			return
		}
	}
}

// drain stops the delivery of messages before the subscriber is closed. Closing the subscriber closes a
// channel on which it might still be sending a message.
func (r *Reactor) drain(conn *nats.Conn) {
	_ = conn.Drain() // a connection that can't be drained is closed
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

// ensureConsumer creates the consumer or updates its configuration.
func (r *Reactor) ensureConsumer(ctx context.Context, conn *nats.Conn) error {
	js, err := Open(conn, r.opts.Domain)
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
		MaxDeliver:     -1, // no limit: handle counts the deliveries, so that it can park a message before it gives up
		MaxAckPending:  reactorPending,
	})
	return err
}

// handle calls Handle with its timeout. After the last attempt, or [ErrNoRetry], it parks the message
// and gives up.
func (r *Reactor) handle(parent context.Context, m *message.Message) (err error) {
	ctx, cancel := context.WithTimeout(parent, r.opts.Timeout)
	defer cancel()
	if parked, err := r.parkIfBlocked(ctx, m); parked || err != nil {
		return err
	}
	if err = r.try(ctx, m); err == nil {
		return nil
	}
	if parent.Err() != nil {
		return err // the reactor is stopping: the attempt was cut short and does not count as the last one
	}
	n, parseErr := metadataUint(m, MetaDelivered)
	if errors.Is(err, ErrNoRetry) || parseErr == nil && n >= uint64(r.opts.MaxDeliver) {
		r.opts.Logger.Error("reactor gives up on a message",
			"reactor", r.opts.Durable, "seq", m.Metadata[MetaSeq], "tries", n, "err", err)
		if err := r.park(m, n, err); err != nil {
			return err // deliver it again rather than lose it
		}
		r.opts.GaveUp(m, err)
		return nil
	}
	r.opts.Logger.Debug("reactor will try again", "reactor", r.opts.Durable, "seq", m.Metadata[MetaSeq], "err", err)
	return err
}

// try calls Handle and turns a panic into an error, so that the attempt is counted.
func (r *Reactor) try(ctx context.Context, m *message.Message) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errPanic, p)
		}
	}()
	return r.opts.Handle(ctx, m)
}

// errPanic is returned when Handle panicked.
var errPanic = errors.New("handler panicked")

// WaitTime returns the pause before a refused message is delivered again. It is called by watermill.
func (r *Reactor) WaitTime(attempts uint64) time.Duration {
	return backoff.After(int(min(attempts, 64)), r.opts.Pause, r.opts.MaxPause)
}

// acks tells which messages may be acknowledged. An acknowledgement names a sequence, and after a reconnect the stream
// may be an older copy, in which that sequence is of another event, or will be.
type acks struct {
	conn           *nats.Conn
	domain, stream string

	mu         sync.Mutex // of those below; watermill takes the next message when one takes too long
	reconnects uint64     // of the connection, when allow was called last
	doubtful   int        // how many more messages may have been delivered before the last reconnect
}

// errOther is returned for a message that is not in the stream any more.
var errOther = errors.New("the stream has another event in the place of the one that was delivered")

// allow returns an error if the message with that sequence, which was stored at that time, must not be acknowledged. A
// negative acknowledgement does no harm: the message is just delivered again, if there is one.
func (a *acks) allow(ctx context.Context, seq uint64, at time.Time) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := a.conn.Stats().Reconnects; n != a.reconnects {
		a.reconnects, a.doubtful = n, reactorPending
	}
	if a.doubtful == 0 && a.conn.IsConnected() { // the client would send it later, to any stream
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, infoTimeout)
	defer cancel()
	js, err := Open(a.conn, a.domain)
	if err != nil {
		return err
	}
	st, err := lookUp(ctx, js, a.stream)
	if err != nil {
		return err
	}
	m, err := st.GetMsg(ctx, seq)
	switch {
	case err != nil:
		return fmt.Errorf("get sequence %d: %w", seq, err)
	case !m.Time.Equal(at):
		return errOther
	}
	a.doubtful = max(0, a.doubtful-1)
	return nil
}

// unmarshaler makes a watermill message of any NATS message: a message that it refused would be
// delivered again and again.
type unmarshaler struct{}

func (unmarshaler) Unmarshal(in *nats.Msg) (*message.Message, error) {
	meta, err := in.Metadata()
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
