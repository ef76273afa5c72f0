package deliveries

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// Index looks up ids in the read model. Its memory does not grow with the stream. It
// is safe for concurrent use.
type Index struct {
	// Runner is the runner of the [Projection].
	Runner projections.Reader
}

var (
	_ streams.SeenIndex = Index{}
	_ projections.Index = Index{}
)

// Seen returns for each id the sequence of the first event with it, or 0 if the read
// model has none, and the position of the read model. It reads in one View and does not
// wait for any event. While the read model is built again because it was damaged, it
// returns what is known already, and an error that wraps [streams.ErrIncomplete].
func (x Index) Seen(ids []string) (seqs []uint64, upto uint64, err error) {
	seqs, upto, err = find(x.Runner, ids)
	if !errors.Is(err, projections.ErrDamaged) {
		return seqs, upto, err
	}
	err = fmt.Errorf("%w: %w", streams.ErrIncomplete, err)
	if seqs, upto, partErr := find(projections.PartialOf(x.Runner), ids); partErr == nil {
		return seqs, upto, err
	}
	return make([]uint64, len(ids)), 0, err
}

// First is like Seen, but first waits until the read model has applied every event up
// to upto, also one that is built again. It fails if the context ends or the runner stops before that.
func (x Index) First(ctx context.Context, ids []string, upto uint64) ([]uint64, error) {
	for {
		if err := x.Runner.WaitFor(ctx, upto); err != nil {
			return nil, err
		}
		seqs, at, err := find(projections.PartialOf(x.Runner), ids)
		if errors.Is(err, projections.ErrDamaged) { // its file is being checked
			if err := backoff.Sleep(ctx, checkPoll); err != nil {
				return nil, fmt.Errorf("wait for the index: %w", err)
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		if at >= upto {
			return seqs, nil
		}
		// The read model was started again in between: wait again.
	}
}

// Current fails with projections.ErrDiffers if the read model was built from another
// stream than there is now, and with the error of asking the stream. A Runner that can't
// tell is taken for current.
func (x Index) Current(ctx context.Context) error {
	if r, ok := x.Runner.(interface{ Current(context.Context) error }); ok {
		return r.Current(ctx)
	}
	return nil
}

// checkPoll is how often First looks whether a check of the file has ended.
const checkPoll = 100 * time.Millisecond

// find looks up ids and returns the position of the read model with them.
func find(v projections.Viewer, ids []string) (seqs []uint64, at uint64, err error) {
	seqs = make([]uint64, len(ids))
	keys := make([][]byte, len(ids)) // hashed before the transaction, which is kept short
	for i, id := range ids {
		keys[i] = domain.IDKey(id)
	}
	err = v.View(func(tx *store.Tx) error {
		meta, _, err := store.ReadMeta(tx)
		if err != nil {
			return err
		}
		at = meta.Seq
		seen := tx.Bucket(seenBucket)
		for i, key := range keys {
			seqs[i] = store.ToUint64(seen.Get(key))
		}
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("look up %d ids: %w", len(ids), err)
	}
	return seqs, at, nil
}
