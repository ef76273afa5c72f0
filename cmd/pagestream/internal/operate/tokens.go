package operate

import (
	"context"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/tokens"
)

// ListTokens returns the tokens that were made, by name.
func (o *Operator) ListTokens() []tokens.Token { return o.Tokens.List() }

// AddToken makes a token. The result has its text, which is not stored. It also fails with
// [ErrUnknownCompany].
func (o *Operator) AddToken(ctx context.Context, t tokens.Token) (out tokens.Added, err error) {
	if t.Company != "" {
		if t.Company, err = o.knownCompany(ctx, t.Company); err != nil {
			return out, err
		}
	}
	return o.Tokens.Add(ctx, t)
}

// RevokeToken makes a token invalid, and ends its sessions and feeds.
func (o *Operator) RevokeToken(ctx context.Context, name string) error {
	return o.Tokens.Revoke(ctx, name)
}
