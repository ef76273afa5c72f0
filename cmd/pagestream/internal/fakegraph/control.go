package fakegraph

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

// maxControl bounds the body of a control request.
const maxControl = 64 << 10

// control are the parameters of all verbs; each says which it takes. An engine
// verb without app is for every engine.
type control struct {
	App, Page, User, Contact, Object string
	Token, Text, Secret, In          string
	Fields, Pages, Tasks             []string
	Subcode, Percent, Code           int
	Regain                           int   `json:"regain_minutes"`
	Calls                            int   // at least one
	On                               *bool // without it a switch is on
	Failure                          Failure
}

func (c control) on() bool { return c.On == nil || *c.On }

var errNoText = errors.New("not a whole control request: it needs a text")

// verb does what a control request asks for.
type verb func(context.Context, *Graph, control) (any, error)

// verbs are what Control scripts. They are named after the methods that they
// call, which say more.
var verbs = map[string]verb{
	// app, object, fields; without fields the object is removed
	"app-fields": onGraph(func(g *Graph, c control) { g.SetAppFields(c.App, c.Object, c.Fields) }, "app", "object"),
	// app, page, fields; without fields the subscription is removed
	"subscription": onGraph(func(g *Graph, c control) { g.SetSubscription(c.App, c.Page, c.Fields...) }, "app", "page"),
	// app, user, pages; without pages it is all
	"granted": onGraph(func(g *Graph, c control) { g.SetGranted(c.App, c.User, c.Pages) }, "app", "user"),
	// app, user
	"expire-data-access": onGraph(func(g *Graph, c control) { g.ExpireDataAccess(c.App, c.User) }, "app", "user"),
	// contact
	"block":        onGraph(func(g *Graph, c control) { g.Block(c.Contact) }, "contact"),
	"close-window": onGraph(func(g *Graph, c control) { g.CloseWindow(c.Contact) }, "contact"),
	// page, code, calls
	"throttle": onGraph(func(g *Graph, c control) { g.Throttle(c.Page, c.Code, max(c.Calls, 1)) }, "page"),
	// page, percent, regain_minutes; without page it is the app's
	"usage": onGraph(func(g *Graph, c control) { g.SetUsage(c.Page, c.Percent, c.Regain) }),
	// in, failure, calls
	"fail-next": onGraph(func(g *Graph, c control) { g.FailNext(c.In, c.Failure, max(c.Calls, 1)) }),
	// user, page, tasks
	"tasks": func(_ context.Context, g *Graph, c control) (any, error) {
		return nil, g.SetTasks(c.User, c.Page, c.Tasks)
	},
	// subcode, and a token, or a user's token of a page, of the app
	"kill-token": func(_ context.Context, g *Graph, c control) (any, error) {
		if c.Token == "" {
			var err error
			if c.Token, err = g.PageToken(c.App, c.User, c.Page); err != nil {
				return nil, err
			}
		}
		return nil, g.KillToken(c.Token, c.Subcode)
	},
	// app, user, subcode
	"kill-user": func(_ context.Context, g *Graph, c control) (any, error) {
		return nil, g.KillUser(c.App, c.User, c.Subcode)
	},
	// app, user
	"remove-app": func(ctx context.Context, g *Graph, c control) (any, error) {
		return nil, g.RemoveApp(ctx, c.App, c.User)
	},
	// app, user: answers what the callback answered
	"request-data-deletion": func(ctx context.Context, g *Graph, c control) (any, error) {
		status, body, err := g.RequestDataDeletion(ctx, c.App, c.User)
		return map[string]any{"status": status, "body": string(body)}, err
	},
	// page, on
	"standby": onEngines(func(e *Engine, c control) { e.SetStandby(c.Page, c.on()) }, "page"),
	"quiet":   onEngines(func(e *Engine, c control) { e.SetQuiet(c.Page, c.on()) }, "page"),
	// on
	"delivery": onEngines(func(e *Engine, c control) { e.SetDelivery(c.on()) }),
	// secret; empty restores the app's
	"secret":    onEngines(func(e *Engine, c control) { e.SetSecret(c.Secret) }),
	"send-test": eachEngine(func(ctx context.Context, e *Engine, _ control) (any, error) { return nil, e.SendTest(ctx) }),
	// page, contact, text: answers the message's mid
	"say": eachEngine(func(_ context.Context, e *Engine, c control) (any, error) {
		if c.Text == "" {
			return nil, errNoText
		}
		mid, err := e.Say(c.Page, c.Contact, c.Text)
		return map[string]any{"mid": mid}, err
	}),
}

