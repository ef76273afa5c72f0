package deliveries

import (
	"context"
	"fmt"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// Index looks ids up in the read model, in memory that does not grow with the
// stream. It is safe for concurrent use.
type Index struct {
	// Runner is the runner of [Projection].
	Runner projections.Reader
}

var (
	_ streams.SeenIndex = Index{}
	_ projections.Index = Index{}
)

// Seen returns for each id the sequence of the first event that has it, 0 where
// there is none as far as the read model goes. It is one View, and waits for
// nothing.
func (x Index) Seen(ids []string) ([]uint64, error) {
	seqs, _, err := x.find(ids)
	return seqs, err
}

// First is Seen as of a read model that holds everything up to upto, for which
// it waits.
func (x Index) First(ctx context.Context, ids []string, upto uint64) ([]uint64, error) {
	for {
		if err := x.Runner.WaitFor(ctx, upto); err != nil {
			return nil, err
		}
		seqs, at, err := x.find(ids)
		if err != nil {
			return nil, err
		}
		if at >= upto {
			return seqs, nil
		}
		// Begun anew between the two: wait again.
	}
}

// find looks ids up and says which event the answer is as of.
func (x Index) find(ids []string) (seqs []uint64, at uint64, err error) {
	seqs = make([]uint64, len(ids))
	keys := make([][]byte, len(ids)) // hashed before the transaction, which is kept short
	for i, id := range ids {
		keys[i] = domain.IDKey(id)
	}
	err = x.Runner.View(func(tx *store.Tx) error {
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
