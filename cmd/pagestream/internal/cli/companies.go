package cli

import (
	"fmt"
	"net/url"
	"slices"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/companies"
)

// CompaniesCommand groups the commands for the companies that pages belong to.
type CompaniesCommand struct {
	List   CompaniesListCommand   `cmd:"" help:"List companies and their connected pages."`
	Add    CompaniesAddCommand    `cmd:"" help:"Make a company known before it has a page."`
	Rename CompaniesRenameCommand `cmd:"" help:"Give a company another name; its events keep the first one."`
}

const companiesPath = "/api/v1/companies"

// CompaniesListCommand lists companies.
type CompaniesListCommand struct{}

// Run prints a table of the companies.
func (CompaniesListCommand) Run(c *CLI) error {
	out, err := get[api.List[companies.Company]](c, companiesPath, nil)
	list := out.Items
	return c.answer(list, err, func() {
		writeTable(c, "COMPANY, NAME IN EVENTS, PAGES", list, func(one companies.Company) cells {
			return cells{one.Name, one.ID, len(one.Pages)}
		})
	})
}

// companyID returns the id of the company with the name, or the name itself if it is not known.
func (c *CLI) companyID(name string) (string, error) {
	out, err := get[api.List[companies.Company]](c, companiesPath, nil)
	list := out.Items
	for _, one := range list {
		if one.Name == name && !slices.ContainsFunc(list, func(o companies.Company) bool { return o.ID == name }) {
			return one.ID, err
		}
	}
	return name, err
}

// CompaniesAddCommand adds a company.
type CompaniesAddCommand struct {
	Name string `arg:"" help:"Name of the company."`
}

// Run adds the company.
func (a CompaniesAddCommand) Run(c *CLI) error {
	out, err := post[companies.Company](c, companiesPath, nil, api.CompanyRequest{Name: a.Name})
	return c.answer(out, err, func() { fmt.Fprintf(c.Out, "company %s is known\n", out.Name) })
}

// CompaniesRenameCommand renames a company.
type CompaniesRenameCommand struct {
	Company string `arg:"" help:"Company, by its name or its name in events."`
	Name    string `arg:"" help:"New name."`
}

// Run renames the company.
func (r CompaniesRenameCommand) Run(c *CLI) error {
	path := companiesPath + "/" + url.PathEscape(r.Company) + "/rename"
	out, err := post[companies.Company](c, path, nil, api.CompanyRequest{Name: r.Name})
	return c.answer(out, err, func() {
		fmt.Fprintf(c.Out, "company %s is %s now; its name in events stays\n", out.ID, out.Name)
	})
}
