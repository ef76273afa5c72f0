package operate

import (
	"context"
	"errors"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/doctor"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/reconcile"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

// Page is a page with its subscription's state and the judgement that everybody
// shows of it.
type Page struct {
	pages.Page
	// Subscription is the state of the subscription of the page's app, "none" where
	// nothing was ever asked for.
	Subscription subscriptions.State `json:"subscription"`
	Judgement    meta.Judgement      `json:"judgement"`
}

// Judging returns what judges pages by what is on record, as of now and without
// calling Graph. It takes the subscription of the page's app, nil where nothing was
// ever asked for.
func (o *Operator) Judging() func(p pages.Page, sub *subscriptions.Subscription) meta.Judgement {
	return o.Doctor.Judging()
}

// judged is like Judging, for a whole [Page].
func (o *Operator) judged() func(p pages.Page, sub *subscriptions.Subscription) Page {
	judge := o.Judging()
	return func(p pages.Page, sub *subscriptions.Subscription) Page {
		out := Page{Page: p, Subscription: subscriptions.None, Judgement: judge(p, sub)}
		if sub != nil {
			out.Subscription = sub.State
		}
		return out
	}
}

// Page returns one page, or fails with [pages.ErrNotFound].
func (o *Operator) Page(id domain.PageID) (Page, error) {
	p, err := pages.Get(o.Models.Pages(), id)
	if err != nil {
		return Page{}, err
	}
	sub, err := o.Subscription(p)
	if err != nil {
		return Page{}, err
	}
	return o.judged()(p, sub), nil
}

// Subscription returns the subscription of a page's app, nil where nothing was ever
// asked for.
func (o *Operator) Subscription(p pages.Page) (*subscriptions.Subscription, error) {
	sub, err := subscriptions.Get(o.Models.Subscriptions(), p.ID, p.App)
	if errors.Is(err, subscriptions.ErrNotFound) {
		return nil, nil
	}
	return &sub, err
}

// ListPages returns pages in byte order of their ids and the cursor of the next
// ones, as [pages.List] does.
func (o *Operator) ListPages(cursor string, limit int) ([]Page, string, error) {
	list, next, err := pages.List(o.Models.Pages(), cursor, limit)
	if err != nil {
		return nil, "", err
	}
	out, judged := make([]Page, len(list)), o.judged()
	for i, p := range list {
		sub, err := o.Subscription(p)
		if err != nil {
			return nil, "", err
		}
		out[i] = judged(p, sub)
	}
	return out, next, nil
}

// EachPage calls fn with every page in byte order of their ids and stops at its
// first error.
func (o *Operator) EachPage(fn func(Page) error) error {
	subs, err := subscriptions.All(o.Models.Subscriptions())
	if err != nil {
		return err
	}
	judged := o.judged()
	return pages.Each(o.Models.Pages(), func(p pages.Page) error {
		return fn(judged(p, subs.Of(p.ID, p.App)))
	})
}

// Connect connects a page with its own token and subscribes it.
func (o *Operator) Connect(ctx context.Context, r connect.Request) (meta.Outcome, error) {
	return o.settled(ctx)(o.Connector.Connect(ctx, r))
}

// Check compares a page's subscription with what is wanted.
func (o *Operator) Check(ctx context.Context, page domain.PageID) (meta.Outcome, error) {
	return o.settled(ctx)(o.Connector.Check(ctx, page))
}

// Plan tells what Resubscribe would do, and changes nothing.
func (o *Operator) Plan(ctx context.Context, page domain.PageID) (meta.Outcome, error) {
	return o.Connector.Plan(ctx, page)
}

// Resubscribe subscribes a page again with all its wanted fields.
func (o *Operator) Resubscribe(ctx context.Context, page domain.PageID) (meta.Outcome, error) {
	return o.settled(ctx)(o.Connector.Resubscribe(ctx, page))
}

// Disconnect unsubscribes a page and drops its connection; its events stay.
func (o *Operator) Disconnect(ctx context.Context, page domain.PageID) (meta.Outcome, error) {
	return o.settled(ctx)(o.Connector.Disconnect(ctx, page))
}

// settled returns an outcome once the read models of pages hold it, or after a while,
// so that the operator's next command finds what this one did.
func (o *Operator) settled(ctx context.Context) func(meta.Outcome, error) (meta.Outcome, error) {
	return func(out meta.Outcome, err error) (meta.Outcome, error) {
		o.Known.Settle(ctx, out.Seq)
		return out, err
	}
}

// Examine asks Graph about pages, puts what it finds on record and says what is
// wrong. No page means every connected one, and those that send without being
// connected.
func (o *Operator) Examine(ctx context.Context, ids []domain.PageID) (doctor.Report, error) {
	return o.Doctor.Examine(ctx, ids)
}

// Reconcile returns what the reconcile loop knows of each connected page.
func (o *Operator) Reconcile() reconcile.Status { return o.Reconciler.Status() }

// Loop returns what the reconcile loop knows of a connected page, the zero value
// where it knows nothing.
func (o *Operator) Loop(page domain.PageID) meta.Loop {
	s, _ := o.Reconciler.Page(page)
	return s.Loop
}

// AllSilent reports whether nearly all pages are silent at once: deliveries don't
// reach us.
func (o *Operator) AllSilent() bool { return o.Reconciler.AllSilent() }