// onGraph makes a verb of what can't fail once the parameters that it needs name
// something.
func onGraph(do func(*Graph, control), needs ...string) verb {
	return func(_ context.Context, g *Graph, c control) (any, error) {
		err := g.check(c, needs...)
		if err == nil {
			do(g, c)
		}
		return nil, err
	}
}

// eachEngine makes a verb of what is done to each engine at work.
func eachEngine(do func(context.Context, *Engine, control) (any, error)) verb {
	return func(ctx context.Context, g *Graph, c control) (out any, err error) {
		engines := slices.DeleteFunc(g.atWork(), func(e *Engine) bool { return c.App != "" && e.app.ID != c.App })
		if len(engines) == 0 {
			return nil, fmt.Errorf("delivery engine at work: %w", ErrUnknown)
		}
		for _, e := range engines {
			if out, err = do(ctx, e, c); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
}

// onEngines is [onGraph] for each engine at work.
func onEngines(do func(*Engine, control), needs ...string) verb {
	return eachEngine(func(_ context.Context, e *Engine, c control) (any, error) {
		err := e.graph.check(c, needs...)
		if err == nil {
			do(e, c)
		}
		return nil, err
	})
}

// atWork returns the engines that run or are stepped, sorted by app.
func (g *Graph) atWork() []*Engine {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.SortedFunc(maps.Keys(g.engines), func(a, b *Engine) int { return cmp.Compare(a.app.ID, b.app.ID) })
}

// check fails with [ErrUnknown] if a parameter names nothing.
func (g *Graph) check(c control, needs ...string) error {
	known := map[string]bool{
		"app": g.apps[c.App].ID != "", "page": g.pages[c.Page].ID != "", "user": g.users[c.User].ID != "",
		"contact": g.contacts[c.Contact] != nil, "object": c.Object == objectPage || c.Object == objectInstagram,
	}
	for _, need := range needs {
		if !known[need] {
			return fmt.Errorf("%s: %w", need, ErrUnknown)
		}
	}
	return nil
}

// Control scripts the fake over HTTP: POST /control/<verb> with a JSON object,
// and GET /control/state. It answers 200 {"ok":true}, with what the verb returns
// beside it, or 4xx {"error":…}. It has no token of its own, so callers that
// aren't on this machine get 403. Serve it on a listener of its own.
func (g *Graph) Control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /control/state", func(w http.ResponseWriter, _ *http.Request) {
		answerControl(w, http.StatusOK, g.state())
	})
	mux.HandleFunc("POST /control/{verb}", func(w http.ResponseWriter, r *http.Request) {
		do, ok := verbs[r.PathValue("verb")]
		if !ok {
			answerControl(w, http.StatusNotFound, map[string]any{"error": "no such verb"})
			return
		}
		c, err := readControl(w, r)
		if err != nil {
			answerControl(w, http.StatusBadRequest, map[string]any{"error": err.Error()})
			return
		}
		out, err := do(r.Context(), g, c)
		switch {
		case errors.Is(err, ErrUnknown):
			answerControl(w, http.StatusNotFound, map[string]any{"error": err.Error()})
		case err != nil:
			answerControl(w, http.StatusUnprocessableEntity, map[string]any{"error": err.Error()})
		default:
			answer := map[string]any{"ok": true}
			if out != nil {
				answer["result"] = out
			}
			answerControl(w, http.StatusOK, answer)
		}
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil || !net.ParseIP(host).IsLoopback() {
			answerControl(w, http.StatusForbidden, map[string]any{"error": "control is for this machine only"})
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// readControl reads the parameters. A name that no verb has is an error.
func readControl(w http.ResponseWriter, r *http.Request) (control, error) {
	var c control
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxControl))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil && !errors.Is(err, io.EOF) { // that is no body at all
		return c, fmt.Errorf("read control request: %w", err)
	}
	return c, nil
}

func answerControl(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// The state as GET /control/state has it.
type (
	stateAppFields struct {
		App      string   `json:"app"`
		Object   string   `json:"object"`
		Callback string   `json:"callback,omitempty"`
		Fields   []string `json:"fields"`
	}
	stateSubscription struct {
		App    string   `json:"app"`
		Page   string   `json:"page"`
		Fields []string `json:"fields"`
	}
	// stateToken is a token without what would let anybody use it.
	stateToken struct {
		Kind    string    `json:"kind"`
		App     string    `json:"app"`
		User    string    `json:"user"`
		Page    string    `json:"page,omitempty"`
		Alive   bool      `json:"alive"`
		Subcode int       `json:"subcode,omitempty"`
		Issued  time.Time `json:"issued"`
		Expires time.Time `json:"expires,omitzero"`
	}
	stateEngine struct {
		App      string              `json:"app"`
		Delivery bool                `json:"delivery"`
		Standby  []string            `json:"standby"`
		Quiet    []string            `json:"quiet"`
		Pages    map[string]Counters `json:"pages"`
	}
	state struct {
		AppSubscriptions []stateAppFields    `json:"app_subscriptions"`
		Subscriptions    []stateSubscription `json:"subscriptions"`
		Tokens           []stateToken        `json:"tokens"`
		Engines          []stateEngine       `json:"engines"`
	}
)

// state describes the fake, sorted, so that two states can be compared.
func (g *Graph) state() state {
	s := state{AppSubscriptions: []stateAppFields{}, Subscriptions: []stateSubscription{}, Tokens: []stateToken{}, Engines: []stateEngine{}}
	for _, a := range g.opts.Apps {
		for _, object := range []string{objectPage, objectInstagram} {
			if fields, callback, on := g.appFields(a.ID, object); on {
				s.AppSubscriptions = append(s.AppSubscriptions, stateAppFields{a.ID, object, callback, fields})
			}
		}
	}
	g.mu.Lock()
	for key, fields := range g.subs {
		s.Subscriptions = append(s.Subscriptions, stateSubscription{key[0], key[1], slices.Clone(fields)})
	}
	for _, t := range g.tokens {
		alive := g.died(t) == nil // first, since it sets what the token died of
		s.Tokens = append(s.Tokens, stateToken{
			Kind: strings.ToLower(t.kind), App: t.app, User: t.user, Page: t.page,
			Alive: alive, Subcode: max(t.dead, 0), Issued: t.issued, Expires: t.expires,
		})
	}
	g.mu.Unlock()
	slices.SortFunc(s.Subscriptions, func(a, b stateSubscription) int {
		return cmp.Or(cmp.Compare(a.App, b.App), cmp.Compare(a.Page, b.Page))
	})
	slices.SortFunc(s.Tokens, func(a, b stateToken) int {
		return cmp.Or(cmp.Compare(a.App, b.App), cmp.Compare(a.User, b.User), cmp.Compare(a.Page, b.Page), cmp.Compare(a.Kind, b.Kind),
			a.Issued.Compare(b.Issued), cmp.Compare(a.Subcode, b.Subcode))
	})
	for _, e := range g.atWork() {
		s.Engines = append(s.Engines, e.state())
	}
	return s
}

func (e *Engine) state() stateEngine {
	out := stateEngine{App: e.app.ID, Pages: e.Stats()}
	e.mu.Lock()
	defer e.mu.Unlock()
	out.Delivery, out.Standby, out.Quiet = !e.outage.Load(), names(e.standby), names(e.quiet)
	return out
}

// names returns a set's members, sorted; an empty set is an empty list in JSON.
func names(set map[string]bool) []string {
	return append([]string{}, slices.Sorted(maps.Keys(set))...)
}
