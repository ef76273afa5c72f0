package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/companies"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
)

// CompanyOperator lists and names companies.
type CompanyOperator interface {
	ListCompanies(ctx context.Context) ([]companies.Company, error)
	FindCompany(ctx context.Context, name string) (companies.Company, error)
	AddCompany(ctx context.Context, name string) (companies.Company, error)
	RenameCompany(ctx context.Context, company, name string) (companies.Company, error)
}

func (s *Server) companyRoutes() routes {
	return routes{
		"GET /api/v1/companies":  {serve: s.listCompanies, params: params{"min_seq"}, allow: toReaders},
		"POST /api/v1/companies": {serve: s.addCompany, body: true, verb: "companies_add"},
		"POST /api/v1/companies/{id}/rename": {
			serve: s.renameCompany, body: true, verb: "companies_rename", on: "company",
		},
	}
}

// CompanyRequest has a company's name.
type CompanyRequest struct {
	Name string `json:"name"`
}

func (s *Server) listCompanies(w http.ResponseWriter, r *http.Request) error {
	if err := await(r, s.opts.Pages); err != nil {
		return err
	}
	list, err := s.opts.Operator.ListCompanies(r.Context())
	return writeResult(w, "list companies", http.StatusOK, List[companies.Company]{Items: list}, err)
}

func (s *Server) addCompany(w http.ResponseWriter, r *http.Request) error {
	var in CompanyRequest
	if err := decode(w, r, &in, `{"name": "…"}`); err != nil {
		return err
	}
	history.From(r.Context()).OnText("company", in.Name)
	out, err := s.opts.Operator.AddCompany(r.Context(), in.Name)
	return writeResult(w, "add company", http.StatusCreated, out, err)
}

func (s *Server) renameCompany(w http.ResponseWriter, r *http.Request) error {
	var in CompanyRequest
	if err := decode(w, r, &in, `{"name": "…"}`); err != nil {
		return err
	}
	history.From(r.Context()).OnText("name", in.Name)
	out, err := s.opts.Operator.RenameCompany(r.Context(), r.PathValue("id"), in.Name)
	return writeResult(w, "rename company", http.StatusOK, out, err)
}

// company returns the company of ?company=; if the parameter is missing, that of the
// token, or none. An empty or unknown company is a problem: it must not select the pages
// of all. For a company's token any other one is unknown.
func (s *Server) company(r *http.Request) (string, error) {
	q, own := r.URL.Query(), companyOf(r)
	if !q.Has("company") || own != "" && q.Get("company") == own {
		return own, nil
	}
	c, err := s.opts.Operator.FindCompany(r.Context(), q.Get("company"))
	if own != "" && (errors.Is(err, companies.ErrUnknown) || err == nil && c.ID != own) {
		return "", problem(http.StatusNotFound, "this token is not for that company")
	}
	if err != nil {
		p := verbProblem("select by company", err)
		if p.Status == http.StatusNotFound {
			p = problem(http.StatusBadRequest, err.Error())
		}
		return "", p
	}
	return c.ID, nil
}
