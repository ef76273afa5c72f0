package operate

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/pages"
)

// KeyRotation is the result of a key rotation, or its progress.
type KeyRotation struct {
	// Key is the id of the new key.
	Key string `json:"key"`
	// Resealed is the number of pages whose tokens are sealed with the new key.
	Resealed int `json:"resealed"`
	// Failed are the pages whose tokens are still sealed with an older key. The old
	// keys are kept. Rotating again, or connecting the page again, solves it.
	Failed []domain.PageID `json:"failed,omitempty"`
}

// KeyIDs lists the ids of the keys that tokens are sealed with, the newest first: it
// is the one in use.
func (o *Operator) KeyIDs() []string {
	ids := o.Keys.KeyIDs()
	slices.Reverse(ids)
	return ids
}

// RotateKey creates a key and seals the tokens of every connected page with it. If
// that fails for a page, its tokens stay sealed with the old key, which stays in the
// key ring. Progress is called after each page.
func (o *Operator) RotateKey(ctx context.Context, progress func(KeyRotation)) (KeyRotation, error) {
	if err := o.Keys.RotateFile(o.KeyFile); err != nil {
		return KeyRotation{}, fmt.Errorf("rotate key: %w", err)
	}
	out := KeyRotation{Key: o.Keys.Primary()}
	list, err := o.Known.Connected(ctx, func(pages.Page) bool { return true })
	if err != nil {
		return out, fmt.Errorf("list pages: %w", err)
	}
	for _, page := range list {
		changed, err := o.Connector.Reseal(ctx, page)
		if errors.Is(err, connect.ErrChanged) { // retry: the page changed concurrently
			changed, err = o.Connector.Reseal(ctx, page)
		}
		switch {
		case err != nil:
			o.Logger.Warn("page's tokens can't be sealed with the new key", "page", page, "err", err)
			out.Failed = append(out.Failed, page)
		case changed:
			out.Resealed++
		}
		progress(out)
	}
	return out, nil
}
