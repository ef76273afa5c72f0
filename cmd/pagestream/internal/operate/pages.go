package operate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/doctor"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/reconcile"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
	"github.com/pagestream/pagestream/streams"
)

// Page is a page with its subscription's state and its judgement, which is the same in
// the API, the console and the command line.
type Page struct {
	pages.Page
	// Subscription is the state of the subscription of the page's app, "none" if it
	// was never requested.
	Subscription subscriptions.State `json:"subscription"`
	Judgement    meta.Judgement      `json:"judgement"`
}

// Judging returns a function that judges pages by the recorded facts, as of now and
// without calling Graph. The function needs the subscription of the page's app, nil if
// it was never requested.
func (o *Operator) Judging() func(p pages.Page, sub *subscriptions.Subscription) meta.Judgement {
	return o.Doctor.Judging()
}

// pageBuilder returns a function that judges a page and builds its [Page].
func (o *Operator) pageBuilder() func(p pages.Page, sub *subscriptions.Subscription) Page {
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
	return o.pageBuilder()(p, sub), nil
}

// Subscription returns the subscription of a page's app, nil if it was never
// requested.
func (o *Operator) Subscription(p pages.Page) (*subscriptions.Subscription, error) {
	sub, err := subscriptions.Get(o.Models.Subscriptions(), p.ID, p.App)
	if errors.Is(err, subscriptions.ErrNotFound) {
		return nil, nil
	}
	return &sub, err
}

// ListPages returns at most limit pages in byte order of their ids, and the cursor of
// the next ones, like [pages.List]. With the id of a company it returns only the pages
// and Instagram accounts that the company has now.
func (o *Operator) ListPages(company, cursor string, limit int) ([]Page, string, error) {
	list, next, err := pages.ListOf(o.Models.Pages(), company, cursor, limit)
	if err != nil {
		return nil, "", err
	}
	out, build := make([]Page, len(list)), o.pageBuilder()
	for i, p := range list {
		sub, err := o.Subscription(p)
		if err != nil {
			return nil, "", err
		}
		out[i] = build(p, sub)
	}
	return out, next, nil
}

// CheckPages fails with [doctor.ErrUnknownPage] if one of the ids is empty, or is neither
// that of a page nor of a linked Instagram account, as of the stream's head. A page that was forgotten is one: the
// stream has its events.
func (o *Operator) CheckPages(ctx context.Context, ids []domain.PageID) error {
	for _, id := range ids {
		known, err := o.findPage(ctx, func() (bool, error) { return o.Models.KnowsPage(id) })
		if err == nil && !known && id != "" {
			known, err = o.wasForgotten(ctx, id)
		}
		if err != nil {
			return err
		}
		if !known {
			return fmt.Errorf("%w %.64q; type: pagestream pages list", doctor.ErrUnknownPage, id)
		}
	}
	return nil
}

// wasForgotten reports whether the stream has an event page.forgotten of the page.
func (o *Operator) wasForgotten(ctx context.Context, id domain.PageID) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	s, err := o.JS.Stream(ctx, o.Stream)
	if err != nil {
		return false, fmt.Errorf("get stream: %w", err)
	}
	_, err = s.GetLastMsgForSubject(ctx, streams.Subject(id, domain.PageForgotten))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("find event of page: %w", err)
	}
	return true, nil
}

// findPage calls find with the read model of pages. If find returns false, it is called
// again after the read model has applied the last event of the stream.
func (o *Operator) findPage(ctx context.Context, find func() (bool, error)) (bool, error) {
	if found, err := find(); found || err != nil {
		return found, err
	}
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	head, err := streams.Last(ctx, o.JS, o.Stream)
	if err != nil {
		return false, fmt.Errorf("read the stream's head: %w", err)
	}
	if err := o.Models.Pages().WaitFor(ctx, head); err != nil {
		return false, fmt.Errorf("wait for read model: %w", err)
	}
	return find()
}

// findTimeout bounds the wait for the read model of pages.
const findTimeout = 10 * time.Second

// EachPage calls fn with every page in byte order of their ids. It stops at the first
// error of fn and returns it.
func (o *Operator) EachPage(fn func(Page) error) error {
	subs, err := subscriptions.All(o.Models.Subscriptions())
	if err != nil {
		return err
	}
	build := o.pageBuilder()
	return pages.Each(o.Models.Pages(), func(p pages.Page) error {
		return fn(build(p, subs.Of(p.ID, p.App)))
	})
}

// Connect connects a page with its own token and subscribes it.
func (o *Operator) Connect(ctx context.Context, r connect.Request) (out meta.Outcome, err error) {
	if r.Company, err = o.companyID(ctx, r.Company); err != nil {
		return meta.Outcome{}, err
	}
	return o.settled(ctx)(o.Connector.Connect(ctx, r))
}

// Check compares a page's subscription at Graph with its wanted fields.
func (o *Operator) Check(ctx context.Context, page domain.PageID) (meta.Outcome, error) {
	return o.settled(ctx)(o.Connector.Check(ctx, page))
}

// Plan returns what Resubscribe would do, and changes nothing.
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

// settled returns a function that waits, for a bounded time, until the read models of
// pages have applied an outcome. So the operator's next command sees the effect of
// this one.
func (o *Operator) settled(ctx context.Context) func(meta.Outcome, error) (meta.Outcome, error) {
	return func(out meta.Outcome, err error) (meta.Outcome, error) {
		o.Known.Settle(ctx, out.Seq)
		return out, err
	}
}

// Examine asks Graph about pages, records the results as events, and reports what is
// wrong. Nil means every connected page, and every page that sends events without being
// connected; an empty list is an error.
func (o *Operator) Examine(ctx context.Context, ids []domain.PageID) (doctor.Report, error) {
	return o.Doctor.Examine(ctx, ids)
}

// Reconcile returns what the reconcile loop knows about each connected page.
func (o *Operator) Reconcile() reconcile.Status { return o.Reconciler.Status() }

// Loop returns what the reconcile loop knows about a connected page, or the zero value
// if it knows nothing.
func (o *Operator) Loop(page domain.PageID) meta.Loop {
	s, _ := o.Reconciler.Page(page)
	return s.Loop
}

// AllSilent reports whether nearly all pages are silent at once, which means that
// deliveries don't reach this server.
func (o *Operator) AllSilent() bool { return o.Reconciler.AllSilent() }
