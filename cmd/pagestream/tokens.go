package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/seal"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/pages"
)

// Errors of [tokens].
var (
	errNotConnected = errors.New("page is not connected; type: pagestream pages connect PAGE")
	errTokenDead    = errors.New("page's token is not valid; type: pagestream doctor PAGE")
)

// tokens opens the sealed tokens of connected pages. An Instagram account is
// called with the token of the page that it is linked to.
type tokens struct {
	pages *projections.Runner
	keys  *seal.KeyRing
}

// token returns a page's token, the page that owns it, and its app's name.
func (t tokens) token(_ context.Context, id domain.PageID) (token string, page domain.PageID, app string, err error) {
	page = id
	c, err := pages.Credentials(t.pages, page)
	if errors.Is(err, pages.ErrNoCredentials) {
		if page, err = pages.ByInstagram(t.pages, string(id)); err == nil {
			c, err = pages.Credentials(t.pages, page)
		}
	}
	switch {
	case errors.Is(err, pages.ErrNoCredentials), errors.Is(err, pages.ErrNotFound):
		return "", "", "", fmt.Errorf("page %s: %w", id, errNotConnected)
	case err != nil:
		return "", "", "", fmt.Errorf("read credentials of page %s: %w", id, err)
	case c.Token == pages.TokenInvalid:
		return "", "", "", fmt.Errorf("page %s: %w", page, errTokenDead)
	}
	b, err := t.keys.Open(c.SealedToken, connect.TokenAAD(page))
	if err != nil {
		return "", "", "", fmt.Errorf("open token of page %s: %w", page, err)
	}
	return string(b), page, c.App, nil
}
