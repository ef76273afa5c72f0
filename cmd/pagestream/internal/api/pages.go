package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

// Connector carries out what an operator asks of a page. Each call leaves its
// outcome as events, also when it fails. Errors are for the operator to read:
// they have no token in them.
type Connector interface {
	Connect(ctx context.Context, r ConnectRequest) (SubscriptionOutcome, error)
	Check(ctx context.Context, page domain.PageID) (SubscriptionOutcome, error)
	// Plan tells what Resubscribe would do, and does nothing.
	Plan(ctx context.Context, page domain.PageID) (SubscriptionOutcome, error)
	Resubscribe(ctx context.Context, page domain.PageID) (SubscriptionOutcome, error)
	Disconnect(ctx context.Context, page domain.PageID) (SubscriptionOutcome, error)
}

// ConnectRequest asks for one page to be connected with its own page token.
type ConnectRequest struct {
	Page domain.PageID `json:"page"`
	// Token is the page access token. It is sealed before anything is stored.
	Token string `json:"token"`
	// VerifyToken is the page's own token for the webhook's handshake, if it
	// shall have one. It is sealed as well.
	VerifyToken string `json:"verify_token,omitempty"`
	Company     string `json:"company,omitempty"`
	// App is the name of a configured app; empty is the first.
	App string `json:"app,omitempty"`
	// Fields are the wanted subscription fields; empty is the default set.
	Fields []string `json:"fields,omitempty"`
}

// SubscriptionOutcome is the state of a page's subscription after a verb.
type SubscriptionOutcome struct {
	Page  domain.PageID `json:"page"`
	Name  string        `json:"name,omitempty"`
	State string        `json:"state"`
	// Wanted is what we ask for, Actual what Graph says is subscribed, and
	// Missing the difference.
	Wanted  []string `json:"wanted,omitempty"`
	Actual  []string `json:"actual,omitempty"`
	Missing []string `json:"missing,omitempty"`
	// AppFields is what the app itself is subscribed to for pages, AppMissing
	// what it lacks: Meta delivers only what both levels have.
	AppFields  []string `json:"app_fields,omitempty"`
	AppMissing []string `json:"app_missing,omitempty"`
	// Field is the wanted field that Graph's refusal is about.
	Field string `json:"field,omitempty"`
	// RetryAfter is how many seconds Graph wants to be left alone.
	RetryAfter int `json:"retry_after,omitempty"`
	// Reason, Code and Subcode are Graph's, where it refused.
	Reason  string `json:"reason,omitempty"`
	Code    int    `json:"code,omitempty"`
	Subcode int    `json:"subcode,omitempty"`
	// Seq is the last event of this outcome; reads take it as ?min_seq=.
	Seq uint64 `json:"seq,omitempty"`
}

// Errors of a [Connector].
var (
	// ErrNotConnected says that a verb needs a connected page.
	ErrNotConnected = errors.New("page is not connected")
	// ErrRefused says that what was asked can't be done as it was asked; the
	// error that wraps it says why.
	ErrRefused = errors.New("refused")
)

// maxRequest bounds the body of a request to the API.
const maxRequest = 1 << 20

func (s *Server) listPages(w http.ResponseWriter, r *http.Request) error {
	limit, err := limit(r, maxPage)
	if err != nil {
		return err
	}
	m, err := view(r, s.opts.Pages)
	if err != nil {
		return err
	}
	items, next, err := pages.List(m, r.URL.Query().Get("cursor"), limit)
	if err != nil {
		return badCursor(err, pages.ErrCursor, "list pages")
	}
	writeJSON(w, http.StatusOK, List[pages.Page]{Items: items, Next: next})
	return nil
}

func (s *Server) getPage(w http.ResponseWriter, r *http.Request) error {
	m, err := view(r, s.opts.Pages)
	if err != nil {
		return err
	}
	id := r.PathValue("id")
	page, err := pages.Get(m, domain.PageID(id))
	if errors.Is(err, pages.ErrNotFound) {
		return problem(http.StatusNotFound, fmt.Sprintf("page %s has never been seen", id))
	}
	if err != nil {
		return fmt.Errorf("get page: %w", err)
	}
	writeJSON(w, http.StatusOK, page)
	return nil
}

func (s *Server) getSubscription(w http.ResponseWriter, r *http.Request) error {
	m, err := view(r, s.opts.Subscriptions)
	if err != nil {
		return err
	}
	id := r.PathValue("id")
	subs, err := subscriptions.OfPage(m, domain.PageID(id))
	if err != nil {
		return fmt.Errorf("get subscription: %w", err)
	}
	if len(subs) == 0 {
		return problem(http.StatusNotFound, fmt.Sprintf("page %s has no subscription; type: pagestream pages connect %s", id, id))
	}
	writeJSON(w, http.StatusOK, List[subscriptions.Subscription]{Items: subs})
	return nil
}

func (s *Server) connectPage(w http.ResponseWriter, r *http.Request) error {
	var in ConnectRequest
	if err := decode(w, r, &in, `{"page": "…", "token": "…"} and optionally verify_token, company, app, fields`); err != nil {
		return err
	}
	if in.Page == "" || in.Token == "" {
		return problem(http.StatusBadRequest, "page and token are both needed")
	}
	out, err := s.opts.Connector.Connect(r.Context(), in)
	if err != nil {
		return verbFailed("connect", in.Page, err)
	}
	writeJSON(w, http.StatusCreated, out)
	return nil
}

func (s *Server) checkPage(w http.ResponseWriter, r *http.Request) error {
	return s.verb(w, r, "check", s.opts.Connector.Check)
}

func (s *Server) resubscribePage(w http.ResponseWriter, r *http.Request) error {
	if dry := r.URL.Query().Get("dry_run"); dry == "1" || dry == "true" {
		return s.verb(w, r, "resubscribe", s.opts.Connector.Plan)
	}
	return s.verb(w, r, "resubscribe", s.opts.Connector.Resubscribe)
}

func (s *Server) disconnectPage(w http.ResponseWriter, r *http.Request) error {
	return s.verb(w, r, "disconnect", s.opts.Connector.Disconnect)
}

func (s *Server) verb(w http.ResponseWriter, r *http.Request, name string,
	do func(context.Context, domain.PageID) (SubscriptionOutcome, error),
) error {
	page := domain.PageID(r.PathValue("id"))
	out, err := do(r.Context(), page)
	if err != nil {
		return verbFailed(name, page, err)
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// verbFailed answers 404 for a page without a connection, 422 for what can't be
// done as asked, else 502: the verb stands or falls with Graph, and its words
// are what the operator needs.
func verbFailed(verb string, page domain.PageID, err error) error {
	if errors.Is(err, ErrNotConnected) {
		return problem(http.StatusNotFound, fmt.Sprintf("page %s is not connected; type: pagestream pages connect %s", page, page))
	}
	if p, ok := refusal(err); ok {
		return p
	}
	if errors.Is(err, ErrRefused) {
		return problem(http.StatusUnprocessableEntity, fmt.Sprintf("%s page %s: %v", verb, page, err))
	}
	return problem(http.StatusBadGateway, fmt.Sprintf("%s page %s: %v", verb, page, err))
}

// badCursor answers 400 where err is the listing's own complaint.
func badCursor(err, sentinel error, doing string) error {
	if errors.Is(err, sentinel) {
		return problem(http.StatusBadRequest, "cursor is not one that this listing gave; start without")
	}
	return fmt.Errorf("%s: %w", doing, err)
}
