package operate

import (
	"context"
	"fmt"

	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/streams"
)

// maxHeld is how many messages one answer has.
const maxHeld = 500

// Loss is what the stream has lost, and what read models still have of it.
type Loss struct {
	streams.Losses
	// Messages are the messages of lost events that the read model of conversations has, in order of their
	// sequences, at most 500. Next is the sequence after which there may be more, 0 at the end.
	Messages []conversations.Message `json:"messages"`
	Next     uint64                  `json:"next,omitempty"`
}

// Losses checks what the stream has lost, and returns it with what is held of it after a sequence. For the first
// part, after 0, all files of the stream are read.
func (o *Operator) Losses(ctx context.Context, after uint64) (Loss, error) {
	check := o.Lost.Check
	if after == 0 {
		check = o.Lost.Examine
	}
	found, err := check(ctx)
	if err != nil {
		return Loss{}, err
	}
	out := Loss{Losses: found, Messages: []conversations.Message{}}
	for _, r := range found.Ranges {
		if r.To <= after {
			continue
		}
		from := max(r.From, streams.Following(after))
		list, err := conversations.Between(o.Models.Conversations(), from, r.To, maxHeld-len(out.Messages))
		if err != nil {
			return Loss{}, fmt.Errorf("read messages of lost events: %w", err)
		}
		if out.Messages = append(out.Messages, list...); len(out.Messages) == maxHeld {
			out.Next = out.Messages[maxHeld-1].Seq
			break
		}
	}
	return out, nil
}

// AcceptLoss records that what is lost now is lost for good, and by whom. Read models may be rebuilt then,
// without the lost events. It returns what was accepted; with nothing lost it changes nothing.
func (o *Operator) AcceptLoss(ctx context.Context, by string) (streams.Losses, error) {
	return o.Lost.Accept(ctx, by)
}
