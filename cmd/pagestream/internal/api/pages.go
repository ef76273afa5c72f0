package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/doctor"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/reconcile"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

// PageOperator lists and judges pages and carries out verbs on them. Each verb records
// its outcome as events, also if it fails.
type PageOperator interface {
	ListPages(company, cursor string, limit int) ([]operate.Page, string, error)
	Page(id domain.PageID) (operate.Page, error)
	Connect(ctx context.Context, r connect.Request) (meta.Outcome, error)
	Check(ctx context.Context, page domain.PageID) (meta.Outcome, error)
	// Plan returns what Resubscribe would do, and changes nothing.
	Plan(ctx context.Context, page domain.PageID) (meta.Outcome, error)
	Resubscribe(ctx context.Context, page domain.PageID) (meta.Outcome, error)
	Disconnect(ctx context.Context, page domain.PageID) (meta.Outcome, error)
	MarkTest(ctx context.Context, page domain.PageID) (operate.TestMarked, error)
	Forget(ctx context.Context, page domain.PageID) (operate.Forgotten, error)
	// Examine without pages examines all that are connected or send events.
	Examine(ctx context.Context, pages []domain.PageID) (doctor.Report, error)
	// CheckPages fails with [doctor.ErrUnknownPage] if one of the pages does not exist.
	CheckPages(ctx context.Context, pages []domain.PageID) error
	Reconcile() reconcile.Status
}

func (s *Server) pageRoutes() routes {
	return routes{
		"GET /api/v1/pages": {
			serve: s.listPages, params: params{"company", "cursor", "limit", "min_seq"}, allow: toCompanies,
		},
		"POST /api/v1/pages":     {serve: s.connectPage, body: true, verb: "pages_connect"},
		"GET /api/v1/pages/{id}": {serve: s.getPage, params: params{"min_seq"}, allow: toCompanies},
		"GET /api/v1/pages/{id}/subscription": {
			serve: s.getSubscription, params: params{"min_seq"}, allow: toCompanies,
		},
		"POST /api/v1/pages/{id}/check": {
			serve: s.pageVerb("check", Operator.Check), verb: "pages_check", on: "page",
		},
		"POST /api/v1/pages/{id}/resubscribe": {
			serve: s.resubscribePage, params: params{"dry_run"}, verb: "pages_resubscribe", on: "page",
		},
		"POST /api/v1/pages/{id}/disconnect": {
			serve: s.pageVerb("disconnect", Operator.Disconnect), verb: "pages_disconnect", on: "page",
		},
		"POST /api/v1/pages/{id}/test": {
			serve: pageEvent(s, "mark", Operator.MarkTest), verb: "pages_mark_test", on: "page",
		},
		"POST /api/v1/pages/{id}/forget": {
			serve: pageEvent(s, "forget", Operator.Forget), verb: "pages_forget", on: "page",
		},
		"GET /api/v1/doctor":    {serve: s.examine, params: params{"page" + many}, allow: toReaders},
		"GET /api/v1/reconcile": {serve: s.reconcile, allow: toReaders},
	}
}

// ConnectRequest is a request to connect one page with its own page token.
type ConnectRequest struct {
	Page domain.PageID `json:"page"`
	// Token is the page access token. It is sealed before anything is stored.
	Token string `json:"token"`
	// VerifyToken is the page's own token for the webhook's handshake. It is optional,
	// and sealed as well.
	VerifyToken string `json:"verify_token,omitempty"`
	// Company owns the page; if it is empty, a connected page keeps its company. Move
	// allows a page that is connected for another company to move to it.
	Company string `json:"company,omitempty"`
	Move    bool   `json:"move,omitempty"`
	// App is the name of a configured app; empty is the first.
	App string `json:"app,omitempty"`
	// Fields are the wanted subscription fields; empty is the default set.
	Fields []string `json:"fields,omitempty"`
}

func (s *Server) listPages(w http.ResponseWriter, r *http.Request) error {
	limit, err := limit(r)
	if err != nil {
		return err
	}
	company, err := s.company(r)
	if err != nil {
		return err
	}
	if err := await(r, s.opts.Pages, s.opts.Subscriptions); err != nil {
		return err
	}
	if own := companyOf(r); own != "" {
		return s.listOwnPages(w, r, own, limit)
	}
	items, next, err := s.opts.Operator.ListPages(company, r.URL.Query().Get("cursor"), limit)
	return writeList(w, "list pages", items, next, err)
}

