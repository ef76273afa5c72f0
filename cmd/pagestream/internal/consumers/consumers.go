// Package consumers lets external programs read events over NATS.
//
// Each consumer has an outbox: a small JetStream stream of its own with the events that
// it gets and has not acknowledged yet, and a user that can read from it and from
// nothing else. A filler copies the events from the stream of all events to the outbox,
// in order. When the outbox is full it waits.
package consumers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/streams"
)

// Errors of [Consumers].
var (
	// ErrName is returned when a consumer's name is not valid.
	ErrName = errors.New("a consumer's name is 1 to 40 of a-z, 0-9, - and _")
	// ErrExists is returned when a consumer of that name exists already.
	ErrExists = errors.New("there is a consumer of that name; remove it first, or choose another name")
	// ErrUnknown is returned when no consumer has that name.
	ErrUnknown = errors.New("there is no consumer of that name")
	// ErrPages is returned when a consumer has neither pages, nor a company, nor All, when
	// it has All and one of the others, or when a page's id is empty.
	ErrPages = errors.New("say which pages the consumer reads: page ids, a company, or all")
	// ErrType is returned when a type is not one of pagestream's event types, or is one
	// that no consumer gets.
	ErrType = errors.New("no such type of event")
	// ErrTooMany is returned when a consumer names more than 10,000 pages, or when there
	// are 256 consumers already.
	ErrTooMany = errors.New("too many consumers, or too many pages for one; name a company, or all")
	// ErrSpace is returned when the server has no space for the stream of one more consumer.
	ErrSpace = errors.New("there is no space on the server's disk for the consumer's stream")
	// ErrRewind is returned when a consumer would be rewound to an event that it has not
	// read yet.
	ErrRewind = errors.New("a consumer can only go back")
)

const (
	maxConsumers = 256
	maxPages     = 10_000
	timeout      = 20 * time.Second
)

