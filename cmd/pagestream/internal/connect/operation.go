package connect

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/seal"
	"github.com/pagestream/pagestream/projections/subscriptions"
	"github.com/pagestream/pagestream/streams"
)

// operation is one run of an operation on one page.
type operation struct {
	c     *Connector
	graph Graph
	page  domain.PageID
	token string
	conn  domain.Connection
	known Known
	// attempt is part of the event ids: an event that is appended twice in one attempt
	// is stored once, and an event of the next attempt is a new one.
	attempt string
	// lastPage and lastSubscription are the sequences of the page's last known events
	// of these nouns. lastSubscriptionRead reports that lastSubscription is set.
	lastPage, lastSubscription uint64
	lastSubscriptionRead       bool
}

// startWithApp starts an operation on a connected page that calls Graph.
// [ErrUnknownApp] is returned if the page's app is not configured.
func (c *Connector) startWithApp(ctx context.Context, page domain.PageID) (*operation, error) {
	op, err := c.start(ctx, page)
	if err == nil && op.graph == nil {
		return nil, fmt.Errorf("app %q of page %s: %w", op.conn.App, page, ErrUnknownApp)
	}
	return op, err
}

// startWithToken is startWithApp with the page's token opened.
func (c *Connector) startWithToken(ctx context.Context, page domain.PageID) (*operation, error) {
	op, err := c.startWithApp(ctx, page)
	if err == nil {
		err = op.openToken(ctx)
	}
	return op, err
}

// start starts an operation on a connected page. Its graph is nil if the page's app
// is no longer configured. [meta.ErrNotConnected] is returned if the page is not
// connected.
func (c *Connector) start(ctx context.Context, page domain.PageID) (*operation, error) {
	lastPage, err := c.lastSeq(ctx, page, domain.PageConnected)
	if err != nil {
		return nil, err
	}
	lastSubscription, err := c.lastSeq(ctx, page, domain.SubscriptionRequested)
	if err != nil {
		return nil, err
	}
	known, err := c.opts.Pages.Known(ctx, page, max(lastPage, lastSubscription))
	if err != nil {
		return nil, fmt.Errorf("read page %s: %w", page, err)
	}
	if !known.Connected {
		return nil, fmt.Errorf("page %s: %w", page, meta.ErrNotConnected)
	}
	op := &operation{
		c: c, page: page, conn: known.Connection, known: known, attempt: c.opts.NewID(),
		lastPage: lastPage, lastSubscription: lastSubscription, lastSubscriptionRead: true,
	}
	if g, app, ok := c.opts.Graph(known.Connection.App); ok {
		op.graph, op.conn.App = g, app
	}
	if len(op.conn.Fields) == 0 {
		op.conn.Fields = sorted(c.opts.Fields)
	}
	return op, nil
}

// lastSeq returns the sequence of the page's last event of the type's noun, 0 if there
// is none.
func (c *Connector) lastSeq(ctx context.Context, page domain.PageID, t domain.Type) (uint64, error) {
	seq, err := c.opts.Publisher.LastOf(ctx, page, t)
	if err != nil {
		return 0, fmt.Errorf("find last %s event of page %s: %w", t.Noun(), page, err)
	}
	return seq, nil
}

// openToken reads and unseals the page's token. [ErrToken] is returned if the token is
// missing or can't be opened.
func (op *operation) openToken(ctx context.Context) error {
	token, err := openToken(ctx, op.c.opts.Secrets, op.c.opts.Sealer, op.page, op.conn.Secret)
	if err == nil {
		op.token = token
	}
	return err
}

// openToken is [operation.openToken] for the secret with a reference.
func openToken(
	ctx context.Context, from Secrets, sealer *seal.KeyRing, page domain.PageID, ref string,
) (string, error) {
	s, err := from.Get(ctx, page, ref)
	if errors.Is(err, ErrSecretMissing) {
		return "", fmt.Errorf("page %s: %w: %w", page, ErrToken, err)
	}
	if err != nil {
		return "", fmt.Errorf("page %s: %w", page, err)
	}
	b, err := sealer.Open(s.Token, TokenAAD(page))
	if err != nil {
		return "", fmt.Errorf("page %s: %w: %w", page, ErrToken, err)
	}
	return string(b), nil
}

