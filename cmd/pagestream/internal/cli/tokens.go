package cli

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/tokens"
)

// TokensCommand groups the commands for the tokens of the private listener.
type TokensCommand struct {
	Add    TokensAddCommand    `cmd:"" help:"Make a token: it is printed once and stored as a hash."`
	List   TokensListCommand   `cmd:"" help:"List tokens, and when they expire and were last used."`
	Revoke TokensRevokeCommand `cmd:"" help:"Make a token invalid, and end its sessions and feeds."`
}

const tokensPath = "/api/v1/tokens" //nolint:gosec // a path, no token

// TokensAddCommand makes a token.
type TokensAddCommand struct {
	Name    string `arg:"" help:"Name: 1 to 40 characters of a-z, 0-9, - and _. It is in the history."`
	Scope   string `required:"" placeholder:"SCOPE" env:"PAGESTREAM_TOKENS_ADD_SCOPE" help:"admin, reader, metrics or company."`
	Company string `placeholder:"NAME" env:"PAGESTREAM_TOKENS_ADD_COMPANY" help:"Company, for the scope company."`
	Send    bool   `env:"PAGESTREAM_TOKENS_ADD_SEND" help:"The company may send as its pages too."`
	Expires string `placeholder:"WHEN" env:"PAGESTREAM_TOKENS_ADD_EXPIRES" help:"When it ends: after a time (90d, 12h), or at one (2027-01-01T00:00:00Z). Default: never."`
}

// Run makes the token and prints it.
func (a TokensAddCommand) Run(c *CLI) error {
	in := api.TokenRequest{Name: a.Name, Scope: tokens.Scope(a.Scope), Company: a.Company, Send: a.Send}
	var err error
	if in.Expires, err = parseExpiry(a.Expires, time.Now()); err != nil {
		return err
	}
	out, err := post[tokens.Added](c, tokensPath, nil, in)
	return c.answer(out, err, func() {
		fmt.Fprintln(c.Err, "This is the only time that the token is shown:")
		fmt.Fprintln(c.Out, out.Text)
	})
}

// TokensListCommand lists tokens.
type TokensListCommand struct{}

// Run prints a table of the tokens.
func (TokensListCommand) Run(c *CLI) error {
	list, err := whole[tokens.Token](c, tokensPath)
	return c.answer(list, err, func() {
		writeTable(c, "TOKEN, SCOPE, COMPANY, MAY SEND, EXPIRES, LAST USED", list, func(t tokens.Token) cells {
			send, expires := "-", "never"
			if t.Scope == tokens.Company {
				send = map[bool]string{true: "yes", false: "no"}[t.Send]
			}
			if !t.Expires.IsZero() {
				expires = t.Expires.UTC().Format(time.RFC3339)
			}
			if t.Expired(time.Now()) {
				expires = "expired"
			}
			return cells{t.Name, t.Scope, cmp.Or(printable(t.Company), "-"), send, expires, ago(t.LastUsed)}
		})
	})
}

// TokensRevokeCommand revokes a token.
type TokensRevokeCommand struct {
	Name string `arg:"" help:"Name of the token."`
}

// Run revokes the token.
func (r TokensRevokeCommand) Run(c *CLI) error {
	_, err := do[struct{}](c, http.MethodDelete, tokensPath+"/"+url.PathEscape(r.Name), nil, nil)
	return c.answer(map[string]string{"revoked": r.Name}, err, func() {
		fmt.Fprintf(c.Out, "token %s is revoked\n", r.Name)
	})
}
