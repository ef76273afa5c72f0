package api

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
)

// Actions are what an operator asks for beside the verbs on one page. Errors are
// for the operator to read, have no token in them, and may be or wrap a
// [GraphError], [ErrRefused] or [ErrNotConnected].
type Actions interface {
	// Invite makes a link that opens one login in a browser.
	Invite(ctx context.Context, r InviteRequest) (Invite, error)
	// Login looks at what the person of a user token lets the app use, and
	// changes nothing.
	Login(ctx context.Context, r LoginRequest) (Login, error)
	// Connect connects chosen pages of a login, each for itself.
	Connect(ctx context.Context, id string, c LoginChoice, progress func(SubscriptionOutcome)) (LoginResult, error)
	// Send sends as a page.
	Send(ctx context.Context, page domain.PageID, m MessageRequest) (MessageSent, error)
	// Backfill fills a gap from the Conversations API.
	Backfill(ctx context.Context, page domain.PageID, since, until time.Time, progress func(any)) (any, error)
	// Reconcile says what the loop knows of each page.
	Reconcile() any
	// KeyIDs lists the ids of the keys that tokens are sealed with, the one in
	// use first.
	KeyIDs() []string
	// Rebuild builds a read model anew beside the live one. It fails with
	// [ErrUnknown] where there is none of that name.
	Rebuild(ctx context.Context, name string, progress func(projections.Rebuilding)) (projections.Rebuilt, error)
	// Verify replays the stream and compares; Explain says which events made a row.
	// Both fail with [ErrUnknown] as Rebuild does.
	Verify(ctx context.Context, name string, progress func(projections.Rebuilding)) (projections.Verified, error)
	Explain(ctx context.Context, name, bucket string, key []byte, progress func(projections.Rebuilding)) (projections.Trace, error)
	// Audit proves the whole stream against what was counted at the door and in
	// the read models.
	Audit(ctx context.Context, progress func(any)) (any, error)
	// DeadLetters lists what read models could not take in, of one or of all;
	// Decide redrives or discards it.
	DeadLetters(projection string, after projections.DeadLetter, limit int) ([]projections.DeadLetter, error)
	Decide(ctx context.Context, r DecisionRequest) (DecisionResult, error)
	// Consumers lists the programs that read by NATS; AddConsumer lets one more,
	// RemoveConsumer one less.
	Consumers(ctx context.Context) ([]any, error)
	AddConsumer(ctx context.Context, r ConsumerRequest) (any, error)
	RemoveConsumer(ctx context.Context, name string) error
	// Export writes events, a line each; Backup copies streams, keys and
	// configuration to a new directory.
	Export(ctx context.Context, r ExportRequest, w io.Writer) error
	Backup(ctx context.Context, dir string, progress func(any)) (any, error)
	// Hooks lists the endpoints that webhooks are sent to; the others are about one
	// of them.
	Hooks() []any
	HookDeadLetters(name string, after uint64, limit int) (list []any, last uint64, err error)
	RedriveHook(name string, event uint64) (int, error)
	EnableHook(name string) error
	// RotateKey makes a key and seals every page's tokens with it.
	RotateKey(ctx context.Context, progress func(any)) (KeyRotation, error)
}

// InviteRequest asks for a link.
type InviteRequest struct {
	App     string   `json:"app,omitempty"`
	Company string   `json:"company,omitempty"`
	Fields  []string `json:"fields,omitempty"`
	// Back is where a link at the login's end leads, an http or https URL.
	Back string `json:"back,omitempty"`
}

// Invite is a link that opens one login.
type Invite struct {
	URL     string    `json:"url"`
	Expires time.Time `json:"expires"`
}

// LoginRequest has a user's token, which is not kept.
type LoginRequest struct {
	UserToken string `json:"user_token"`
	App       string `json:"app,omitempty"`
}

// Login is what a person lets the app use. Its id is good for half an hour.
type Login struct {
	ID            string      `json:"id"`
	App           string      `json:"app"`
	Admin         string      `json:"admin"`
	MissingScopes []string    `json:"missing_scopes,omitempty"`
	Pages         []LoginPage `json:"pages"`
	// Gone are connected pages that this login no longer includes.
	Gone []LoginPage `json:"gone"`
}

