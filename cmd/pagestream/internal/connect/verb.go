package connect

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/subscriptions"
	"github.com/pagestream/pagestream/streams"
)

// verb is one run of a verb on one page.
type verb struct {
	c     *Connector
	graph Graph
	page  domain.PageID
	token string
	conn  domain.Connection
	known Known
	// attempt makes event ids: an event that is appended twice in one attempt is
	// one event, and the next attempt's is another.
	attempt string
	// Where the page's events end as far as this verb knows. placed says that
	// lastSubscription was read.
	lastPage, lastSubscription uint64
	placed                     bool
}

// verb begins a verb that asks Graph about a connected page.
func (c *Connector) verb(ctx context.Context, page domain.PageID) (*verb, error) {
	v, err := c.begin(ctx, page)
	if err == nil && v.graph == nil {
		return nil, fmt.Errorf("app %q of page %s: %w", v.conn.App, page, ErrUnknownApp)
	}
	return v, err
}

// opened is verb with the page's token.
func (c *Connector) opened(ctx context.Context, page domain.PageID) (*verb, error) {
	v, err := c.verb(ctx, page)
	if err == nil {
		err = v.open()
	}
	return v, err
}

// begin begins a verb on a connected page. It has no graph where the page's app
// is not configured any more.
func (c *Connector) begin(ctx context.Context, page domain.PageID) (*verb, error) {
	lastPage, err := c.last(ctx, page, domain.PageConnected)
	if err != nil {
		return nil, err
	}
	lastSubscription, err := c.last(ctx, page, domain.SubscriptionRequested)
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
	v := &verb{
		c: c, page: page, conn: known.Connection, known: known, attempt: c.opts.NewID(),
		lastPage: lastPage, lastSubscription: lastSubscription, placed: true,
	}
	if g, app, ok := c.opts.Graph(known.Connection.App); ok {
		v.graph, v.conn.App = g, app
	}
	if len(v.conn.Fields) == 0 {
		v.conn.Fields = sorted(c.opts.Fields)
	}
	return v, nil
}

// last finds where the page's events of a noun end.
func (c *Connector) last(ctx context.Context, page domain.PageID, t domain.Type) (uint64, error) {
	seq, err := c.opts.Publisher.LastOf(ctx, page, t)
	if err != nil {
		return 0, fmt.Errorf("find last %s event of page %s: %w", t.Noun(), page, err)
	}
	return seq, nil
}

// open unseals the page's token.
func (v *verb) open() error {
	if v.conn.SealedToken == "" {
		return fmt.Errorf("page %s: %w", v.page, ErrToken)
	}
	b, err := v.c.opts.Sealer.Open(v.conn.SealedToken, TokenAAD(v.page))
	if err != nil {
		return fmt.Errorf("page %s: %w: %w", v.page, ErrToken, err)
	}
	v.token = string(b)
	return nil
}

// apps asks Graph for the apps that are subscribed to the page.
func (v *verb) apps(ctx context.Context) ([]graph.App, error) {
	return v.graph.SubscribedApps(ctx, string(v.page), v.token)
}

// append stores one event of ours.
func (v *verb) append(ctx context.Context, expected uint64, t domain.Type, data domain.Data) (uint64, error) {
	data.App = v.conn.App
	receipt, err := v.c.opts.Publisher.Append(ctx, domain.Event{
		ID: domain.DedupID("pagestream", v.page, string(t), v.attempt), Type: t, Page: v.page,
		Time: v.c.opts.Now().UTC(), Data: data,
	}, expected)
	if errors.Is(err, streams.ErrConflict) {
		return 0, fmt.Errorf("record %s of page %s: %w", t, v.page, ErrChanged)
	}
	if err != nil {
		return 0, fmt.Errorf("record %s of page %s: %w", t, v.page, err)
	}
	return receipt.Seq, nil
}

// say appends a subscription event after the last one that this verb knows.
func (v *verb) say(ctx context.Context, t domain.Type, s domain.Subscription) (uint64, error) {
	if !v.placed {
		last, err := v.c.last(ctx, v.page, t)
		if err != nil {
			return 0, err
		}
		v.lastSubscription, v.placed = last, true
	}
	s.App = v.conn.App
	seq, err := v.append(ctx, v.lastSubscription, t, domain.Data{Subscription: &s})
	if err != nil {
		return 0, err
	}
	v.lastSubscription = seq
	return seq, nil
}

func (v *verb) outcome(state subscriptions.State) meta.Outcome {
	return meta.Outcome{
		Page: v.page, ConnectionID: v.conn.ConnectionID, App: v.conn.App, Name: v.conn.Name,
		State: state, Wanted: sorted(v.conn.Fields),
	}
}

// sorted returns a sorted copy without repeats: the order of fields means
// nothing.
func sorted(fields []string) []string {
	out := slices.Clone(fields)
	slices.Sort(out)
	return slices.Compact(out)
}
