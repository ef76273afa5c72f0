package projections

import (
	"context"
	"time"

	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// HeadEvery sets the interval between two requests for the stream's last sequence.
func (o *RunnerOptions) HeadEvery(d time.Duration) { o.headEvery = d }

// PartOf sets after how many changes a transaction may end in the middle of an event.
func (o *RunnerOptions) PartOf(changes int) { o.part = changes }

// Applying returns a function that applies batches to a file as a runner does.
func Applying(p Projection, s *store.Store) func(...*streams.Replayed) error {
	a := &applier{projection: p, decided: &decided{}}
	return func(batch ...*streams.Replayed) error {
		_, _, err := a.applyNext(context.Background(), s, batch, make([]bool, len(batch)))
		return err
	}
}
