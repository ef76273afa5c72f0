package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

const (
	// askTimeout bounds the questions about one page, or one app.
	askTimeout = 15 * time.Second
	// askParallel is how many of them are asked about at once.
	askParallel = 4
	// settleWait is how long the read models are waited for once Graph has answered.
	settleWait = 5 * time.Second
	// appsAge is how long what an examination found of the apps is taken for true.
	appsAge = time.Hour
)

// ErrUnknownPage is returned when nothing is known of a page that is to be
// examined.
var ErrUnknownPage = errors.New("nothing is known of page")

// Verbs ask Graph about a connected page, and put what is new on record.
type Verbs interface {
	Check(ctx context.Context, page domain.PageID) (meta.Outcome, error)
	Probe(ctx context.Context, page domain.PageID) (meta.TokenReport, error)
}

// App is a configured app.
type App struct {
	Name        string
	VerifyToken string `json:"-"`
}

// Format keeps the token out of logs, whatever the verb.
func (a App) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "app "+a.Name) }

// Options configure a [Doctor]. All are required but Now.
type Options struct {
	// Pages and Subscriptions are the read models.
	Pages, Subscriptions projections.Reader
	// Head returns the sequence of the stream's last event.
	Head  func(context.Context) (uint64, error)
	Verbs Verbs
	// Loop returns what the reconcile loop knows of a page, and AllSilent whether
	// nearly all pages are silent. Both are called for each page that is judged.
	Loop      func(domain.PageID) (meta.Loop, bool)
	AllSilent func() bool
	// Recent returns how deliveries were answered in the last hour, Refused why they
	// can't be stored now.
	Recent  func(now time.Time) meta.Recent
	Refused func() []string
	Apps    []App
	// AppSubscriptions asks Graph what an app is subscribed to. known is false where
	// the app can't ask.
	AppSubscriptions func(ctx context.Context, app string) (list []graph.AppSubscription, known bool, err error)
	// BaseURL returns the address of the public listener as the outside sees it,
	// empty if it is not known.
	BaseURL func() string
	Now     func() time.Time
}

// Doctor examines pages. It is safe for concurrent use. Make one with [New].
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
	return &Doctor{opts: o}
}

// Install returns what is known of the installation, without asking anybody. What
// the last examination found of the apps is among it, for an hour.
func (d *Doctor) Install() meta.Install {
	in := meta.Install{Recent: d.opts.Recent(d.opts.Now()), Refused: d.opts.Refused(), AllSilent: d.opts.AllSilent()}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.apps) > 0 && d.opts.Now().Sub(d.apps[0].At) < appsAge {
		in.Apps = d.apps
	}
	return in
}

// Facts returns what is known of a page without asking Graph.
func (d *Doctor) Facts(row pages.Page, sub *subscriptions.Subscription) meta.Facts {
	loop, _ := d.opts.Loop(row.ID)
	return meta.Facts{Now: d.opts.Now(), Row: row, Subscription: sub, Loop: loop}
}

// Judging returns what judges pages without asking Graph: by one look at the
// installation, however many pages there are.
func (d *Doctor) Judging() func(row pages.Page, sub *subscriptions.Subscription) meta.Judgement {
	in := d.Install()
	return func(row pages.Page, sub *subscriptions.Subscription) meta.Judgement {
		return meta.Judge(in, d.Facts(row, sub))
	}
}

