package operate

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/seal"
)

// ErrKeyUsed is returned when a key can't be removed because tokens that are sealed with
// it can't be sealed with another one.
var ErrKeyUsed = errors.New("tokens are still sealed with the key, which is kept; connect their pages again")

// Keys are the keys that tokens are sealed with.
type Keys struct {
	// Items are their ids, the newest first: it is the one in use.
	Items []string `json:"items"`
	// Secrets counts the stored secrets by the keys that they use. A secret has the
	// tokens of one connection of a page.
	Secrets map[string]int `json:"secrets"`
}

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

// KeyRetirement is the result of retiring a key, or its progress.
type KeyRetirement struct {
	// Key is the id of the key, Resealed the number of pages whose tokens were sealed
	// with it and are now sealed with the key in use.
	Key      string `json:"key"`
	Resealed int    `json:"resealed"`
	// Failed are the pages whose tokens can't be opened.
	Failed []domain.PageID `json:"failed,omitempty"`
}

// ListKeys lists the keys that tokens are sealed with.
func (o *Operator) ListKeys(ctx context.Context) (Keys, error) {
	ids := o.Keys.KeyIDs()
	slices.Reverse(ids)
	uses, err := o.Secrets.Uses(ctx)
	if err != nil {
		return Keys{}, err
	}
	return Keys{Items: ids, Secrets: uses}, nil
}

// RotateKey creates a key and seals the tokens of every page with it. If that fails for a
// page, its tokens stay sealed with the old key, which stays in the key ring. Progress is
// called after each page.
func (o *Operator) RotateKey(ctx context.Context, progress func(KeyRotation)) (KeyRotation, error) {
	if err := o.Keys.RotateFile(o.KeyFile); err != nil {
		return KeyRotation{}, fmt.Errorf("rotate key: %w", err)
	}
	out := KeyRotation{Key: o.Keys.Primary()}
	err := o.reseal(ctx, func(id string) bool { return id != out.Key }, func(resealed int, failed []domain.PageID) {
		out.Resealed, out.Failed = resealed, failed
		progress(out)
	})
	return out, err
}

// RetireKey seals the tokens that use a key with the key in use, and then removes the key
// from the key ring and its file. It fails with [ErrUnknown], with
// [seal.ErrPrimaryKey] for the key in use, and with [ErrKeyUsed] if tokens can't be sealed
// again; then the key is kept. Progress is called after each page.
func (o *Operator) RetireKey(ctx context.Context, id string, progress func(KeyRetirement)) (KeyRetirement, error) {
	out := KeyRetirement{Key: id}
	switch {
	case !slices.Contains(o.Keys.KeyIDs(), id):
		return out, fmt.Errorf("key %q: %w", id, ErrUnknown)
	case id == o.Keys.Primary():
		return out, fmt.Errorf("key %s: %w", id, seal.ErrPrimaryKey)
	}
	// From here on nobody can store what is sealed with the key.
	if err := o.Secrets.Retire(ctx, id); err != nil {
		return out, err
	}
	err := o.reseal(ctx, func(used string) bool { return used == id }, func(resealed int, failed []domain.PageID) {
		out.Resealed, out.Failed = resealed, failed
		progress(out)
	})
	if err != nil {
		return out, err
	}
	uses, err := o.Secrets.Uses(ctx)
	if err != nil {
		return out, err
	}
	if n := uses[id]; n > 0 {
		return out, fmt.Errorf("key %s of %d secrets: %w: %v", id, n, ErrKeyUsed, out.Failed)
	}
	if err := o.Keys.RemoveFromFile(o.KeyFile, id); err != nil {
		return out, fmt.Errorf("retire key: %w", err)
	}
	return out, nil
}

// reseal seals the secrets with the key in use that use a key for which match returns
// true. It calls done with the result so far after each of them.
func (o *Operator) reseal(
	ctx context.Context, match func(key string) bool, done func(resealed int, failed []domain.PageID),
) error {
	resealed := 0
	var failed []domain.PageID
	return o.Secrets.Reseal(ctx, o.Keys, match, func(page domain.PageID, err error) {
		if err == nil {
			resealed++
		} else {
			o.Logger.Warn("page's tokens can't be sealed with another key", "page", page, "err", err)
			failed = append(failed, page)
		}
		done(resealed, failed)
	})
}
