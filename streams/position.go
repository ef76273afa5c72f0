package streams

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"
)

// Position is how far a reader has read a stream. A reader that stores its position stores both fields: the sequence
// alone is a number, which another stream may have as well.
type Position struct {
	// Seq is the sequence of the last message that was read.
	Seq uint64 `json:"seq"`
	// Trail has the fingerprints of the events there and before.
	Trail Trail `json:"trail,omitempty"`
}

// After returns the position after messages, which are in order. Of malformed ones only the sequence counts. It does not
// modify p.
func (p Position) After(list []Message) Position {
	if len(list) == 0 {
		return p
	}
	events := make([]*Stored, 0, len(list))
	for i := range list {
		if list[i].Malformed == nil {
			events = append(events, &list[i].Stored)
		}
	}
	return Position{list[len(list)-1].Seq, p.Trail.With(events...)}
}

// Upto returns the position at a sequence that is not after p.
func (p Position) Upto(seq uint64) Position { return Position{seq, p.Trail.Upto(seq)} }

// Resume returns the position from which the reader goes on, and the stream's last sequence. It is p, unless the stream
// has other events than those that were read: then it is the last one that is known to be in both, or the stream's end.
func (p Position) Resume(ctx context.Context, js jetstream.JetStream, stream string) (Position, uint64, error) {
	p = p.Upto(p.Seq)
	c, err := p.Trail.Compare(ctx, js, stream)
	switch {
	case err != nil:
		return p, 0, err
	case c.Differs.Seq > 0:
		return p.Upto(c.Common.Seq), c.Last, nil
	case p.Seq > c.Last:
		return p.Upto(c.Last), c.Last, nil
	}
	return p, c.Last, nil
}