var validName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,39}$`)

// Spec says which events a consumer gets.
type Spec struct {
	Name string `json:"name"`
	// Pages are the pages to read, besides those of Company, whose events are those of
	// the time at which the company had the page. All is every page, instead of the two.
	Pages   []domain.PageID `json:"pages,omitempty"`
	Company string          `json:"company,omitempty"`
	All     bool            `json:"all,omitempty"`
	// Types are the event types, besides contact.erased; nil means every type but page.* and
	// subscription.*. Events that another app delivered are never among them.
	Types []domain.Type `json:"types,omitempty"`
	// PublicKey is the public nkey of the consumer's user.
	PublicKey string `json:"public_key,omitempty"`
	// FromNow skips the events that are in the stream already.
	FromNow bool `json:"from_now,omitempty"`
	// Known are the pages that are read now: Pages and those that Company has.
	Known []domain.PageID `json:"known,omitempty"`
}

// check returns [ErrName], [ErrPages] or [ErrType] if the Spec is not valid.
func (s Spec) check() error {
	some := len(s.Pages) > 0 || s.Company != ""
	switch {
	case !validName.MatchString(s.Name):
		return ErrName
	case some == s.All, slices.Contains(s.Pages, ""):
		return ErrPages
	case s.Types != nil && len(s.Types) == 0:
		return fmt.Errorf("empty list: %w", ErrType)
	}
	for _, t := range s.Types {
		if !meta.Selectable(t) {
			return fmt.Errorf("%w: %s", ErrType, meta.UnknownType(t))
		}
	}
	if len(s.Pages) > maxPages {
		return fmt.Errorf("%d pages: %w", len(s.Pages), ErrTooMany)
	}
	return nil
}

// selection returns which events the consumer gets.
func (s Spec) selection() meta.Selection {
	return meta.Select(s.All, s.Pages, s.Company, meta.Received(s.Types))
}

// Consumer is one consumer and its progress.
type Consumer struct {
	Spec
	// Stream is the consumer's outbox, Durable the JetStream consumer that reads it.
	Stream  string `json:"stream"`
	Durable string `json:"durable"`
	// Filled is the sequence up to which the events are in the outbox, of Head, the
	// sequence of the last event that there is.
	Filled uint64 `json:"filled"`
	Head   uint64 `json:"head"`
	// Full is set while the filler waits for room in the outbox.
	Full bool `json:"full,omitempty"`
	// Seq is the acknowledgement floor: the consumer has acknowledged what it gets of the
	// events up to this sequence. Pending events are in the outbox and were not delivered
	// yet. Unacknowledged events were delivered and not acknowledged; Redelivered of them
	// more than once. Lag is the number of events in the outbox.
	Seq            uint64 `json:"seq"`
	Lag            uint64 `json:"lag"`
	Pending        uint64 `json:"pending"`
	Unacknowledged int    `json:"unacknowledged"`
	Redelivered    int    `json:"redelivered"`
	// Waiting is the number of open pull requests; above 0, a program is reading.
	Waiting int       `json:"waiting"`
	Created time.Time `json:"created"`
	// LastActive is when an event was last delivered.
	LastActive time.Time `json:"last_active,omitzero"`
}

// Added is a new consumer with the credentials that its user needs. It is shown
// once.
type Added struct {
	Consumer
	// Seed is the user's secret nkey. It is not stored.
	Seed string `json:"seed"`
	// URL is where to connect. It is empty with an external NATS server, which must be
	// given what [NATSAccounts] returns.
	URL string `json:"url,omitempty"`
	// Publish are the subjects that the user publishes to, from an account of its own.
	Publish []string `json:"publish"`
}

// Users manages the NATS users of the embedded server.
type Users interface {
	// SetUser adds or replaces a user that can read from one durable consumer of one
	// stream.
	SetUser(name, publicKey, stream, durable string) error
	// RemoveUser removes a user and ends its connections.
	RemoveUser(name string)
	// URL is where users connect.
	URL() string
}

// Options of [New]. JS, Stream and Pages are required.
type Options struct {
	JS jetstream.JetStream
	// Stream is the stream of all events.
	Stream string
	// Tail has the newest events of the stream; nil means that each filler reads them.
	Tail *streams.Tail
	// Pages is the read model of pages, which says who an event belongs to.
	Pages projections.Reader
	// Replicas of each outbox when it is made; see [streams.EnsureBeside].
	Replicas int
	// MaxBytes is the size of an outbox, by default [DefaultMaxBytes].
	MaxBytes int64
	// Users is nil with an external NATS server.
	Users  Users
	Logger *slog.Logger

	// busy makes the fillers work without a rest, for tests of many events.
	busy bool
}

// Consumers creates, lists and removes consumers, and fills their outboxes while Run
// runs. Make one with [New]; its methods are safe for concurrent use.
type Consumers struct {
	opts Options
	mu   sync.Mutex // serializes changes
	// filling is taken while a filler of the process works, and while all of them rest.
	filling chan struct{}
	changed chan struct{} // wakes Run when a consumer was added or removed

	fillersMu sync.Mutex
	fillers   map[string]*filler // by name; only those that run
}

// New returns a Consumers over the stream of o.
func New(o Options) *Consumers {
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	o.Replicas = max(1, o.Replicas)
	o.MaxBytes = cmp.Or(max(o.MaxBytes, 0), DefaultMaxBytes)
	return &Consumers{
		opts: o, filling: make(chan struct{}, 1), changed: make(chan struct{}, 1),
		fillers: make(map[string]*filler),
	}
}

// Add creates a consumer and a user for it. The returned seed is not stored, so it
// can't be shown again. It fails with [ErrName], [ErrPages], [ErrType], [ErrTooMany]
// or [ErrExists].
func (c *Consumers) Add(ctx context.Context, s Spec) (out Added, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := s.check(); err != nil {
		return Added{}, err
	}
	if err := c.convert(ctx); err != nil {
		return Added{}, err
	}
	list, err := c.records(ctx)
	if err != nil {
		return Added{}, err
	}
	if len(list) >= maxConsumers {
		return Added{}, fmt.Errorf("%d consumers: %w", len(list), ErrTooMany)
	}
	if slices.ContainsFunc(list, func(have record) bool { return have.Name == s.Name }) {
		return Added{}, ErrExists
	}
	pair, err := nkeys.CreateUser()
	if err != nil {
		return Added{}, fmt.Errorf("make key: %w", err)
	}
	defer pair.Wipe()
	seed, err := pair.Seed()
	if err != nil {
		return Added{}, fmt.Errorf("make key: %w", err)
	}
	if s.PublicKey, err = pair.PublicKey(); err != nil {
		return Added{}, fmt.Errorf("make key: %w", err)
	}
	s.Pages = slices.Compact(slices.Sorted(slices.Values(s.Pages)))
	r := record{Spec: s}
	if s.FromNow {
		if r.After, err = streams.Last(ctx, c.opts.JS, c.opts.Stream); err != nil {
			return Added{}, err
		}
	}
	if err := c.make(ctx, r); err != nil {
		return Added{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.drop(context.WithoutCancel(ctx), s.Name))
		}
	}()
	out = Added{Seed: string(seed)}
	if out.Consumer, err = c.consumer(ctx, r, 0); err != nil {
		return Added{}, err
	}
	out.Publish = out.requests()
	if c.opts.Users != nil {
		if err := c.setUser(s); err != nil {
			return Added{}, err
		}
		out.URL = c.opts.Users.URL()
	}
	c.wake()
	return out, nil
}

func (c *Consumers) setUser(s Spec) error {
	if err := c.opts.Users.SetUser(s.Name, s.PublicKey, StreamOf(s.Name), durableOf(s.Name)); err != nil {
		return fmt.Errorf("set user %s: %w", s.Name, err)
	}
	return nil
}

// List returns the consumers, sorted by name.
func (c *Consumers) List(ctx context.Context) ([]Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	list, err := c.records(ctx)
	if err != nil {
		return nil, err
	}
	head, err := streams.Last(ctx, c.opts.JS, c.opts.Stream)
	if err != nil {
		return nil, err
	}
	out := []Consumer{}
	for _, r := range list {
		consumer, err := c.consumer(ctx, r, head)
		if errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrConsumerNotFound) {
			continue // it is being made or removed
		}
		if err != nil {
			return nil, err
		}
		out = append(out, consumer)
	}
	slices.SortFunc(out, func(a, b Consumer) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// consumer returns a consumer with its progress.
func (c *Consumers) consumer(ctx context.Context, r record, head uint64) (Consumer, error) {
	b := c.outbox(r)
	out := Consumer{Spec: r.Spec, Stream: b.stream, Durable: b.durable, Head: head}
	out.Known = r.Pages
	if r.Company != "" {
		more, err := pages.OfCompany(c.opts.Pages, r.Company)
		if err != nil {
			return out, fmt.Errorf("list pages of %s: %w", r.Company, err)
		}
		out.Known = slices.Compact(slices.Sorted(slices.Values(slices.Concat(r.Pages, more))))
	}
	// The position is read before the lag: the lag then counts all that was filled up to it.
	if out.Filled, out.Full = c.progress(r.Name); out.Filled == 0 {
		at, err := b.position(ctx)
		if err != nil {
			return out, err
		}
		out.Filled = at.Seq
	}
	reader, err := c.opts.JS.Consumer(ctx, b.stream, b.durable)
	if err != nil {
		return out, fmt.Errorf("read state of consumer %s: %w", r.Name, err)
	}
	info := reader.CachedInfo()
	out.Pending, out.Unacknowledged = info.NumPending, info.NumAckPending
	out.Redelivered, out.Waiting, out.Created = info.NumRedelivered, info.NumWaiting, info.Created
	out.Lag = info.NumPending + uint64(max(0, info.NumAckPending))
	if info.Delivered.Last != nil {
		out.LastActive = *info.Delivered.Last
	}
	first, err := b.first(ctx)
	if err != nil {
		return out, err
	}
	if out.Seq = out.Filled; first > 0 {
		out.Seq = first - 1
	}
	return out, nil
}

// Remove deletes a consumer, its outbox and its user. Events that it has not read are no
// longer delivered. It fails with [ErrUnknown].
func (c *Consumers) Remove(ctx context.Context, name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !validName.MatchString(name) {
		return ErrUnknown
	}
	if err := c.convert(ctx); err != nil {
		return err
	}
	if _, err := c.find(ctx, name); err != nil {
		return err
	}
	if c.opts.Users != nil {
		c.opts.Users.RemoveUser(name)
	}
	defer c.wake()
	return c.drop(ctx, name)
}

// URL returns where users connect; it is empty with an external NATS server.
func (c *Consumers) URL() string {
	if c.opts.Users == nil {
		return ""
	}
	return c.opts.Users.URL()
}
