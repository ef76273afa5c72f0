package projections

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/streams"
)

// Walked is one sequence of the stream as a projection sees it.
type Walked struct {
	// Replayed is the event, the event of its tombstone if it was erased, or a
	// malformed message. If the sequence is missing, only Seq is set.
	streams.Replayed
	// Erased reports whether the event was erased and has a tombstone.
	Erased bool
	// Missing reports whether the stream has neither a message nor a tombstone with
	// this sequence.
	Missing bool
}

// Walk calls f once for every sequence from 1 to to, in order, with the event that
// a projection is given for it. A sequence that is neither in the stream nor
// recorded as erased is Missing. Walk stops at the first error of f and returns it
// unchanged.
func Walk(ctx context.Context, js jetstream.JetStream, stream string, to uint64, f func(Walked) error) error {
	erased := &tombstones{js: js, stream: stream}
	at := uint64(0)
	fill := func(before uint64) error {
		if before <= at+1 {
			return nil
		}
		list, err := erased.between(ctx, at, before)
		if err != nil {
			return err
		}
		for seq := at + 1; seq < before; seq++ {
			w := Walked{Replayed: streams.Replayed{Stored: streams.Stored{Seq: seq}}}
			if len(list) > 0 && list[0].Seq == seq {
				w.Stored, w.Erased, list = list[0], true, list[1:]
			} else {
				w.Missing = true
			}
			if err := f(w); err != nil {
				return err
			}
		}
		return nil
	}
	_, err := streams.Replay(ctx, js, streams.ReadOptions{Stream: stream, To: to}, func(batch []streams.Replayed) error {
		for _, e := range batch {
			if err := fill(e.Seq); err != nil {
				return err
			}
			if err := f(Walked{Replayed: e}); err != nil {
				return err
			}
			at = e.Seq
		}
		return nil
	})
	if err != nil {
		return err
	}
	return fill(to + 1)
}
