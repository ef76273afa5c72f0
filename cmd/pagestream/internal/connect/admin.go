package connect

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

// Limits of [Connector.DisconnectAdmin].
const (
	// unsubscribeTimeout is for all its calls of Graph together: Meta waits for the
	// answer to its callback.
	unsubscribeTimeout = 5 * time.Second
	// disconnectTries is how often a page is tried after a concurrent change.
	disconnectTries = 4
)

// DisconnectAdmin ends every connection that the person with this app-scoped id made
// through the app before that time. Their tokens are usually dead at that time, so a page is
// unsubscribed only after the end of its connection is recorded. The calls of Graph
// together take at most 5 seconds, and an error of them does not stop anything. The
// recorded events do not name the person.
//
// All pages are tried; the errors are joined. [ErrRequest] is returned if admin is
// empty. The call may be repeated.
func (c *Connector) DisconnectAdmin(
	ctx context.Context, app, admin string, before time.Time, reason string,
) ([]meta.Outcome, error) {
	if admin == "" {
		return nil, fmt.Errorf("%w: it names no admin", ErrRequest)
	}
	if _, name, ok := c.opts.Graph(app); ok {
		app = name
	}
	return c.DisconnectAdminHash(ctx, domain.AdminHash(app, admin), before, reason)
}

// DisconnectAdminHash is [Connector.DisconnectAdmin] for the person with this
// [domain.AdminHash].
func (c *Connector) DisconnectAdminHash(
	ctx context.Context, hash string, before time.Time, reason string,
) ([]meta.Outcome, error) {
	list, err := c.opts.Pages.ByAdmin(ctx, hash, before)
	if err != nil {
		return nil, fmt.Errorf("find pages of the admin: %w", err)
	}
	asking, cancel := context.WithTimeout(ctx, unsubscribeTimeout)
	defer cancel()
	outs, errs := make([]meta.Outcome, len(list)), make([]error, len(list))
	each(len(list), func(i int) {
		for range disconnectTries {
			outs[i], errs[i] = c.disconnectIfAdmin(ctx, asking, list[i], hash, before, reason)
			if !errors.Is(errs[i], ErrChanged) {
				return
			}
		}
	})
	outs = slices.DeleteFunc(outs, func(o meta.Outcome) bool { return o.State == "" })
	return outs, errors.Join(errs...)
}

// disconnectIfAdmin ends one connection if it is still that person's; otherwise it
// returns the zero outcome.
func (c *Connector) disconnectIfAdmin(
	ctx, asking context.Context, page domain.PageID, hash string, before time.Time, reason string,
) (meta.Outcome, error) {
	op, err := c.start(ctx, page)
	if errors.Is(err, meta.ErrNotConnected) {
		return meta.Outcome{}, nil
	}
	if err != nil {
		return meta.Outcome{}, err
	}
	was := op.known.Connection
	if was.Admin == "" || domain.AdminHash(was.App, was.Admin) != hash || !op.known.AdminSince.Before(before) {
		return meta.Outcome{}, nil
	}
	opened := op.openToken(ctx) // before the token is erased
	if err := op.recordDisconnected(ctx, reason); err != nil {
		return meta.Outcome{}, err
	}
	out := op.outcome(subscriptions.Removed)
	out.Wanted, out.Reason = nil, reason
	event := domain.SubscriptionRemoved
	if err := op.unsubscribe(asking, opened); err != nil {
		out.State, event = subscriptions.Failed, domain.SubscriptionFailed
		out.Code, out.Subcode, out.Reason = meta.Explain(err)
	}
	out.Seq, err = op.appendSubscription(
		ctx, event, domain.Subscription{Reason: out.Reason, Code: out.Code, Subcode: out.Subcode},
	)
	if errors.Is(err, ErrChanged) {
		return out, nil // the connection has ended, and there is a newer subscription event
	}
	return out, err
}
