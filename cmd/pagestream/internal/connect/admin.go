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

// How DisconnectAdmin deals with what is in its way.
const (
	// unsubscribeFor bounds all its calls of Graph together: Meta waits for the
	// answer.
	unsubscribeFor = 5 * time.Second
	// endTries is how often it begins again when another verb was faster.
	endTries = 4
)

// DisconnectAdmin ends every connection that the person with this app-scoped id
// has made through the app. Their tokens are dead by then: Graph is asked to
// unsubscribe a page only once its end is on record, for a few seconds in all,
// and whatever it says, or does not say, stops nothing. What is recorded does
// not name the person.
//
// All pages are tried; the errors are joined. It may be repeated.
func (c *Connector) DisconnectAdmin(ctx context.Context, app, admin, reason string) ([]meta.Outcome, error) {
	if admin == "" {
		return nil, fmt.Errorf("%w: it names no admin", ErrRequest)
	}
	if _, name, ok := c.opts.Graph(app); ok {
		app = name
	}
	list, err := c.opts.Pages.ByAdmin(ctx, app, admin)
	if err != nil {
		return nil, fmt.Errorf("find pages of the admin: %w", err)
	}
	asking, cancel := context.WithTimeout(ctx, unsubscribeFor)
	defer cancel()
	outs, errs := make([]meta.Outcome, len(list)), make([]error, len(list))
	each(len(list), func(i int) {
		for range endTries {
			outs[i], errs[i] = c.end(ctx, asking, list[i], admin, reason)
			if !errors.Is(errs[i], ErrChanged) {
				return
			}
		}
	})
	outs = slices.DeleteFunc(outs, func(o meta.Outcome) bool { return o.State == "" })
	return outs, errors.Join(errs...)
}

// end ends one connection if it is still that person's; else the outcome is the
// zero one.
func (c *Connector) end(ctx, asking context.Context, page domain.PageID, admin, reason string) (meta.Outcome, error) {
	v, err := c.begin(ctx, page)
	if errors.Is(err, meta.ErrNotConnected) || err == nil && v.conn.Admin != admin {
		return meta.Outcome{}, nil
	}
	if err != nil {
		return meta.Outcome{}, err
	}
	if err := v.disconnected(ctx, reason); err != nil {
		return meta.Outcome{}, err
	}
	out := v.outcome(subscriptions.Removed)
	out.Wanted, out.Reason = nil, reason
	event := domain.SubscriptionRemoved
	if err := v.unsubscribe(asking); err != nil {
		out.State, event = subscriptions.Failed, domain.SubscriptionFailed
		out.Code, out.Subcode, out.Reason = meta.Explain(err)
	}
	out.Seq, err = v.say(ctx, event, domain.Subscription{Reason: out.Reason, Code: out.Code, Subcode: out.Subcode})
	if errors.Is(err, ErrChanged) {
		return out, nil // the connection is over, and somebody has said more since
	}
	return out, err
}
