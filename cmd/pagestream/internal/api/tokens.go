package api

import (
	"context"
	"net/http"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/tokens"
)

// TokenOperator makes, lists and revokes tokens of the private listener.
type TokenOperator interface {
	ListTokens() []tokens.Token
	AddToken(ctx context.Context, t tokens.Token) (tokens.Added, error)
	RevokeToken(ctx context.Context, name string) error
}

func (s *Server) tokenRoutes() routes {
	return routes{
		"GET /api/v1/tokens":           {serve: s.listTokens, allow: toAdmins},
		"POST /api/v1/tokens":          {serve: s.addToken, body: true, allow: toAdmins, verb: "tokens_add"},
		"DELETE /api/v1/tokens/{name}": {serve: s.revokeToken, allow: toAdmins, verb: "tokens_revoke", on: "token"},
	}
}

// TokenRequest is a request for a token. Company and Send are for the scope company.
// Without Expires it does not expire.
type TokenRequest struct {
	Name    string       `json:"name"`
	Scope   tokens.Scope `json:"scope"`
	Company string       `json:"company,omitempty"`
	Send    bool         `json:"send,omitempty"`
	Expires time.Time    `json:"expires,omitzero"`
}

func (s *Server) listTokens(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, http.StatusOK, List[tokens.Token]{Items: s.opts.Operator.ListTokens()})
}

// addToken responds with the token's text, which can't be read again.
func (s *Server) addToken(w http.ResponseWriter, r *http.Request) error {
	var in TokenRequest
	if err := decode(w, r, &in, `{"name": "…", "scope": "…"} and optionally company, send, expires`); err != nil {
		return err
	}
	action := history.From(r.Context())
	action.On("token", in.Name)
	action.On("scope", string(in.Scope))
	action.OnText("company", in.Company)
	out, err := s.opts.Operator.AddToken(r.Context(), tokens.Token{
		Name: in.Name, Scope: in.Scope, Company: in.Company, Send: in.Send, Expires: in.Expires,
	})
	w.Header().Set("Cache-Control", "no-store")
	return writeResult(w, "add token", http.StatusCreated, out, err)
}

func (s *Server) revokeToken(w http.ResponseWriter, r *http.Request) error {
	if err := s.opts.Operator.RevokeToken(r.Context(), r.PathValue("name")); err != nil {
		return verbProblem("revoke token", err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