// Examine asks Graph about pages and apps, and judges. No ids means each page that
// is connected, or sends without being so. It fails with [ErrUnknownPage] for an id
// of which nothing is known; that Graph does not answer is a finding.
//
// It changes nothing, but what it learns of a page's token and subscription is put
// on record.
func (d *Doctor) Examine(ctx context.Context, ids []domain.PageID) (Report, error) {
	facts, err := d.choose(ctx, ids)
	if err != nil {
		return Report{}, err
	}
	apps := make([]meta.AppFacts, len(d.opts.Apps))
	group, asking := errgroup.WithContext(ctx)
	group.SetLimit(askParallel)
	for i, a := range d.opts.Apps {
		group.Go(func() error {
			apps[i] = d.app(asking, a)
			return nil
		})
	}
	for i, f := range facts {
		if f.Row.State == pages.Connected {
			group.Go(func() (err error) {
				facts[i], err = d.ask(asking, f.Row.ID)
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
	return report(d.opts.Now(), d.Install(), facts), nil
}

// choose returns what is on record of the pages to examine, as of the stream's
// head.
func (d *Doctor) choose(ctx context.Context, ids []domain.PageID) ([]meta.Facts, error) {
	head, err := d.opts.Head(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the stream's head: %w", err)
	}
	if err := d.waitFor(ctx, head); err != nil {
		return nil, err
	}
	if len(ids) == 0 {
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
	facts := make([]meta.Facts, len(ids))
	for i, id := range ids {
		if facts[i], err = d.read(id); err != nil {
			return nil, err
		}
	}
	return facts, nil
}

// waitFor waits until the read models hold seq.
func (d *Doctor) waitFor(ctx context.Context, seq uint64) error {
	for _, m := range []projections.Reader{d.opts.Pages, d.opts.Subscriptions} {
		if err := m.WaitFor(ctx, seq); err != nil {
			return fmt.Errorf("wait for read model: %w", err)
		}
	}
	return nil
}

// keep remembers what was found of the apps.
func (d *Doctor) keep(apps []meta.AppFacts) {
	now := d.opts.Now()
	for i := range apps {
		apps[i].At = now
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.apps = apps
}

// app asks Graph, and our own endpoint, about an app.
func (d *Doctor) app(ctx context.Context, a App) meta.AppFacts {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	out := meta.AppFacts{Name: a.Name}
	if base := d.opts.BaseURL(); base != "" {
		out.Endpoint = base + "/webhooks/" + url.PathEscape(a.Name)
		if err := Handshake(ctx, out.Endpoint, a.VerifyToken); err != nil {
			out.Trouble = err.Error()
		} else {
			out.Reached = true
		}
	}
	list, known, err := d.opts.AppSubscriptions(ctx, a.Name)
	out.Known = known && err == nil
	for _, s := range list {
		if out.Known && s.Object == "page" {
			out.Fields, out.Callback = s.Fields, s.CallbackURL
		}
	}
	return out
}

// read returns what is on record of a page.
func (d *Doctor) read(id domain.PageID) (meta.Facts, error) {
	row, err := pages.Get(d.opts.Pages, id)
	if errors.Is(err, pages.ErrNotFound) {
		return meta.Facts{}, fmt.Errorf("%w %s; type: pagestream pages list", ErrUnknownPage, id)
	}
	if err != nil {
		return meta.Facts{}, fmt.Errorf("read page %s: %w", id, err)
	}
	sub, err := subscriptions.Get(d.opts.Subscriptions, id, row.App)
	if errors.Is(err, subscriptions.ErrNotFound) {
		return d.Facts(row, nil), nil
	}
	if err != nil {
		return meta.Facts{}, fmt.Errorf("read subscription of page %s: %w", id, err)
	}
	return d.Facts(row, &sub), nil
}

// ask asks Graph about a connected page, waits, for a while, until what that put
// on record can be read, and returns all that is known then.
func (d *Doctor) ask(ctx context.Context, id domain.PageID) (meta.Facts, error) {
	asking, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	answer := &meta.Answer{}
	// An error does not matter where Graph has told all the same; else the check
	// fails as well, or tells more.
	token, _ := d.opts.Verbs.Probe(asking, id)
	if token.State != "" && token.State != meta.TokenUnknown {
		answer.Token = &token
	}
	answer.Outcome, answer.Err = d.opts.Verbs.Check(asking, id)
	settling, cancel := context.WithTimeout(ctx, settleWait)
	defer cancel()
	_ = d.waitFor(settling, max(token.Seq, answer.Outcome.Seq)) // what is recorded stays so
	f, err := d.read(id)
	f.Answer = answer
	return f, err
}