// LoginPage is one page of a [Login].
type LoginPage struct {
	Page  domain.PageID `json:"page"`
	Name  string        `json:"name,omitempty"`
	Tasks []string      `json:"tasks,omitempty"`
	// State is "new", "connected" or "foreign": connected by somebody else.
	State   string `json:"state,omitempty"`
	Company string `json:"company,omitempty"`
	// Lacking says that the person's role does not let them connect the page.
	Lacking bool `json:"lacking,omitempty"`
}

// LoginChoice says which pages of a login are to be connected.
type LoginChoice struct {
	Pages []domain.PageID `json:"pages,omitempty"`
	// All is every page but those of others and those that the role does not
	// let connect.
	All     bool     `json:"all,omitempty"`
	Company string   `json:"company,omitempty"`
	Fields  []string `json:"fields,omitempty"`
}

// LoginResult sums a choice up.
type LoginResult struct {
	Chosen    int `json:"chosen"`
	Confirmed int `json:"confirmed"`
}

// MessageRequest is Meta's Send API request without the page; Contact is short
// for a recipient with that id.
type MessageRequest struct {
	Contact       domain.ContactID `json:"contact,omitempty"`
	Recipient     json.RawMessage  `json:"recipient,omitempty"`
	Message       json.RawMessage  `json:"message,omitempty"`
	MessagingType string           `json:"messaging_type,omitempty"`
	Tag           string           `json:"tag,omitempty"`
	SenderAction  string           `json:"sender_action,omitempty"`
}

// MessageSent is what became of a message.
type MessageSent struct {
	RecipientID string `json:"recipient_id,omitempty"`
	// MessageID is the mid that the echo has too; Seq the event of both, 0 where
	// nothing is recorded.
	MessageID string `json:"message_id,omitempty"`
	Seq       uint64 `json:"seq,omitempty"`
	// Warning says that it was sent and could not be recorded.
	Warning string `json:"warning,omitempty"`
}

// KeyRotation is what a rotation did.
type KeyRotation struct {
	Key      string `json:"key"`
	Resealed int    `json:"resealed"`
	// Failed are the pages whose tokens are still under an older key; the old
	// keys stay, and to rotate again or to connect the page sets it right.
	Failed []domain.PageID `json:"failed,omitempty"`
}

// ErrUnknown says that there is nothing of that name.
var ErrUnknown = errors.New("there is nothing of that name")

// ErrUnsure says that it is not known whether something was done.
var ErrUnsure = errors.New("it is not known whether it was done")

// routes of the actions.
func (s *Server) actionRoutes() map[string]func(http.ResponseWriter, *http.Request) error {
	return map[string]func(http.ResponseWriter, *http.Request) error{
		"POST /api/v1/invites":                              s.invite,
		"POST /api/v1/logins":                               s.login,
		"POST /api/v1/logins/{id}":                          s.connectLogin,
		"POST /api/v1/pages/{id}/messages":                  s.sendMessage,
		"POST /api/v1/pages/{id}/backfill":                  s.backfill,
		"POST /api/v1/conversations/{page}/{contact}/erase": s.erase,
		"GET /api/v1/doctor":                                s.doctor,
		"GET /api/v1/reconcile":                             s.reconcile,
		"POST /api/v1/projections/{name}/rebuild":           s.rebuild,
		"POST /api/v1/projections/{name}/verify":            s.verify,
		"POST /api/v1/projections/{name}/explain":           s.explain,
		"GET /api/v1/deadletters":                           s.listDeadLetters,
		"POST /api/v1/deadletters":                          s.decideDeadLetters,
		"GET /api/v1/consumers":                             s.listConsumers,
		"POST /api/v1/consumers":                            s.addConsumer,
		"DELETE /api/v1/consumers/{name}":                   s.removeConsumer,
		"GET /api/v1/export":                                s.export,
		"POST /api/v1/backup":                               s.backup,
		"GET /api/v1/hooks":                                 s.listHooks,
		"GET /api/v1/hooks/{name}/deadletters":              s.listHookDeadLetters,
		"POST /api/v1/hooks/{name}/redrive":                 s.redriveHook,
		"POST /api/v1/hooks/{name}/enable":                  s.enableHook,
		"POST /api/v1/audit":                                s.audit,
		"GET /api/v1/keys":                                  s.listKeys,
		"POST /api/v1/keys/rotate":                          s.rotateKey,
	}
}

