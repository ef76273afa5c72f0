package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
)

// LoginOperator connects pages with a user's login.
type LoginOperator interface {
	Invite(ctx context.Context, r operate.InviteRequest) (operate.Invite, error)
	Login(ctx context.Context, app, userToken string) (operate.Login, error)
	ConnectChosen(ctx context.Context, id string, c meta.Choice, progress func(meta.Outcome)) (
		operate.Connected, error)
}

func (s *Server) loginRoutes() routes {
	return routes{
		"POST /api/v1/invites":     {serve: s.invite, body: true, verb: "pages_login"},
		"POST /api/v1/logins":      {serve: s.login, body: true, verb: "logins_add"},
		"POST /api/v1/logins/{id}": {serve: s.connectChosen, body: true, verb: "logins_connect"},
	}
}

// LoginRequest contains a user access token, which is not stored.
type LoginRequest struct {
	UserToken string `json:"user_token"`
	App       string `json:"app,omitempty"`
}

func (s *Server) invite(w http.ResponseWriter, r *http.Request) error {
	var in operate.InviteRequest
	if err := decode(w, r, &in, `{"company": "…"} and optionally new_company, app, fields, back`); err != nil {
		return err
	}
	history.From(r.Context()).OnText("company", in.Company)
	out, err := s.opts.Operator.Invite(r.Context(), in)
	return writeResult(w, "make a login link", http.StatusCreated, out, err)
}

func (s *Server) login(w http.ResponseWriter, r *http.Request) error {
	var in LoginRequest
	if err := decode(w, r, &in, `{"user_token": "…"} and optionally app`); err != nil {
		return err
	}
	if in.UserToken == "" {
		return problem(http.StatusBadRequest, "user_token is needed")
	}
	out, err := s.opts.Operator.Login(r.Context(), in.App, in.UserToken)
	return writeResult(w, "log in", http.StatusCreated, out, err)
}

func (s *Server) connectChosen(w http.ResponseWriter, r *http.Request) error {
	var in meta.Choice
	if err := decode(w, r, &in, `{"pages": ["…"]} or {"all": true}, and optionally company, move, fields`); err != nil {
		return err
	}
	if (len(in.Pages) == 0) != in.All {
		return problem(http.StatusBadRequest, `either choose pages, or say "all": true`)
	}
	action := history.From(r.Context())
	action.OnText("company", in.Company)
	action.OnText("pages", chosen(in))
	return run(w, r, "connect pages", func(ctx context.Context, progress func(meta.Outcome)) (operate.Connected, error) {
		return s.opts.Operator.ConnectChosen(ctx, r.PathValue("id"), in, progress)
	})
}

// chosen names the pages of a choice, for the history.
func chosen(c meta.Choice) string {
	const most = 8
	if c.All {
		return "all"
	}
	names := make([]string, min(len(c.Pages), most))
	for i := range names {
		names[i] = string(c.Pages[i])
	}
	if len(c.Pages) > most {
		names = append(names, fmt.Sprintf("and %d more", len(c.Pages)-most))
	}
	return strings.Join(names, " ")
}
