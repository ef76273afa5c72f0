package consumers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/streams"
)

// refreshEvery is how often the pages of companies are read. A page that is
// connected in between is still delivered from its first event on.
const refreshEvery = 10 * time.Second

// Run calls Refresh every 10 seconds until the context ends. It always returns
// nil; failures are logged and tried again.
func (c *Consumers) Run(ctx context.Context) error {
	for {
		if err := c.Refresh(ctx); err != nil && ctx.Err() == nil {
			c.opts.Logger.Warn("consumers can't be refreshed; trying again", "err", err)
		}
		if backoff.Sleep(ctx, refreshEvery) != nil {
			return nil
		}
	}
}

// Refresh sets the NATS users of all consumers, and adds new pages of companies to
// the filters of their consumers. It is idempotent.
func (c *Consumers) Refresh(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	list, err := c.list(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, consumer := range list {
		if c.opts.Users != nil {
			if err := c.opts.Users.SetUser(consumer.Name, consumer.PublicKey, consumer.Durable); err != nil {
				errs = append(errs, fmt.Errorf("set user %s: %w", consumer.Name, err))
			}
		}
		if consumer.Company != "" {
			if err := c.follow(ctx, consumer); err != nil {
				errs = append(errs, fmt.Errorf("update pages of %s: %w", consumer.Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// follow updates the filter of a company's consumer. If the consumer is already
// past events of a newly added page, it is reset to the first of them; events that
// are therefore delivered twice have the same id.
func (c *Consumers) follow(ctx context.Context, consumer Consumer) error {
	want, err := c.config(consumer.Spec)
	if err != nil {
		return err
	}
	var next Spec
	err = json.Unmarshal([]byte(want.Metadata[metaKey]), &next)
	if err != nil || slices.Equal(next.Known, consumer.Known) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	have, err := c.opts.JS.Consumer(ctx, c.opts.Stream, consumer.Durable)
	if err != nil {
		return err
	}
	config := have.CachedInfo().Config
	config.FilterSubject, config.FilterSubjects, config.Metadata = "", want.FilterSubjects, want.Metadata
	changed, err := c.opts.JS.UpdateConsumer(ctx, c.opts.Stream, config)
	if err != nil {
		return err
	}
	delivered := changed.CachedInfo().Delivered.Stream
	var resetTo uint64
	for _, page := range next.Known {
		if slices.Contains(consumer.Known, page) {
			continue
		}
		seq, err := c.connectedSeq(ctx, page)
		if err != nil {
			return err
		}
		if seq > 0 && seq < delivered && (resetTo == 0 || seq < resetTo) {
			resetTo = seq
		}
	}
	if resetTo == 0 {
		return nil
	}
	_, err = c.opts.JS.ResetConsumerToSequence(ctx, c.opts.Stream, consumer.Durable, resetTo)
	return err
}

// connectedSeq returns the sequence of a page's last page.connected event, 0 if
// there is none.
func (c *Consumers) connectedSeq(ctx context.Context, page domain.PageID) (uint64, error) {
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