// apps asks Graph for the apps that are subscribed to the page.
func (op *operation) apps(ctx context.Context) ([]graph.App, error) {
	return op.graph.SubscribedApps(ctx, string(op.page), op.token)
}

// append stores one event if the last one of its noun is still expected. [ErrChanged]
// is returned if it is not.
func (op *operation) append(ctx context.Context, expected uint64, t domain.Type, data domain.Data) (uint64, error) {
	data.App = op.conn.App
	receipt, err := op.c.opts.Publisher.Append(ctx, domain.Event{
		ID: domain.DedupID("pagestream", op.page, string(t), op.attempt), Type: t, Page: op.page,
		Time: op.c.opts.Now().UTC(), Data: data,
	}, expected)
	if errors.Is(err, streams.ErrConflict) {
		return 0, fmt.Errorf("record %s of page %s: %w", t, op.page, ErrChanged)
	}
	if err != nil {
		return 0, fmt.Errorf("record %s of page %s: %w", t, op.page, err)
	}
	return receipt.Seq, nil
}

// appendWithSecret stores a secret, and then the event with its reference if the last
// one of its noun is still expected. The secrets before it are erased once the event is
// stored: after a crash at any point the page's last event refers to a stored secret.
func (op *operation) appendWithSecret(
	ctx context.Context, expected uint64, t domain.Type, conn domain.Connection, s Secret,
) (uint64, error) {
	s.Page, s.ConnectionID, s.After = op.page, conn.ConnectionID, expected
	ref, err := op.c.opts.Secrets.Put(ctx, s)
	if err != nil {
		return 0, fmt.Errorf("store tokens of page %s: %w", op.page, err)
	}
	conn.Secret = ref
	seq, err := op.append(ctx, expected, t, domain.Data{Connection: &conn})
	switch {
	case err == nil:
		op.prune(ctx, seq, ref)
	case errors.Is(err, ErrChanged):
		op.erase(ctx, func(ctx context.Context) error { return op.c.opts.Secrets.Drop(ctx, op.page, ref) })
	}
	return seq, err
}

// prune erases the page's secrets that the event at seq has replaced.
func (op *operation) prune(ctx context.Context, seq uint64, keep string) {
	op.erase(ctx, func(ctx context.Context) error { return op.c.opts.Secrets.Prune(ctx, op.page, seq, keep) })
}

// erase runs a function that erases secrets, also if the caller's context has ended. An
// error does not fail the operation, whose event is stored: a sweep erases what is left.
func (op *operation) erase(ctx context.Context, f func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	if err := f(ctx); err != nil {
		op.c.opts.Logger.Warn("old tokens of a page can't be erased now; it is tried again within two hours",
			"page", op.page, "err", err)
	}
}

// appendSubscription appends a subscription event after the last one that this
// operation knows.
func (op *operation) appendSubscription(ctx context.Context, t domain.Type, s domain.Subscription) (uint64, error) {
	if !op.lastSubscriptionRead {
		last, err := op.c.lastSeq(ctx, op.page, t)
		if err != nil {
			return 0, err
		}
		op.lastSubscription, op.lastSubscriptionRead = last, true
	}
	s.App = op.conn.App
	seq, err := op.append(ctx, op.lastSubscription, t, domain.Data{Subscription: &s})
	if err != nil {
		return 0, err
	}
	op.lastSubscription = seq
	return seq, nil
}

func (op *operation) outcome(state subscriptions.State) meta.Outcome {
	return meta.Outcome{
		Page: op.page, ConnectionID: op.conn.ConnectionID, App: op.conn.App, Name: op.conn.Name,
		State: state, Wanted: sorted(op.conn.Fields),
	}
}

// sorted returns a sorted copy without duplicates: the order of fields has no meaning.
func sorted(fields []string) []string {
	out := slices.Clone(fields)
	slices.Sort(out)
	return slices.Compact(out)
}
