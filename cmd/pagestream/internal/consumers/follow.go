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

// refreshEvery is how often the pages of companies are looked at; a page that is
// connected in between is given in full all the same.
const refreshEvery = 10 * time.Second

// Run lets the users in, and gives consumers of companies the pages that come to
// them, until the context ends.
func (c *Consumers) Run(ctx context.Context) error {
	for {
		if err := c.Refresh(ctx); err != nil && ctx.Err() == nil {
			c.opts.Logger.Warn("consumers can't be looked at; tried again", "err", err)
		}
		if backoff.Sleep(ctx, refreshEvery) != nil {
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
