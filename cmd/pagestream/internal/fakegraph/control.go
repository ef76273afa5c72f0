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

// maxControl is the maximum size of the body of a control request in bytes.
const maxControl = 64 << 10

// control has the parameters of all verbs; [verbs] lists those of each verb. An
// engine verb without app is applied to every engine.
type control struct {
	App, Page, User, Contact, Object string
	Account, Callback                string
	Token, Text, Secret, In          string
	Fields, Pages, Tasks             []string
	Subcode, Percent, Code           int
	Regain                           int   `json:"regain_minutes"`
	Calls                            int   // at least one
	On                               *bool // default true
	Failure                          Failure
}

func (c control) on() bool { return c.On == nil || *c.On }

// command is a control request as it is passed to its verb.
type command struct {
	control
	*Graph
	ctx    context.Context
	engine *Engine // for engine verbs only
}

type verb func(command) (any, error)

var errNoText = errors.New("the control request needs a text")

// verbs are the verbs of [Graph.Control] with their parameters. They are named
// after the methods that they call, which document them.
var verbs = map[string]verb{
	// app, object, fields; without fields the object is removed
	"app-fields": withParams(func(c command) { c.SetAppFields(c.App, c.Object, c.Fields) }, "app", "object"),
	// app, page, fields; without fields the subscription is removed
	"subscription": withParams(func(c command) { c.SetSubscription(c.App, c.Page, c.Fields...) }, "app", "page"),
	// app, object, callback; active is on
	"app-callback": withParams(func(c command) { c.SetAppCallback(c.App, c.Object, c.Callback, c.on()) }, "app", "object"),
	// page, account; without account the page's is unlinked
	"instagram": withParams(func(c command) { c.SetInstagram(c.Page, c.Account) }, "page"),
	// app, user, pages; without pages all are granted
	"granted": withParams(func(c command) { c.SetGranted(c.App, c.User, c.Pages) }, "app", "user"),
	// app, user
	"expire-data-access": withParams(func(c command) { c.ExpireDataAccess(c.App, c.User) }, "app", "user"),
	// contact
	"block":        withParams(func(c command) { c.Block(c.Contact) }, "contact"),
	"close-window": withParams(func(c command) { c.CloseWindow(c.Contact) }, "contact"),
	// page, code, calls
	"throttle": withParams(func(c command) { c.Throttle(c.Page, c.Code, max(c.Calls, 1)) }, "page"),
	// page, percent, regain_minutes; without page the app's usage is set
	"usage": withParams(func(c command) { c.SetUsage(c.Page, c.Percent, c.Regain) }),
	// in, failure, calls
	"fail-next": withParams(func(c command) { c.FailNext(c.In, c.Failure, max(c.Calls, 1)) }),
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
	// app, user, page, subcode
	"kill-tokens": func(c command) (any, error) { return nil, c.KillTokens(c.App, c.User, c.Page, c.Subcode) },
	// app, user, page
	"revive-tokens": func(c command) (any, error) {
		if c.ReviveTokens(c.App, c.User, c.Page) == 0 {
			return nil, fmt.Errorf("token that a checkpoint has ended: %w", ErrUnknown)
		}
		return nil, nil
	},
	// app, user, subcode
	"kill-user": func(c command) (any, error) { return nil, c.KillUser(c.App, c.User, c.Subcode) },
	// app, user
	"remove-app": func(c command) (any, error) { return nil, c.RemoveApp(c.ctx, c.App, c.User) },
	// app, user; returns the callback's answer
	"request-data-deletion": func(c command) (any, error) {
		status, body, err := c.RequestDataDeletion(c.ctx, c.App, c.User)
		return map[string]any{"status": status, "body": string(body)}, err
	},
	// page, on
	"standby": eachEngine(withParams(func(c command) { c.engine.SetStandby(c.Page, c.on()) }, "page")),
	"quiet":   eachEngine(withParams(func(c command) { c.engine.SetQuiet(c.Page, c.on()) }, "page")),
	"muted":   eachEngine(withParams(func(c command) { c.engine.SetMuted(c.Page, c.on()) }, "page")),
	// percent
	"duplicates": eachEngine(withParams(func(c command) { c.engine.SetDuplicates(c.Percent) })),
	"reorder":    eachEngine(withParams(func(c command) { c.engine.SetReorder(c.Percent) })),
	// on
	"delivery": eachEngine(withParams(func(c command) { c.engine.SetDelivery(c.on()) })),
	// secret; empty restores the app's
	"secret":    eachEngine(withParams(func(c command) { c.engine.SetSecret(c.Secret) })),
	"send-test": eachEngine(func(c command) (any, error) { return nil, c.engine.SendTest(c.ctx) }),
	// page; returns the lead's id
	"submit-lead": eachEngine(func(c command) (any, error) {
		id, err := c.engine.SubmitLead(c.Page)
		return map[string]any{"id": id}, err
	}),
	// page, contact, text; returns the message's mid
	"say": eachEngine(func(c command) (any, error) {
		if c.Text == "" {
			return nil, errNoText
		}
		mid, err := c.engine.Say(c.Page, c.Contact, c.Text)
		return map[string]any{"mid": mid}, err
	}),
}