func (s *Server) getPage(w http.ResponseWriter, r *http.Request) error {
	if err := await(r, s.opts.Pages, s.opts.Subscriptions); err != nil {
		return err
	}
	id := pageID(r)
	page, err := s.opts.Operator.Page(id)
	b, refused := s.bound(r, id)
	switch {
	case refused != nil:
		return refused
	case errors.Is(err, pages.ErrNotFound):
		return problem(http.StatusNotFound, fmt.Sprintf("page %s has never been seen", id))
	case err != nil:
		return fmt.Errorf("get page: %w", err)
	case b != nil:
		return writeJSON(w, http.StatusOK, boundPage(page))
	}
	return writeJSON(w, http.StatusOK, page)
}

// pageID returns the page in the request's path.
func pageID(r *http.Request) domain.PageID { return domain.PageID(r.PathValue("id")) }

func (s *Server) getSubscription(w http.ResponseWriter, r *http.Request) error {
	if err := await(r, s.opts.Subscriptions); err != nil {
		return err
	}
	id := pageID(r)
	subs, err := subscriptions.OfPage(s.opts.Subscriptions, id)
	if err != nil {
		return fmt.Errorf("get subscription: %w", err)
	}
	b, err := s.bound(r, id)
	if err == nil && b != nil {
		subs, err = b.subscriptions(subs)
	}
	if err != nil {
		return err
	}
	if len(subs) == 0 {
		return problem(http.StatusNotFound,
			fmt.Sprintf("page %s has no subscription; type: pagestream pages connect %s", id, id))
	}
	return writeJSON(w, http.StatusOK, List[subscriptions.Subscription]{Items: subs})
}

func (s *Server) connectPage(w http.ResponseWriter, r *http.Request) error {
	var in ConnectRequest
	const usage = `{"page": "…", "token": "…"} and optionally verify_token, company, move, app, fields`
	if err := decode(w, r, &in, usage); err != nil {
		return err
	}
	if in.Page == "" || in.Token == "" {
		return problem(http.StatusBadRequest, "page and token are both needed")
	}
	action := history.From(r.Context())
	action.On("page", string(in.Page))
	action.OnText("company", in.Company)
	out, err := s.opts.Operator.Connect(r.Context(), connect.Request{
		Page: in.Page, Token: in.Token, VerifyToken: in.VerifyToken,
		Company: in.Company, Move: in.Move, App: in.App, Fields: in.Fields,
	})
	return writeResult(w, "connect page "+string(in.Page), http.StatusCreated, out, err)
}

func (s *Server) resubscribePage(w http.ResponseWriter, r *http.Request) error {
	dry, err := boolean(r, "dry_run")
	if err != nil {
		return err
	}
	do := Operator.Resubscribe
	if dry {
		history.From(r.Context()).On("dry_run", "true")
		do = Operator.Plan
	}
	return s.pageVerb("resubscribe", do)(w, r)
}

// pageVerb returns a handler that carries out a verb on the page in the path.
func (s *Server) pageVerb(name string, do func(Operator, context.Context, domain.PageID) (meta.Outcome, error)) serve {
	return pageEvent(s, name, do)
}

// pageEvent is pageVerb for any result.
func pageEvent[T any](
	s *Server, name string, do func(Operator, context.Context, domain.PageID) (T, error),
) serve {
	return func(w http.ResponseWriter, r *http.Request) error {
		page := pageID(r)
		out, err := do(s.opts.Operator, r.Context(), page)
		return writeResult(w, name+" page "+string(page), http.StatusOK, out, err)
	}
}

// examine serves GET /api/v1/doctor.
func (s *Server) examine(w http.ResponseWriter, r *http.Request) error {
	var ids []domain.PageID
	for _, p := range list(r, "page") {
		ids = append(ids, domain.PageID(p))
	}
	extend(w)
	out, err := s.opts.Operator.Examine(r.Context(), ids)
	return writeResult(w, "examine pages", http.StatusOK, out, err)
}

// reconcile serves GET /api/v1/reconcile.
func (s *Server) reconcile(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, http.StatusOK, s.opts.Operator.Reconcile())
}
