package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

const (
	// askTimeout limits the calls about one page, or one app.
	askTimeout = 15 * time.Second
	// askParallel is how many pages and apps are asked about at once.
	askParallel = 4
	// settleWait is how long to wait for the read models after Graph has answered.
	settleWait = 5 * time.Second
	// appsAge is how long the result of an examination of the apps is used.
	appsAge = time.Hour
)

// ErrUnknownPage is returned when a page to examine is not in the read model, or when the
// list of pages is empty.
var ErrUnknownPage = errors.New("nothing is known of page")

// Verbs ask Graph about a connected page, and record what is new as events.
type Verbs interface {
	Check(ctx context.Context, page domain.PageID) (meta.Outcome, error)
	Probe(ctx context.Context, page domain.PageID) (meta.TokenReport, error)
}

// App is a configured app.
type App struct {
	Name        string
	VerifyToken string `json:"-"`
	// GraphVersion is the version of the Graph API that the app uses, empty if it can't call Graph.
	GraphVersion string
}

// Format keeps the token out of logs, for every format verb.
func (a App) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "app "+a.Name) }

// Options configure a [Doctor]. All fields except Lost, Now, Parked, Space, Durability and Storable are required.
type Options struct {
	// Pages and Subscriptions are the read models.
	Pages, Subscriptions projections.Reader
	// Head returns the sequence of the stream's last event.
	Head  func(context.Context) (uint64, error)
	Verbs Verbs
	// Loop returns what the reconcile loop knows about a page; it is called for each
	// page that is judged. AllSilent reports whether nearly all pages are silent.
	Loop      func(domain.PageID) (meta.Loop, bool)
	AllSilent func() bool
	// Parked returns by page what [meta.Facts] has as Parked. Nil means that nothing is parked.
	Parked func() map[domain.PageID]int
	// Recent returns how deliveries were answered in the last hour, Refused the
	// reasons why they can't be stored now.
	Recent  func(now time.Time) meta.Recent
	Refused func() []string
	// Lost says which events the stream has lost; it returns an empty string if there are none. Nil means that
	// none are.
	Lost func() string
	// Space returns how full the stream and the disks are.
	Space func() []meta.Space
	// Durability returns that of [meta.Install]; nil is the embedded server.
	Durability func() *meta.Durability
	// MaxBody and Storable are those of [meta.Install].
	MaxBody  int64
	Storable func() int64
	Apps     []App
	// AppSubscriptions asks Graph what an app is subscribed to. known is false if the
	// app can't call Graph.
	AppSubscriptions func(ctx context.Context, app string) (list []meta.AppSubscription, known bool, err error)
	// RetrievesLeads reports whether the answers of leads are read from Graph.
	RetrievesLeads bool
	// Endpoint returns our callback URL of an app, empty if it is not known.
	Endpoint func(app string) string
	Now      func() time.Time
}

// Doctor examines pages. It is safe for concurrent use. Create it with [New].
type Doctor struct {
	opts Options

	mu   sync.Mutex
	apps []meta.AppFacts // of the last examination
}

// New returns a doctor.
func New(o Options) *Doctor {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Lost == nil {
		o.Lost = func() string { return "" }
	}
	if o.Parked == nil {
		o.Parked = func() map[domain.PageID]int { return nil }
	}
	return &Doctor{opts: o}
}

// Install returns what is known about the installation, without any call. For an hour
// it includes what the last examination found about the apps.
func (d *Doctor) Install() meta.Install {
	in := meta.Install{
		Recent: d.opts.Recent(d.opts.Now()), Refused: d.opts.Refused(), Lost: d.opts.Lost(), AllSilent: d.opts.AllSilent(),
		RetrievesLeads: d.opts.RetrievesLeads, MaxBody: d.opts.MaxBody,
	}
	if d.opts.Space != nil {
		in.Space = d.opts.Space()
	}
	if d.opts.Durability != nil {
		in.Durability = d.opts.Durability()
	}
	if d.opts.Storable != nil {
		in.Storable = d.opts.Storable()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.apps) > 0 && d.opts.Now().Sub(d.apps[0].At) < appsAge {
		in.Apps = d.apps
	}
	return in
}

// facts returns what is known about a page without asking Graph. Sub may be nil.
func (d *Doctor) facts(row pages.Page, sub *subscriptions.Subscription, parked int) meta.Facts {
	loop, _ := d.opts.Loop(row.ID)
	return meta.Facts{Now: d.opts.Now(), Row: row, Subscription: sub, Loop: loop, Parked: parked}
}

// Judging returns a function that judges pages without asking Graph. It reads the
// state of the installation once, for all pages that the function judges.
func (d *Doctor) Judging() func(row pages.Page, sub *subscriptions.Subscription) meta.Judgement {
	in, parked := d.Install(), d.opts.Parked()
	return func(row pages.Page, sub *subscriptions.Subscription) meta.Judgement {
		return meta.Judge(in, d.facts(row, sub, parked[row.ID]))
	}
}

