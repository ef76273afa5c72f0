// Package consumers lets external programs read events from the stream over NATS.
// Each gets a durable JetStream consumer over chosen pages and types, and a user
// that can read from that consumer and nothing else.
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

// Errors of [Consumers.Add] and [Consumers.Remove].
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
	// ErrType is returned when a type is not one of pagestream's event types.
	ErrType = errors.New("no such type of event")
	// ErrTooMany is returned when the pages and types need more than 10,000 filter
	// subjects, or when there are 256 consumers already.
	ErrTooMany = errors.New("too many pages and types for one consumer; name fewer, or leave out the types")
)

const (
	prefix = "consumer-"
	// metaKey is the key of the [Spec] in the JetStream consumer's metadata.
	metaKey      = "pagestream-consumer"
	maxConsumers = 256
	timeout      = 20 * time.Second
)

var validName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,39}$`)

// Spec says which events a consumer gets.
type Spec struct {
	Name string `json:"name"`
	// Pages are the pages to read, besides the current pages of Company. All is every
	// page, instead of the two.
	Pages   []domain.PageID `json:"pages,omitempty"`
	Company string          `json:"company,omitempty"`
	All     bool            `json:"all,omitempty"`
	// Types are the event types; nil means every type but page.* and
	// subscription.*.
	Types []domain.Type `json:"types,omitempty"`
	// PublicKey is the public nkey of the consumer's user.
	PublicKey string `json:"public_key,omitempty"`
	// FromNow skips the events that are in the stream already.
	FromNow bool `json:"from_now,omitempty"`
	// Known are the pages in the JetStream consumer's current filter.
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
		if !t.Known() {
			return fmt.Errorf("%q: %w", t, ErrType)
		}
	}
	return nil
}

// Consumer is one consumer and its progress.
type Consumer struct {
	Spec
	// Durable is the JetStream consumer's name.
	Durable string `json:"durable"`
	// Seq is the acknowledgement floor: the consumer has acknowledged this event
	// and all before it. Pending events were not delivered yet. Unacknowledged
	// events were delivered and not acknowledged; Redelivered of them more than
	// once. Lag is the number of all events that are not acknowledged.
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
	// URL is where to connect. It is empty with an external NATS server: the
	// operator of that server must create the user, with permission to publish to
	// the subjects in Publish.
	URL     string   `json:"url,omitempty"`
	Stream  string   `json:"stream"`
	Publish []string `json:"publish"`
}

// Users manages the NATS users of the embedded server.
type Users interface {
	// SetUser adds or replaces a user that can read from one durable consumer.
	SetUser(name, publicKey, durable string) error
	// RemoveUser removes a user and ends its connections.
	RemoveUser(name string)
	// URL is where users connect.
	URL() string
}

// Options of [New]. JS, Stream and PagesOf are required.
type Options struct {
	JS     jetstream.JetStream
	Stream string
	// Users is nil with an external NATS server.
	Users Users
	// PagesOf lists the pages of a company.
	PagesOf func(company string) ([]domain.PageID, error)
	Logger  *slog.Logger
}

// Consumers creates, lists and removes consumers. Make one with [New]; its methods
// are safe for concurrent use.
type Consumers struct {
	opts Options
	mu   sync.Mutex // serializes changes
}

// New returns a Consumers over the stream of o.
func New(o Options) *Consumers {
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	return &Consumers{opts: o}
}

// Add creates a consumer and a user for it. The returned seed is not stored, so it
// can't be shown again. It fails with [ErrName], [ErrPages], [ErrType], [ErrTooMany]
// or [ErrExists].
func (c *Consumers) Add(ctx context.Context, s Spec) (Added, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := s.check(); err != nil {
		return Added{}, err
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
			return Added{}, errors.Join(fmt.Errorf("set user: %w", err),
				c.opts.JS.DeleteConsumer(ctx, c.opts.Stream, out.Durable))
		}
		out.URL = c.opts.Users.URL()
	}
	return out, nil
}

// List returns the consumers, sorted by name.
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
		return nil, fmt.Errorf("read stream info: %w", err)
	}
	out := []Consumer{}
	lister := st.ListConsumers(ctx)
	for info := range lister.Info() {
		if consumer, managed := consumerOf(info); managed {
			out = append(out, consumer)
		}
	}
	if err := lister.Err(); err != nil {
		return nil, fmt.Errorf("list consumers: %w", err)
	}
	return out, nil
}

// consumerOf converts a JetStream consumer, and reports whether this package
// created it.
func consumerOf(info *jetstream.ConsumerInfo) (Consumer, bool) {
	raw, managed := info.Config.Metadata[metaKey]
	consumer := Consumer{
		Durable: info.Name, Seq: info.AckFloor.Stream, Pending: info.NumPending, Unacknowledged: info.NumAckPending,
		Redelivered: info.NumRedelivered, Waiting: info.NumWaiting, Created: info.Created,
		Lag: info.NumPending + uint64(max(0, info.NumAckPending)),
	}
	if info.Delivered.Last != nil {
		consumer.LastActive = *info.Delivered.Last
	}
	managed = managed && json.Unmarshal([]byte(raw), &consumer.Spec) == nil
	consumer.setAll()
	return consumer, managed
}

// setAll sets All in a Spec that was stored when there was no such field: every page was
// meant by a Spec without pages and company, and by one with an empty page id.
func (s *Spec) setAll() {
	if len(s.Pages) == 0 && s.Company == "" || slices.Contains(s.Pages, "") {
		s.Pages, s.Company, s.Known, s.All = nil, "", nil, true
	}
}

// Remove deletes a consumer and its user. Events that it has not read are no
// longer delivered. It fails with [ErrUnknown].
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

// URL returns where users connect; it is empty with an external NATS server.
func (c *Consumers) URL() string {
	if c.opts.Users == nil {
		return ""
	}
	return c.opts.Users.URL()
}
