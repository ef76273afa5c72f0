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

// command is a control request as its verb has it.
type command struct {
	control
	*Graph
	ctx    context.Context
	engine *Engine // where the verb is for engines
}

type verb func(command) (any, error)

var errNoText = errors.New("not a whole control request: it needs a text")

// verbs are what Control scripts. They are named after the methods that they
// call, which say more.
var verbs = map[string]verb{
	// app, object, fields; without fields the object is removed
	"app-fields": given(func(c command) { c.SetAppFields(c.App, c.Object, c.Fields) }, "app", "object"),
	// app, page, fields; without fields the subscription is removed
	"subscription": given(func(c command) { c.SetSubscription(c.App, c.Page, c.Fields...) }, "app", "page"),
	// app, user, pages; without pages it is all
	"granted": given(func(c command) { c.SetGranted(c.App, c.User, c.Pages) }, "app", "user"),
	// app, user
	"expire-data-access": given(func(c command) { c.ExpireDataAccess(c.App, c.User) }, "app", "user"),
	// contact
	"block":        given(func(c command) { c.Block(c.Contact) }, "contact"),
	"close-window": given(func(c command) { c.CloseWindow(c.Contact) }, "contact"),
	// page, code, calls
	"throttle": given(func(c command) { c.Throttle(c.Page, c.Code, max(c.Calls, 1)) }, "page"),
	// page, percent, regain_minutes; without page it is the app's
	"usage": given(func(c command) { c.SetUsage(c.Page, c.Percent, c.Regain) }),
	// in, failure, calls
	"fail-next": given(func(c command) { c.FailNext(c.In, c.Failure, max(c.Calls, 1)) }),
	// user, page, tasks
	"tasks": func(c command) (any, error) { return nil, c.SetTasks(c.User, c.Page, c.Tasks) },
	// subcode, and a token, or a user's token of a page, of the app
	"kill-token": func(c command) (_ any, err error) {
		if c.Token == "" {
			if c.Token, err = c.PageToken(c.App, c.User, c.Page); err != nil {
				return nil, err
			}
		}
		return nil, c.KillToken(c.Token, c.Subcode)
	},
	// app, user, subcode
	"kill-user": func(c command) (any, error) { return nil, c.KillUser(c.App, c.User, c.Subcode) },
	// app, user
	"remove-app": func(c command) (any, error) { return nil, c.RemoveApp(c.ctx, c.App, c.User) },
	// app, user: answers what the callback answered
	"request-data-deletion": func(c command) (any, error) {
		status, body, err := c.RequestDataDeletion(c.ctx, c.App, c.User)
		return map[string]any{"status": status, "body": string(body)}, err
	},
	// page, on
	"standby": eachEngine(given(func(c command) { c.engine.SetStandby(c.Page, c.on()) }, "page")),
	"quiet":   eachEngine(given(func(c command) { c.engine.SetQuiet(c.Page, c.on()) }, "page")),
	// on
	"delivery": eachEngine(given(func(c command) { c.engine.SetDelivery(c.on()) })),
	// secret; empty restores the app's
	"secret":    eachEngine(given(func(c command) { c.engine.SetSecret(c.Secret) })),
	"send-test": eachEngine(func(c command) (any, error) { return nil, c.engine.SendTest(c.ctx) }),
	// page, contact, text: answers the message's mid
	"say": eachEngine(func(c command) (any, error) {
		if c.Text == "" {
			return nil, errNoText
		}
		mid, err := c.engine.Say(c.Page, c.Contact, c.Text)
		return map[string]any{"mid": mid}, err
	}),
}

// given makes a verb of what can't fail once the parameters that it needs name
// something.
func given(do func(command), needs ...string) verb {
	return func(c command) (any, error) {
		known := map[string]bool{
			"app": c.apps[c.App].ID != "", "page": c.pages[c.Page].ID != "", "user": c.users[c.User].ID != "",
			"contact": c.contacts[c.Contact] != nil, "object": c.Object == objectPage || c.Object == objectInstagram,
		}
		for _, need := range needs {
			if !known[need] {
				return nil, fmt.Errorf("%s: %w", need, ErrUnknown)
			}
		}
		do(c)
		return nil, nil
	}
}