func (s *Server) invite(w http.ResponseWriter, r *http.Request) error {
	var in InviteRequest
	if err := decode(w, r, &in, `{"app": "…", "company": "…", "fields": […]}, each optional`); err != nil {
		return err
	}
	out, err := s.opts.Actions.Invite(r.Context(), in)
	if err != nil {
		return actionFailed("make a login link", err)
	}
	writeJSON(w, http.StatusCreated, out)
	return nil
}

func (s *Server) login(w http.ResponseWriter, r *http.Request) error {
	var in LoginRequest
	if err := decode(w, r, &in, `{"user_token": "…"} and optionally app`); err != nil {
		return err
	}
	if in.UserToken == "" {
		return problem(http.StatusBadRequest, "user_token is needed")
	}
	out, err := s.opts.Actions.Login(r.Context(), in)
	if err != nil {
		return actionFailed("look at the login", err)
	}
	writeJSON(w, http.StatusCreated, out)
	return nil
}

func (s *Server) connectLogin(w http.ResponseWriter, r *http.Request) error {
	var in LoginChoice
	if err := decode(w, r, &in, `{"pages": ["…"]} or {"all": true}, and optionally company, fields`); err != nil {
		return err
	}
	if len(in.Pages) == 0 && !in.All {
		return problem(http.StatusBadRequest, `choose pages, or say "all": true`)
	}
	return run(w, r, "connect pages", func(ctx context.Context, progress func(any)) (any, error) {
		return s.opts.Actions.Connect(ctx, r.PathValue("id"), in, func(o SubscriptionOutcome) { progress(o) })
	})
}

