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

// KeyRotation is what a rotation did.
type KeyRotation struct {
	Key      string `json:"key"`
	Resealed int    `json:"resealed"`
	// Failed are the pages whose tokens are still under an older key. The old keys
	// stay, and to rotate again or to connect the page again mends it.
	Failed []domain.PageID `json:"failed,omitempty"`
}

// KeyIDs lists the ids of the keys that tokens are sealed with, the one in use
// first.
func (o *Operator) KeyIDs() []string {
	ids := o.Keys.KeyIDs()
	slices.Reverse(ids)
	return ids
}

// RotateKey makes a key and seals every page's tokens with it. What fails stays
// under its old key, which stays in the ring.
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
		if errors.Is(err, connect.ErrChanged) { // once more: somebody was quicker
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