// eachEngine makes a verb of what is done to each engine at work.
func eachEngine(do verb) verb {
	return func(c command) (out any, err error) {
		engines := slices.DeleteFunc(c.atWork(), func(e *Engine) bool { return c.App != "" && e.app.ID != c.App })
		if len(engines) == 0 {
			return nil, fmt.Errorf("delivery engine at work: %w", ErrUnknown)
		}
		for _, c.engine = range engines {
			if out, err = do(c); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
}

// atWork returns the engines that run or are stepped, sorted by app.
func (g *Graph) atWork() []*Engine {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.SortedFunc(maps.Keys(g.engines), func(a, b *Engine) int { return cmp.Compare(a.app.ID, b.app.ID) })
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
			refuseControl(w, http.StatusNotFound, "no such verb")
			return
		}
		c := command{Graph: g, ctx: r.Context()}
		in := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxControl))
		in.DisallowUnknownFields()                                               // a name that no verb has is an error
		if err := in.Decode(&c.control); err != nil && !errors.Is(err, io.EOF) { // EOF is no body at all
			refuseControl(w, http.StatusBadRequest, "read control request: "+err.Error())
			return
		}
		out, err := do(c)
		switch {
		case errors.Is(err, ErrUnknown):
			refuseControl(w, http.StatusNotFound, err.Error())
		case err != nil:
			refuseControl(w, http.StatusUnprocessableEntity, err.Error())
		case out != nil:
			answerControl(w, http.StatusOK, map[string]any{"ok": true, "result": out})
		default:
			answerControl(w, http.StatusOK, map[string]any{"ok": true})
		}
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil || !net.ParseIP(host).IsLoopback() {
			refuseControl(w, http.StatusForbidden, "control is for this machine only")
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func refuseControl(w http.ResponseWriter, status int, why string) {
	answerControl(w, status, map[string]any{"error": why})
}

func answerControl(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// The state as GET /control/state has it.
type (
	// stateFields is a subscription: of the app to an object, or to a page.
	stateFields struct {
		App      string   `json:"app"`
		Object   string   `json:"object,omitempty"`
		Page     string   `json:"page,omitempty"`
		Callback string   `json:"callback,omitempty"`
		Fields   []string `json:"fields"`
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
		AppSubscriptions []stateFields `json:"app_subscriptions"`
		Subscriptions    []stateFields `json:"subscriptions"`
		Tokens           []stateToken  `json:"tokens"`
		Engines          []stateEngine `json:"engines"`
	}
)

// state describes the fake, sorted, so that two states can be compared.
func (g *Graph) state() state {
	s := state{AppSubscriptions: []stateFields{}, Subscriptions: []stateFields{}, Tokens: []stateToken{}, Engines: []stateEngine{}}
	for _, a := range g.opts.Apps {
		for _, object := range []string{objectPage, objectInstagram} {
			if fields, callback, on := g.appFields(a.ID, object); on {
				s.AppSubscriptions = append(s.AppSubscriptions, stateFields{App: a.ID, Object: object, Callback: callback, Fields: fields})
			}
		}
	}
	g.mu.Lock()
	for _, key := range slices.SortedFunc(maps.Keys(g.subs), func(a, b [2]string) int { return slices.Compare(a[:], b[:]) }) {
		s.Subscriptions = append(s.Subscriptions, stateFields{App: key[0], Page: key[1], Fields: g.subs[key]})
	}
	for _, t := range g.tokens {
		alive := g.died(t) == nil // first, since it sets what the token died of
		s.Tokens = append(s.Tokens, stateToken{
			Kind: strings.ToLower(t.kind), App: t.app, User: t.user, Page: t.page,
			Alive: alive, Subcode: max(t.dead, 0), Issued: t.issued, Expires: t.expires,
		})
	}
	g.mu.Unlock()
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
