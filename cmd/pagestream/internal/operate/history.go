package operate

import (
	"context"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
)

// ListHistory returns what operators did, the newest first, and the sequence to continue
// before, 0 at the end.
func (o *Operator) ListHistory(ctx context.Context, q history.Query) ([]history.Entry, uint64, error) {
	return o.History.Read(ctx, q)
}
