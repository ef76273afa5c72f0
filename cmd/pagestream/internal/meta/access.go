package meta

import (
	"context"
	"fmt"
	"io"

	"github.com/pagestream/pagestream/domain"
)

// Access has what a call of Graph for a page needs. It contains a token, which
// fmt, slog and encoding/json do not print.
type Access struct {
	// Page owns the token. It differs from the requested id if that was the
	// Instagram account linked to the page.
	Page domain.PageID
	// Instagram is the account linked to the page; it is empty if there is none.
	Instagram domain.PageID
	// App is the configured app's name, AppID its id at Meta.
	App, AppID string
	Token      string `json:"-"`
}

// Format keeps the token out of logs, for every format verb.
func (a Access) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "access to page "+string(a.Page))
}

// Tokens returns what is needed to call Graph for a page.
type Tokens interface {
	// Access returns the access to a page. [ErrNotConnected] or [ErrTokenDead] is
	// returned if Graph can't be called for the page.
	Access(ctx context.Context, page domain.PageID) (Access, error)
}
