package consumers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// refreshEvery is how often the consumers are read again: another node may have added or
// removed some.
const refreshEvery = 10 * time.Second

// Run fills the outboxes and sets the NATS users until the context ends. It always
// returns nil; failures are logged and tried again.
func (c *Consumers) Run(ctx context.Context) error {
	defer func() {
		for _, name := range c.running() {
			c.stop(name)
		}
	}()
	for {
		if err := c.refresh(ctx); err != nil && ctx.Err() == nil {
			c.opts.Logger.Warn("consumers can't be refreshed; trying again", "err", err)
		}
		select {
		case <-c.changed:
		case <-time.After(refreshEvery):
		case <-ctx.Done():
			return nil
		}
	}
}

// wake makes Run read the consumers again now.
func (c *Consumers) wake() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// running returns the names of the consumers whose fillers run.
func (c *Consumers) running() (names []string) {
	c.fillersMu.Lock()
	defer c.fillersMu.Unlock()
	for name := range c.fillers {
		names = append(names, name)
	}
	return names
}

// refresh sets the NATS users of all consumers, and starts and stops fillers.
func (c *Consumers) refresh(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	errs := []error{c.convert(ctx)}
	list, err := c.records(ctx)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, name := range c.running() {
		if !slices.ContainsFunc(list, func(r record) bool { return r.Name == name }) {
			c.stop(name) // another node removed it
		}
	}
	for _, r := range list {
		if c.opts.Users != nil {
			errs = append(errs, c.setUser(r.Spec))
		}
		if err := c.start(ctx, r); err != nil {
			errs = append(errs, fmt.Errorf("consumer %s: %w", r.Name, err))
		}
	}
	return errors.Join(errs...)
}

// Streams returns the names of the streams that belong to the consumers: the one of
// their records and the outboxes. A backup copies them in this order.
func (c *Consumers) Streams(ctx context.Context) ([]string, error) {
	list, err := c.records(ctx)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	out := []string{Bucket}
	for _, r := range list {
		out = append(out, StreamOf(r.Name))
	}
	return out, nil
}
