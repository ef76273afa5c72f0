// Package apps sets up the webhooks of the configured apps at Meta: the callback URL, the verify token
// and the fields of the objects page and instagram.
package apps

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/projections"
)

// setupTimeout limits [Setup.Run].
const setupTimeout = 50 * time.Second

// callbackRefused is Graph's code when the handshake with the callback URL fails.
const callbackRefused = 2200

// Errors of [Setup.Run]. No app was changed.
var (
	// ErrUnknownApp is returned when no app of that name is configured.
	ErrUnknownApp = errors.New("no such app is configured; see apps in: pagestream config print")
	// ErrNoClient is returned when the app can't call Graph.
	ErrNoClient = errors.New("the app has no id and secret in the configuration, which its setup at Meta needs; " +
		"set apps[].id and apps[].secrets")
	// ErrNoCallback is returned when the public URL is not known.
	ErrNoCallback = errors.New("the callback URL is not known; set http.base_url to the URL at which Meta reaches " +
		"the public listener, as in https://pagestream.example.com")
	// ErrNoVerifyToken is returned when the app has no verify token.
	ErrNoVerifyToken = errors.New("the app has no verify token, with which Meta checks the callback URL; " +
		"set apps[].verify_token")
	// ErrElsewhere is returned when Meta delivers an object to another callback URL and it is not to be
	// replaced.
	ErrElsewhere = errors.New("another product may need that URL")
)

// Request is what [Setup.Run] is to do.
type Request struct {
	// App is the name of a configured app; empty is the first.
	App string `json:"app,omitempty"`
	// DryRun only shows what would be set.
	DryRun bool `json:"dry_run,omitempty"`
	// Replace replaces another callback URL that Meta has.
	Replace bool `json:"replace,omitempty"`
	// Instagram also sets the object instagram if no connected page needs it.
	Instagram bool `json:"instagram,omitempty"`
}

// Graph has the calls of Graph for one app; graph.Client implements it. An error that Graph returns is
// a [meta.Error].
type Graph interface {
	// AppSubscriptions lists what the app is subscribed to.
	AppSubscriptions(ctx context.Context) ([]meta.AppSubscription, error)
	// SubscribeApp replaces the app's subscription to one object.
	SubscribeApp(ctx context.Context, s meta.AppSubscription, verifyToken string) error
}

// Options configure a [Setup]. All fields are required.
type Options struct {
	// Names are the names of the configured apps, the default app first.
	Names []string
	// Graph returns the Graph of a configured app; ok is false if it can't call Graph.
	Graph func(app string) (g Graph, ok bool)
	// Endpoint returns our callback URL of an app, empty if it is not known.
	Endpoint func(app string) string
	// VerifyToken returns an app's verify token, empty if it has none.
	VerifyToken func(app string) string
	// Pages is the read model of pages.
	Pages projections.Reader
}

// Setup sets up apps at Meta. It is safe for concurrent use. Create it with [New].
type Setup struct{ opts Options }

// New returns a setup.
func New(o Options) *Setup { return &Setup{opts: o} }

// Result is what [Setup.Run] found and did for one app.
type Result struct {
	App    string `json:"app"`
	DryRun bool   `json:"dry_run,omitempty"`
	// Objects are those of [meta.WantedOfApp], in its order.
	Objects []Object `json:"objects"`
	// LeftOut are the objects that the app need not have, which are not set.
	LeftOut []string `json:"left_out,omitempty"`
}

// Object is what was found and done for one object of an app.
type Object struct {
	// AppSubscription is what the app is to have.
	meta.AppSubscription
	// Before is what it lacked. Changed reports that Meta has accepted the subscription; it is false
	// for a dry run, and if nothing had to be changed.
	Before  meta.AppDifference `json:"before"`
	Changed bool               `json:"changed"`
	// After is what the app lacks according to what was read back. It is the same as Before if nothing
	// was changed.
	After meta.AppDifference `json:"after"`
	// Reason is why Meta refused, with its codes; empty if it did not.
	Reason  string `json:"reason,omitempty"`
	Code    int    `json:"code,omitempty"`
	Subcode int    `json:"subcode,omitempty"`
}

// Complete reports whether the app lacks nothing now.
func (r Result) Complete() bool {
	return !slices.ContainsFunc(r.Objects, func(o Object) bool { return !o.After.None() })
}

