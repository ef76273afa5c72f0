package projections

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/streams"
)

// Walked is one sequence of the stream as a projection comes to it.
type Walked struct {
	// Replayed is the event, what stays of it if it was erased, or a message that
	// is none. Only Seq is set where the sequence is missing.
	streams.Replayed
	Erased  bool
	Missing bool
}

// Walk calls f with every sequence from 1 to to, in order, each once: with what a
// projection is given there. A sequence that is neither in the stream nor on
// record as erased is Missing. It returns an error of f as it is.
func Walk(ctx context.Context, js jetstream.JetStream, stream string, to uint64, f func(Walked) error) error {
	gone := &tombstones{js: js, stream: stream}
	at := uint64(0)
	fill := func(before uint64) error {
		if before <= at+1 {
			return nil
		}
		list, err := gone.between(ctx, at, before)
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