// Examine asks Graph about pages and apps, and judges them. If ids is nil, it examines
// each page that is connected, or for which deliveries arrive although it is not.
// [ErrUnknownPage] is returned for an id that is not in the read model, and for an empty
// list. If Graph does not answer, that is a finding and not an error.
//
// It changes nothing, but it records what it learns about a page's token and
// subscription.
func (d *Doctor) Examine(ctx context.Context, ids []domain.PageID) (Report, error) {
	behind, facts, err := d.choose(ctx, ids)
	if err != nil {
		return Report{}, err
	}
	apps := make([]meta.AppFacts, len(d.opts.Apps))
	group, asking := errgroup.WithContext(ctx)
	group.SetLimit(askParallel)
	for i, a := range d.opts.Apps {
		group.Go(func() (err error) {
			apps[i], err = d.app(asking, a)
			return err
		})
	}
	for i, f := range facts {
		if f.Row.State == pages.Connected {
			group.Go(func() (err error) {
				facts[i], err = d.ask(asking, f)
				return err
			})
		}
	}
	if err := group.Wait(); err != nil {
		return Report{}, err
	}
	if err := ctx.Err(); err != nil {
		return Report{}, fmt.Errorf("examine pages: %w", err)
	}
	d.keep(apps)
	in := d.Install()
	in.Behind = behind
	return report(d.opts.Now(), in, facts), nil
}

// choose returns what the read models have about the pages to examine, after they have
// applied the last event of the stream. If they don't in time, it returns why, and what
// they have.
func (d *Doctor) choose(ctx context.Context, ids []domain.PageID) (behind string, facts []meta.Facts, err error) {
	head, err := d.opts.Head(ctx)
	if err != nil {
		return "", nil, fmt.Errorf("read the stream's head: %w", err)
	}
	settling, cancel := context.WithTimeout(ctx, settleWait)
	defer cancel()
	if err := d.waitFor(settling, head); err != nil {
		if settling.Err() == nil || ctx.Err() != nil {
			return "", nil, err
		}
		behind = err.Error()
	}
	facts, err = d.rows(ids)
	return behind, facts, err
}

// rows returns what the read models have about the pages to examine.
func (d *Doctor) rows(ids []domain.PageID) (facts []meta.Facts, err error) {
	if ids != nil && len(ids) == 0 {
		return nil, fmt.Errorf("%w: the list of pages is empty", ErrUnknownPage)
	}
	if ids == nil {
		err := pages.Each(d.opts.Pages, func(p pages.Page) error {
			if p.State == pages.Connected || meta.Sending(p) {
				ids = append(ids, p.ID)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("list pages: %w", err)
		}
	}
	facts = make([]meta.Facts, len(ids))
	parked := d.opts.Parked()
	for i, id := range ids {
		if facts[i], err = d.read(id, parked[id]); err != nil {
			return nil, err
		}
	}
	return facts, nil
}

// waitFor waits until the read models have applied event seq.
func (d *Doctor) waitFor(ctx context.Context, seq uint64) error {
	for _, m := range []projections.Reader{d.opts.Pages, d.opts.Subscriptions} {
		if err := m.WaitFor(ctx, seq); err != nil {
			return fmt.Errorf("wait for read model: %w", err)
		}
	}
	return nil
}

// keep stores what was found about the apps.
func (d *Doctor) keep(apps []meta.AppFacts) {
	now := d.opts.Now()
	for i := range apps {
		apps[i].At = now
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.apps = apps
}

// app asks Graph about an app and makes a handshake with our own endpoint for it.
func (d *Doctor) app(ctx context.Context, a App) (meta.AppFacts, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	out := meta.AppFacts{Name: a.Name, Endpoint: d.opts.Endpoint(a.Name), Version: a.GraphVersion}
	if out.Endpoint != "" {
		if err := Handshake(ctx, out.Endpoint, a.VerifyToken); err != nil {
			out.Trouble = err.Error()
		} else {
			out.Reached = true
		}
	}
	list, known, err := d.opts.AppSubscriptions(ctx, a.Name)
	if !known || err != nil {
		return out, nil
	}
	wanted, err := meta.WantedOfApp(d.opts.Pages, a.Name, out.Endpoint, false)
	if err != nil {
		return out, err
	}
	out.Known, out.Fields = true, meta.AppDelivers(list, meta.ObjectPage)
	for _, want := range wanted {
		out.Lacks = append(out.Lacks, want.Compare(list))
	}
	return out, nil
}

// read returns what the read models have about a page. Parked is that of [meta.Facts].
func (d *Doctor) read(id domain.PageID, parked int) (meta.Facts, error) {
	row, err := pages.Get(d.opts.Pages, id)
	if errors.Is(err, pages.ErrNotFound) {
		return meta.Facts{}, fmt.Errorf("%w %s; type: pagestream pages list", ErrUnknownPage, id)
	}
	if err != nil {
		return meta.Facts{}, fmt.Errorf("read page %s: %w", id, err)
	}
	sub, err := subscriptions.Get(d.opts.Subscriptions, id, row.App)
	if errors.Is(err, subscriptions.ErrNotFound) {
		return d.facts(row, nil, parked), nil
	}
	if err != nil {
		return meta.Facts{}, fmt.Errorf("read subscription of page %s: %w", id, err)
	}
	return d.facts(row, &sub, parked), nil
}

// ask asks Graph about a connected page, waits for at most settleWait until the read
// models have the recorded events, and returns all that is known then.
func (d *Doctor) ask(ctx context.Context, known meta.Facts) (meta.Facts, error) {
	id := known.Row.ID
	asking, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	answer := &meta.Answer{}
	// The error is ignored: if there is no report, the check fails as well or has a
	// better answer.
	token, _ := d.opts.Verbs.Probe(asking, id)
	if token.State != "" && token.State != meta.TokenUnknown {
		answer.Token = &token
	}
	answer.Outcome, answer.Err = d.opts.Verbs.Check(asking, id)
	settling, cancel := context.WithTimeout(ctx, settleWait)
	defer cancel()
	_ = d.waitFor(settling, max(token.Seq, answer.Outcome.Seq)) // the events are stored in any case
	f, err := d.read(id, known.Parked)
	f.Answer = answer
	return f, err
}