// Run compares the subscriptions of an app with the wanted ones, subscribes each object that lacks
// something, and reads the result back. A dry run only compares. [ErrElsewhere] is returned, and nothing
// is set, when Meta has another callback URL for one of the objects, unless that is to be replaced.
//
// It may be repeated: an object that lacks nothing is not touched. Fields that the app has and nobody
// here wants are kept, since another product may use the same app. A refusal by Meta is in the result,
// and the other object is set all the same; an error means that Graph could not be asked, and then
// repeating the call shows what was set.
func (s *Setup) Run(ctx context.Context, in Request) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	app := in.App
	if app == "" && len(s.opts.Names) > 0 {
		app = s.opts.Names[0]
	}
	g, err := s.graph(app)
	if err != nil {
		return Result{}, err
	}
	wanted, err := meta.WantedOfApp(s.opts.Pages, app, s.opts.Endpoint(app), in.Instagram)
	if err != nil {
		return Result{}, err
	}
	has, err := g.AppSubscriptions(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("read the subscriptions of app %s: %w", app, err)
	}
	for _, want := range wanted {
		if d := want.Compare(has); d.Elsewhere != "" && !in.Replace && !in.DryRun {
			return Result{}, fmt.Errorf("app %s: Meta delivers the object %s to %s, not to %s: %w; to replace it, "+
				"type: %s --yes (in the API: \"replace\": true)", app, want.Object, d.Elsewhere, want.CallbackURL,
				ErrElsewhere, meta.SetupCommand(app))
		}
	}
	out, asked := Result{App: app, DryRun: in.DryRun}, false
	if len(wanted) == 1 {
		out.LeftOut = []string{meta.ObjectInstagram}
	}
	for _, want := range wanted {
		o := Object{AppSubscription: want, Before: want.Compare(has)}
		o.After = o.Before
		if !in.DryRun && !(o.Before.None() && callbackOf(has, want.Object) == want.CallbackURL) {
			asked = true
			if err := s.subscribe(ctx, g, app, has, &o); err != nil {
				return out, err
			}
		}
		out.Objects = append(out.Objects, o)
	}
	if !asked {
		return out, nil
	}
	if has, err = g.AppSubscriptions(ctx); err != nil {
		return out, fmt.Errorf("read the subscriptions of app %s back: %w", app, err)
	}
	for i, want := range wanted {
		out.Objects[i].After = want.Compare(has)
	}
	return out, nil
}

// graph returns the Graph of an app that can be set up.
func (s *Setup) graph(app string) (Graph, error) {
	g, ok := s.opts.Graph(app)
	switch {
	case !slices.Contains(s.opts.Names, app):
		return nil, fmt.Errorf("app %q: %w", app, ErrUnknownApp)
	case !ok:
		return nil, fmt.Errorf("app %s: %w", app, ErrNoClient)
	case s.opts.Endpoint(app) == "":
		return nil, fmt.Errorf("app %s: %w", app, ErrNoCallback)
	case s.opts.VerifyToken(app) == "":
		return nil, fmt.Errorf("app %s: %w", app, ErrNoVerifyToken)
	}
	return g, nil
}

// callbackOf returns the callback URL of an object, empty if Meta has none.
func callbackOf(list []meta.AppSubscription, object string) string {
	for _, s := range list {
		if s.Object == object {
			return s.CallbackURL
		}
	}
	return ""
}

// subscribe subscribes the app to the object and records Meta's answer. Fields that the app has stay.
func (s *Setup) subscribe(ctx context.Context, g Graph, app string, has []meta.AppSubscription, o *Object) error {
	fields := map[string]bool{}
	for _, f := range o.Fields {
		fields[f] = true
	}
	for _, one := range has {
		if one.Object == o.Object {
			for _, f := range one.Fields {
				fields[f] = true
			}
		}
	}
	want := o.AppSubscription
	want.Fields = slices.Sorted(maps.Keys(fields))
	err := g.SubscribeApp(ctx, want, s.opts.VerifyToken(app))
	refusal := meta.Refused(err)
	switch {
	case err == nil:
		o.Changed = true
		return nil
	case refusal == nil, refusal.Temporary():
		return fmt.Errorf("subscribe app %s to the object %s: %w", app, o.Object, err)
	}
	o.Code, o.Subcode, o.Reason = meta.Explain(err)
	if o.Code == callbackRefused {
		o.Reason = cmp.Or(o.Reason, "callback verification failed") +
			"; Meta can't reach " + o.CallbackURL + ", or another server answers there; type: pagestream doctor"
	}
	return nil
}
