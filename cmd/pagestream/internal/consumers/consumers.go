// Package consumers lets programs outside read events from the stream by NATS:
// for each a durable JetStream consumer over chosen pages and types, and a user
// that can read that consumer and nothing else.
package consumers

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/pagestream/pagestream/domain"
)

// Errors of what was asked for.
var (
	// ErrName is returned when a name can't be one.
	ErrName = errors.New("a consumer's name is 1 to 40 of a-z, 0-9, - and _")
	// ErrExists is returned when there is a consumer of that name.
	ErrExists = errors.New("there is a consumer of that name; remove it first, or choose another name")
	// ErrUnknown is returned when there is none.
	ErrUnknown = errors.New("there is no consumer of that name")
	// ErrType is returned when a type is none of ours.
	ErrType = errors.New("no such type of event")
	// ErrTooMany is returned when the choice needs more filters than a consumer should have.
	ErrTooMany = errors.New("too many pages and types for one consumer; name fewer, or leave out the types")
)

const (
	prefix = "consumer-"
	// metaKey has the [Spec] in the consumer's metadata.
	metaKey      = "pagestream-consumer"
	maxConsumers = 256
	timeout      = 20 * time.Second
)

var validName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,39}$`)

// Spec says what a consumer is given.
type Spec struct {
	Name string `json:"name"`
	// Pages, and those that a Company has at any time. Without either it is every
	// page.
	Pages   []domain.PageID `json:"pages,omitempty"`
	Company string          `json:"company,omitempty"`
	// Types of events; none is every type but page.* and subscription.*.
	Types []domain.Type `json:"types,omitempty"`
	// PublicKey is the user's.
	PublicKey string `json:"public_key,omitempty"`
	// FromNow leaves out what the stream holds already.
	FromNow bool `json:"from_now,omitempty"`
	// Known are the pages that are in the filter already.
	Known []domain.PageID `json:"known,omitempty"`
}

// Consumer is one consumer and how far it is.
type Consumer struct {
	Spec
	// Durable is the JetStream consumer's name.
	Durable string `json:"durable"`
	// Seq is the last event that it has acknowledged with all before it. Pending
	// events were not given yet, Unacknowledged were given and not acknowledged,
	// Redelivered of those were given more than once. Lag is how many are not
	// acknowledged in all.
	Seq            uint64 `json:"seq"`
	Lag            uint64 `json:"lag"`
	Pending        uint64 `json:"pending"`
	Unacknowledged int    `json:"unacknowledged"`
	Redelivered    int    `json:"redelivered"`
	// Waiting is how many requests for events are open: somebody reads.
	Waiting int       `json:"waiting"`
	Created time.Time `json:"created"`
	// LastActive is when it was last given an event.
	LastActive time.Time `json:"last_active,omitzero"`
}

// Added is a new consumer with what its user needs. It is shown once.
type Added struct {
	Consumer
	// Seed is the user's secret nkey, which is kept nowhere.
	Seed string `json:"seed"`
	// URL is where to connect; empty where the NATS server is not ours. Then its
	// operator has to make the user, who may publish to Publish.
	URL     string   `json:"url,omitempty"`
	Stream  string   `json:"stream"`
	Publish []string `json:"publish"`
}

// Users are those who may connect to the embedded server.
type Users interface {
	SetUser(name, publicKey, durable string) error
	RemoveUser(name string)
	URL() string
}

// Options of [New]. JS, Stream and PagesOf are required.
type Options struct {
	JS     jetstream.JetStream
	Stream string
	// Users is nil where the NATS server is not ours.
	Users Users
	// PagesOf lists the pages of a company.
	PagesOf func(company string) ([]domain.PageID, error)
	Logger  *slog.Logger
}

// Consumers makes, lists and removes consumers. Its methods are safe for
// concurrent use.
type Consumers struct {
	opts Options
	mu   sync.Mutex // one change at a time
}

// New returns it.
func New(o Options) *Consumers {
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	return &Consumers{opts: o}
}

// Add makes a consumer and a user for it.
func (c *Consumers) Add(ctx context.Context, s Spec) (Added, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !validName.MatchString(s.Name) {
		return Added{}, ErrName
	}
	for _, t := range s.Types {
		if !t.Known() {
			return Added{}, fmt.Errorf("%q: %w", t, ErrType)
		}
	}
	list, err := c.list(ctx)
	if err != nil {
		return Added{}, err
	}
	if len(list) >= maxConsumers {
		return Added{}, fmt.Errorf("%d consumers: %w", len(list), ErrTooMany)
	}
	if slices.ContainsFunc(list, func(have Consumer) bool { return have.Name == s.Name }) {
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
	config, err := c.config(s)
	if err != nil {
		return Added{}, err
	}
	made, err := c.opts.JS.CreateConsumer(ctx, c.opts.Stream, config)
	if err != nil {
		return Added{}, fmt.Errorf("make consumer: %w", err)
	}
	out := Added{Seed: string(seed), Stream: c.opts.Stream}
	out.Consumer, _ = consumerOf(made.CachedInfo())
	out.Publish = []string{
		"$JS.API.CONSUMER.MSG.NEXT." + c.opts.Stream + "." + out.Durable,
		"$JS.API.CONSUMER.INFO." + c.opts.Stream + "." + out.Durable, "$JS.ACK." + c.opts.Stream + "." + out.Durable + ".>",
	}
	if c.opts.Users != nil {
		if err := c.opts.Users.SetUser(s.Name, s.PublicKey, out.Durable); err != nil {
			return Added{}, errors.Join(fmt.Errorf("let user in: %w", err), c.opts.JS.DeleteConsumer(ctx, c.opts.Stream, out.Durable))
		}
		out.URL = c.opts.Users.URL()
	}
	return out, nil
}

// List returns the consumers by name.
func (c *Consumers) List(ctx context.Context) ([]Consumer, error) {
	list, err := c.list(ctx)
	slices.SortFunc(list, func(a, b Consumer) int { return cmp.Compare(a.Name, b.Name) })
	return list, err
}

func (c *Consumers) list(ctx context.Context) ([]Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	st, err := c.opts.JS.Stream(ctx, c.opts.Stream)
	if err != nil {
		return nil, fmt.Errorf("ask stream: %w", err)
	}
	out := []Consumer{}
	all := st.ListConsumers(ctx)
	for info := range all.Info() {
		if one, ours := consumerOf(info); ours {
			out = append(out, one)
		}
	}
	if err := all.Err(); err != nil {
		return nil, fmt.Errorf("list consumers: %w", err)
	}
	return out, nil
}

func consumerOf(info *jetstream.ConsumerInfo) (Consumer, bool) {
	raw, ours := info.Config.Metadata[metaKey]
	one := Consumer{
		Durable: info.Name, Seq: info.AckFloor.Stream, Pending: info.NumPending, Unacknowledged: info.NumAckPending,
		Redelivered: info.NumRedelivered, Waiting: info.NumWaiting, Created: info.Created,
		Lag: info.NumPending + uint64(max(0, info.NumAckPending)),
	}
	if info.Delivered.Last != nil {
		one.LastActive = *info.Delivered.Last
	}
	return one, ours && json.Unmarshal([]byte(raw), &one.Spec) == nil
}

// Remove ends a consumer and its user. What it has not read it will not.
func (c *Consumers) Remove(ctx context.Context, name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !validName.MatchString(name) {
		return ErrUnknown
	}
	if c.opts.Users != nil {
		c.opts.Users.RemoveUser(name)
	}
	err := c.opts.JS.DeleteConsumer(ctx, c.opts.Stream, prefix+name)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return ErrUnknown
	}
	if err != nil {
		return fmt.Errorf("remove consumer: %w", err)
	}
	return nil
}

// URL is where users connect, empty where the NATS server is not ours.
func (c *Consumers) URL() string {
	if c.opts.Users == nil {
		return ""
	}
	return c.opts.Users.URL()
}
