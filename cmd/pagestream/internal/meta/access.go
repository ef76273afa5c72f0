package meta

import (
	"context"
	"fmt"
	"io"

	"github.com/pagestream/pagestream/domain"
)

// Access is what Graph is called with for a page. It holds a token, which neither
// fmt nor slog nor encoding/json prints.
type Access struct {
	// Page owns the token. It is another than was asked for where that is the
	// Instagram account linked to it.
	Page domain.PageID
	// Instagram is the account linked to the page, empty if there is none.
	Instagram domain.PageID
	// App is the configured app's name, AppID its id at Meta.
	App, AppID string
	Token      string `json:"-"`
}

// Format keeps the token out of logs, whatever the verb.
func (a Access) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "access to page "+string(a.Page))
}

// Tokens gives access to pages.
type Tokens interface {
	// Access fails with [ErrNotConnected] or [ErrTokenDead] where there is nothing
	// to call Graph with.
	Access(ctx context.Context, page domain.PageID) (Access, error)
}
