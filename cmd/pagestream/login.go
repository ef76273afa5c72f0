package main

import (
	"context"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/login"
	"github.com/pagestream/pagestream/domain"
)

// loginFlow is the connector as the browser's login asks for it.
type loginFlow struct{ c *connect.Connector }

func (f loginFlow) LoginURL(app, redirectURI, state string) (string, error) {
	return f.c.LoginURL(app, redirectURI, state)
}

func (f loginFlow) Consent(ctx context.Context, app, redirectURI, code string) (login.Consent, error) {
	g, err := f.c.GrantCode(ctx, app, redirectURI, code)
	if err != nil {
		return login.Consent{}, err
	}
	out := login.Consent{Admin: g.Admin, MissingScopes: g.MissingScopes, Handle: g}
	for _, p := range g.Pages {
		out.Pages = append(out.Pages, login.Page{
			ID: string(p.Page), Name: p.Name, Standing: string(p.Standing), Company: p.Company, Lacking: p.Lacking,
		})
	}
	for _, p := range g.Gone {
		out.Gone = append(out.Gone, login.Gone{ID: string(p.Page), Name: p.Name})
	}
	return out, nil
}

func (f loginFlow) Connect(ctx context.Context, c login.Consent, chosen []string, company string, fields []string, done func(login.Result)) error {
	choice := connect.Choice{Company: company, Fields: fields}
	for _, p := range chosen {
		choice.Pages = append(choice.Pages, domain.PageID(p))
	}
	g, _ := c.Handle.(connect.Grant) // Consent put it there
	_, err := f.c.Apply(ctx, g, choice, func(o connect.Outcome) {
		done(login.Result{ID: string(o.Page), Name: o.Name, State: o.State, Reason: o.Reason, Field: o.Field, Missing: o.Missing})
	})
	return err
}
