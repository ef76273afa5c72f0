package operate

import (
	"context"
	"errors"
	"fmt"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/companies"
	"github.com/pagestream/pagestream/internal/nearest"
)

// ListCompanies lists the known companies, in order of their names.
func (o *Operator) ListCompanies(ctx context.Context) ([]companies.Company, error) {
	return o.Companies.List(ctx)
}

// FindCompany returns the company with the name or id, as of the stream's head. It
// fails with [companies.ErrUnknown].
func (o *Operator) FindCompany(ctx context.Context, name string) (companies.Company, error) {
	head, err := o.Known.Head(ctx)
	if err != nil {
		return companies.Company{}, err
	}
	o.Known.Settle(ctx, head)
	return o.Companies.Find(ctx, name)
}

// AddCompany makes a company known that has no page yet.
func (o *Operator) AddCompany(ctx context.Context, name string) (companies.Company, error) {
	return o.Companies.Add(ctx, name)
}

// RenameCompany gives a company another name. Its id, which events have, stays.
func (o *Operator) RenameCompany(ctx context.Context, company, name string) (companies.Company, error) {
	return o.Companies.Rename(ctx, company, name)
}

// knownCompany returns the id of a company. It fails with [ErrUnknownCompany], which names
// the nearest one.
func (o *Operator) knownCompany(ctx context.Context, name string) (string, error) {
	c, err := o.FindCompany(ctx, name)
	if !errors.Is(err, companies.ErrUnknown) {
		return c.ID, err
	}
	list, err := o.Companies.List(ctx)
	if err != nil {
		return "", err
	}
	var names []string
	for _, c := range list {
		names = append(names, c.Name, c.ID)
	}
	if similar := nearest.Name(name, names); similar != "" {
		return "", fmt.Errorf("%w %q; did you mean %q? Type: pagestream companies list", ErrUnknownCompany, name, similar)
	}
	return "", fmt.Errorf("%w %q; type: pagestream companies list", ErrUnknownCompany, name)
}

// companyID returns the id of the company that an operator connects pages for. A name
// that is not known is a new company's. No name means no company.
func (o *Operator) companyID(ctx context.Context, name string) (string, error) {
	if name == "" {
		return "", nil
	}
	c, err := o.FindCompany(ctx, name)
	if errors.Is(err, companies.ErrUnknown) {
		return companies.Clean(name)
	}
	return c.ID, err
}