func (s *Server) sendMessage(w http.ResponseWriter, r *http.Request) error {
	var in MessageRequest
	if err := decode(w, r, &in, `{"contact": "…", "message": {"text": "…"}} as Meta's Send API has it`); err != nil {
		return err
	}
	out, err := s.opts.Actions.Send(r.Context(), domain.PageID(r.PathValue("id")), in)
	if err != nil {
		return actionFailed("send", err)
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

func (s *Server) backfill(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Since time.Time `json:"since"`
		Until time.Time `json:"until"`
	}
	if err := decode(w, r, &in, `{"since": "2026-11-23T10:00:00Z"} and optionally until`); err != nil {
		return err
	}
	if in.Since.IsZero() {
		return problem(http.StatusBadRequest, "since is needed: when the gap began")
	}
	return run(w, r, "backfill", func(ctx context.Context, progress func(any)) (any, error) {
		return s.opts.Actions.Backfill(ctx, domain.PageID(r.PathValue("id")), in.Since, in.Until, progress)
	})
}

func (s *Server) erase(w http.ResponseWriter, r *http.Request) error {
	extend(w)
	out, err := s.opts.Erase(r.Context(), domain.PageID(r.PathValue("page")), domain.ContactID(r.PathValue("contact")))
	if err != nil {
		return actionFailed("erase", err)
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

func (s *Server) doctor(w http.ResponseWriter, r *http.Request) error {
	var pages []domain.PageID
	for _, p := range r.URL.Query()["page"] {
		pages = append(pages, domain.PageID(p))
	}
	extend(w)
	out, err := s.opts.Doctor(r.Context(), pages)
	if err != nil {
		return actionFailed("examine pages", err)
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

func (s *Server) rebuild(w http.ResponseWriter, r *http.Request) error {
	return run(w, r, "rebuild", func(ctx context.Context, progress func(any)) (any, error) {
		return s.opts.Actions.Rebuild(ctx, r.PathValue("name"), func(p projections.Rebuilding) { progress(p) })
	})
}

func (s *Server) verify(w http.ResponseWriter, r *http.Request) error {
	return run(w, r, "verify", func(ctx context.Context, progress func(any)) (any, error) {
		return s.opts.Actions.Verify(ctx, r.PathValue("name"), func(p projections.Rebuilding) { progress(p) })
	})
}

func (s *Server) explain(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Bucket string `json:"bucket"`
		Key    string `json:"key"` // in hex
	}
	if err := decode(w, r, &in, `{"bucket": "messages", "key": "…"} with the key in hex, as verify names a row`); err != nil {
		return err
	}
	key, err := hex.DecodeString(in.Key)
	if err != nil || len(key) == 0 || in.Bucket == "" {
		return problem(http.StatusBadRequest, "bucket and key are needed, the key in hex")
	}
	return run(w, r, "explain", func(ctx context.Context, progress func(any)) (any, error) {
		return s.opts.Actions.Explain(ctx, r.PathValue("name"), in.Bucket, key, func(p projections.Rebuilding) { progress(p) })
	})
}

func (s *Server) audit(w http.ResponseWriter, r *http.Request) error {
	return run(w, r, "audit", s.opts.Actions.Audit)
}

func (s *Server) reconcile(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, s.opts.Actions.Reconcile())
	return nil
}

func (s *Server) listKeys(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, List[string]{Items: s.opts.Actions.KeyIDs()})
	return nil
}

func (s *Server) rotateKey(w http.ResponseWriter, r *http.Request) error {
	return run(w, r, "rotate the key", func(ctx context.Context, progress func(any)) (any, error) {
		return s.opts.Actions.RotateKey(ctx, progress)
	})
}

// decode reads a request's body. The decoder's words may quote it, and it may
// have a token in it.
func decode(w http.ResponseWriter, r *http.Request, in any, usage string) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
	d.DisallowUnknownFields()
	if err := d.Decode(in); err != nil {
		return problem(http.StatusBadRequest, "send "+usage)
	}
	return nil
}

// actionFailed answers in Graph's words where it has said no.
func actionFailed(doing string, err error) error {
	if p, ok := refusal(err); ok {
		return p
	}
	status := http.StatusBadGateway
	switch {
	case errors.Is(err, ErrNotConnected), errors.Is(err, ErrUnknown), errors.Is(err, projections.ErrNoRow):
		status = http.StatusNotFound
	case errors.Is(err, projections.ErrBuilding):
		status = http.StatusConflict
	case errors.Is(err, ErrRefused):
		status = http.StatusUnprocessableEntity
	}
	return problem(status, fmt.Sprintf("%s: %v", doing, err))
}

// maxRun bounds a long action.
const maxRun = 6 * time.Hour

// line is one line of a long action's answer: progress as it comes, then the
// result or what went wrong.
type line struct {
	Progress any      `json:"progress,omitempty"`
	Result   any      `json:"result,omitempty"`
	Error    *Problem `json:"error,omitempty"`
}

// run answers a long action in lines of JSON (application/x-ndjson). The status
// is 200 as soon as there is progress; whether it came to its end is in the last
// line. The action ends when the client goes.
func run(w http.ResponseWriter, r *http.Request, doing string, do func(ctx context.Context, progress func(any)) (any, error)) error {
	ctx, cancel := context.WithTimeout(r.Context(), maxRun)
	defer cancel()
	extend(w)
	begun, ended := false, false
	var one sync.Mutex // progress may come from any goroutine, and late
	write := func(l line) {
		one.Lock()
		defer one.Unlock()
		if ended {
			return
		}
		ended = l.Progress == nil
		if !begun {
			w.Header().Set("Content-Type", "application/x-ndjson")
			w.WriteHeader(http.StatusOK)
			begun = true
		}
		extend(w)
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		if enc.Encode(l) != nil || http.NewResponseController(w).Flush() != nil {
			cancel()
		}
	}
	out, err := do(ctx, func(p any) { write(line{Progress: p}) })
	if err == nil {
		write(line{Result: out})
		return nil
	}
	err = actionFailed(doing, err)
	one.Lock()
	if !begun {
		ended = true
		one.Unlock()
		return err
	}
	one.Unlock()
	var p Problem
	errors.As(err, &p)
	write(line{Result: out, Error: &p})
	return nil
}

// extend gives a long answer more time than the server gives the others.
func extend(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(10 * time.Minute))
}
