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
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
)

// Errors of what was asked for.
var (
	// ErrName says that a name can't be one.
	ErrName = errors.New("a consumer's name is 1 to 40 of a-z, 0-9, - and _")
	// ErrExists says that there is a consumer of that name.
	ErrExists = errors.New("there is a consumer of that name; remove it first, or choose another name")
	// ErrUnknown says that there is none.
	ErrUnknown = errors.New("there is no consumer of that name")
	// ErrType says that a type is none of ours.
	ErrType = errors.New("no such type of event")
	// ErrTooMany says that the choice needs more filters than a consumer should have.
	ErrTooMany = errors.New("too many pages and types for one consumer; name fewer, or leave out the types")
)

const (
	prefix = "consumer-"
	// metaKey has the [Spec] in the consumer's metadata.
	metaKey = "pagestream-consumer"
	// maxFilters bounds the subjects of one consumer, maxConsumers all of them.
	maxFilters   = 10_000
	maxConsumers = 256
	ackWait      = 30 * time.Second
	maxPending   = 1000
	// refreshEvery is how often the pages of companies are looked at; a page that
	// is connected in between is given in full all the same.
	refreshEvery = 10 * time.Second
	timeout      = 20 * time.Second
)

var validName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,39}$`)

// private nouns are pagestream's own: they have sealed tokens in them. They are
// given only to whom they are named for.
var private = []string{"page", "subscription"}

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
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
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

// config is the JetStream consumer of a specification, with the pages that its
// company has now.
func (c *Consumers) config(s Spec) (jetstream.ConsumerConfig, error) {
	pages := slices.Clone(s.Pages)
	if s.Company != "" {
		more, err := c.opts.PagesOf(s.Company)
		if err != nil {
			return jetstream.ConsumerConfig{}, fmt.Errorf("list pages of %s: %w", s.Company, err)
		}
		pages = append(pages, more...)
	}
	slices.Sort(pages)
	s.Known = slices.Compact(pages)
	filters := filters(s)
	if len(filters) > maxFilters {
		return jetstream.ConsumerConfig{}, fmt.Errorf("%d filters: %w", len(filters), ErrTooMany)
	}
	meta, err := json.Marshal(s)
	if err != nil {
		return jetstream.ConsumerConfig{}, fmt.Errorf("encode consumer: %w", err)
	}
	config := jetstream.ConsumerConfig{
		Durable: prefix + s.Name, FilterSubjects: filters, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: ackWait, MaxAckPending: maxPending, MaxDeliver: -1, Metadata: map[string]string{metaKey: string(meta)},
	}
	if s.FromNow {
		config.DeliverPolicy = jetstream.DeliverNewPolicy
	}
	return config, nil
}

// filters are the subjects of a specification.
func filters(s Spec) (out []string) {
	pages := s.Known
	switch {
	case len(pages) == 0 && s.Company != "":
		// A company without a page is given nothing: this subject has no events.
		return []string{streams.SubjectPrefix + "._.none.none"}
	case len(pages) == 0:
		pages = []domain.PageID{""}
	}
	for _, page := range pages {
		if len(s.Types) > 0 {
			out = append(out, streams.Filter(page, s.Types...)...)
			continue
		}
		every := strings.TrimSuffix(streams.Filter(page)[0], ">")
		for _, noun := range nouns() {
			out = append(out, every+noun+".*")
		}
	}
	return out
}

// nouns are those that everybody is given.
func nouns() (out []string) {
	for _, t := range domain.Types() {
		if !slices.Contains(private, t.Noun()) && !slices.Contains(out, t.Noun()) {
			out = append(out, t.Noun())
		}
	}
	return out
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

// Run lets the users in, and gives consumers of companies the pages that come to
// them, until the context ends.
func (c *Consumers) Run(ctx context.Context) error {
	t := time.NewTicker(refreshEvery)
	defer t.Stop()
	for {
		if err := c.Refresh(ctx); err != nil && ctx.Err() == nil {
			c.opts.Logger.Warn("consumers can't be looked at; tried again", "err", err)
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// Refresh does what Run does, once.
func (c *Consumers) Refresh(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	list, err := c.list(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, one := range list {
		if c.opts.Users != nil {
			if err := c.opts.Users.SetUser(one.Name, one.PublicKey, one.Durable); err != nil {
				errs = append(errs, fmt.Errorf("let user %s in: %w", one.Name, err))
			}
		}
		if one.Company != "" {
			if err := c.follow(ctx, one); err != nil {
				errs = append(errs, fmt.Errorf("give %s its pages: %w", one.Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// follow changes the filter of a company's consumer. Where it has gone past events
// of a page that is new to it, it goes back to them: what comes twice has the same
// id.
func (c *Consumers) follow(ctx context.Context, one Consumer) error {
	want, err := c.config(one.Spec)
	if err != nil {
		return err
	}
	var next Spec
	if err := json.Unmarshal([]byte(want.Metadata[metaKey]), &next); err != nil || slices.Equal(next.Known, one.Known) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	have, err := c.opts.JS.Consumer(ctx, c.opts.Stream, one.Durable)
	if err != nil {
		return err
	}
	config := have.CachedInfo().Config
	config.FilterSubject, config.FilterSubjects, config.Metadata = "", want.FilterSubjects, want.Metadata
	changed, err := c.opts.JS.UpdateConsumer(ctx, c.opts.Stream, config)
	if err != nil {
		return err
	}
	past := changed.CachedInfo().Delivered.Stream
	var back uint64
	for _, page := range next.Known {
		if slices.Contains(one.Known, page) {
			continue
		}
		seq, err := c.connected(ctx, page)
		if err != nil {
			return err
		}
		if seq > 0 && seq < past && (back == 0 || seq < back) {
			back = seq
		}
	}
	if back == 0 {
		return nil
	}
	_, err = c.opts.JS.ResetConsumerToSequence(ctx, c.opts.Stream, one.Durable, back)
	return err
}

// connected is when a page was last connected, 0 if nothing says so.
func (c *Consumers) connected(ctx context.Context, page domain.PageID) (uint64, error) {
	st, err := c.opts.JS.Stream(ctx, c.opts.Stream)
	if err != nil {
		return 0, err
	}
	m, err := st.GetLastMsgForSubject(ctx, streams.Subject(page, domain.PageConnected))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return m.Sequence, nil
}

// URL is where users connect, empty where the NATS server is not ours.
func (c *Consumers) URL() string {
	if c.opts.Users == nil {
		return ""
	}
	return c.opts.Users.URL()
}