// withParams returns a verb that calls do, which can't fail. The verb returns
// [ErrUnknown] if one of the required parameters is missing or names an unknown
// object.
func withParams(do func(command), needs ...string) verb {
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

// eachEngine returns a verb that calls do for each active engine of the app. It
// returns [ErrUnknown] if there is none.
func eachEngine(do verb) verb {
	return func(c command) (out any, err error) {
		engines := slices.DeleteFunc(c.activeEngines(), func(e *Engine) bool { return c.App != "" && e.app.ID != c.App })
		if len(engines) == 0 {
			return nil, fmt.Errorf("active delivery engine: %w", ErrUnknown)
		}
		for _, c.engine = range engines {
			if out, err = do(c); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
}

// activeEngines returns the engines that are running or have been stepped, sorted
// by app.
func (g *Graph) activeEngines() []*Engine {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.SortedFunc(maps.Keys(g.engines), func(a, b *Engine) int { return cmp.Compare(a.app.ID, b.app.ID) })
}

// Control returns a handler that scripts the fake over HTTP: POST /control/<verb>
// with a JSON object, and GET /control/state. It answers 200 {"ok":true}, with the
// verb's result as "result" if it has one, or 4xx {"error":…}. It requires no
// token, so requests from other machines are answered 403. Serve it on a separate
// listener.
func (g *Graph) Control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /control/state", func(w http.ResponseWriter, _ *http.Request) {
		writeControl(w, http.StatusOK, g.state())
	})
	mux.HandleFunc("POST /control/{verb}", func(w http.ResponseWriter, r *http.Request) {
		do, ok := verbs[r.PathValue("verb")]
		if !ok {
			writeControlError(w, http.StatusNotFound, "no such verb")
			return
		}
		c := command{Graph: g, ctx: r.Context()}
		in := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxControl))
		in.DisallowUnknownFields()
		if err := in.Decode(&c.control); err != nil && !errors.Is(err, io.EOF) { // EOF: the body is empty
			writeControlError(w, http.StatusBadRequest, "read control request: "+err.Error())
			return
		}
		out, err := do(c)
		switch {
		case errors.Is(err, ErrUnknown):
			writeControlError(w, http.StatusNotFound, err.Error())
		case err != nil:
			writeControlError(w, http.StatusUnprocessableEntity, err.Error())
		case out != nil:
			writeControl(w, http.StatusOK, map[string]any{"ok": true, "result": out})
		default:
			writeControl(w, http.StatusOK, map[string]any{"ok": true})
		}
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil || !net.ParseIP(host).IsLoopback() {
			writeControlError(w, http.StatusForbidden, "control requests must come from this machine")
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func writeControlError(w http.ResponseWriter, status int, message string) {
	writeControl(w, status, map[string]any{"error": message})
}

func writeControl(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// The JSON of GET /control/state.
type (
	// stateFields is a subscription: of the app to an object, or to a page.
	stateFields struct {
		App      string   `json:"app"`
		Object   string   `json:"object,omitempty"`
		Page     string   `json:"page,omitempty"`
		Callback string   `json:"callback,omitempty"`
		Fields   []string `json:"fields"`
	}
	// stateToken is a token without its secret value.
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
		App      string `json:"app"`
		Delivery bool   `json:"delivery"`
		// Duplicates and Reorder are percentages.
		Duplicates int                 `json:"duplicates"`
		Reorder    int                 `json:"reorder"`
		Standby    []string            `json:"standby"`
		Quiet      []string            `json:"quiet"`
		Muted      []string            `json:"muted"`
		Pages      map[string]Counters `json:"pages"`
	}
	state struct {
		AppSubscriptions []stateFields `json:"app_subscriptions"`
		Subscriptions    []stateFields `json:"subscriptions"`
		Tokens           []stateToken  `json:"tokens"`
		Engines          []stateEngine `json:"engines"`
	}
)

// state returns the state of the fake. Its lists are sorted, so that two states can
// be compared.
func (g *Graph) state() state {
	s := state{
		AppSubscriptions: []stateFields{}, Subscriptions: []stateFields{}, Tokens: []stateToken{},
		Engines: []stateEngine{},
	}
	for _, a := range g.opts.Apps {
		for _, object := range []string{objectPage, objectInstagram} {
			if fields, callback, on := g.appFields(a.ID, object); on {
				s.AppSubscriptions = append(s.AppSubscriptions,
					stateFields{App: a.ID, Object: object, Callback: callback, Fields: fields})
			}
		}
	}
	g.mu.Lock()
	for _, key := range slices.SortedFunc(maps.Keys(g.subs), compareKeys) {
		s.Subscriptions = append(s.Subscriptions, stateFields{App: key[0], Page: key[1], Fields: g.subs[key]})
	}
	for _, t := range g.tokens {
		alive := g.tokenError(t) == nil // must come first: it sets t.dead
		s.Tokens = append(s.Tokens, stateToken{
			Kind: strings.ToLower(t.kind), App: t.app, User: t.user, Page: t.page,
			Alive: alive, Subcode: max(t.dead, 0), Issued: t.issued, Expires: t.expires,
		})
	}
	g.mu.Unlock()
	slices.SortFunc(s.Tokens, func(a, b stateToken) int {
		return cmp.Or(cmp.Compare(a.App, b.App), cmp.Compare(a.User, b.User), cmp.Compare(a.Page, b.Page),
			cmp.Compare(a.Kind, b.Kind),
			a.Issued.Compare(b.Issued), cmp.Compare(a.Subcode, b.Subcode))
	})
	for _, e := range g.activeEngines() {
		s.Engines = append(s.Engines, e.state())
	}
	return s
}

func (e *Engine) state() stateEngine {
	s := e.Switches()
	out := stateEngine{
		App: e.app.ID, Pages: e.Stats(), Delivery: s.Delivery, Duplicates: s.Duplicates, Reorder: s.Reorder,
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	out.Standby, out.Quiet, out.Muted = sortedKeys(e.standby), sortedKeys(e.quiet), sortedKeys(e.muted)
	return out
}

// sortedKeys returns the members of a set, sorted. It is not nil, so that an empty
// set is an empty list in JSON.
func sortedKeys(set map[string]bool) []string {
	return append([]string{}, slices.Sorted(maps.Keys(set))...)
}
