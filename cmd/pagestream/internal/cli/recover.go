package cli

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/streams"
)

// RecoverCommand shows what the stream has lost and what is still held of it.
type RecoverCommand struct {
	AcceptLoss bool `xor:"what" help:"Accept the loss, on record: read models may be rebuilt then, without the lost events."`
	NewStream  bool `xor:"what" help:"Make a new, empty stream of events in place of one that is gone, on record. With the embedded server stop pagestream first."`
	Yes        bool `help:"Confirm --new-stream."`
}

// Run lists the lost events and the messages of them that read models still have. It fails if there are any,
// unless they are accepted.
func (r RecoverCommand) Run(c *CLI) error {
	if r.NewStream {
		return r.newStream(c)
	}
	if r.AcceptLoss {
		out, err := post[streams.Losses](c, "/api/v1/losses/accept", nil, nil)
		return c.answer(out, err, func() {
			if out.Events == 0 {
				fmt.Fprintln(c.Out, "nothing is lost")
				return
			}
			fmt.Fprintf(c.Out, "accepted as lost: %s\nread models still have what they have of them, until they are rebuilt: "+
				"pagestream projections rebuild NAME\n", out)
		})
	}
	out, err := get[operate.Loss](c, "/api/v1/losses", nil)
	for more := out.Next; err == nil && more > 0; {
		var part operate.Loss
		part, err = get[operate.Loss](c, "/api/v1/losses", url.Values{"after": {strconv.FormatUint(more, 10)}})
		out.Messages, more = append(out.Messages, part.Messages...), part.Next
	}
	out.Next = 0
	err = c.answer(out, err, func() { printLoss(c, out) })
	if err == nil && out.Events > 0 {
		return errors.New("the stream has lost events; restore a backup, or type: pagestream recover --accept-loss")
	}
	return err
}

// newStream makes a stream in place of one that is gone.
func (r RecoverCommand) newStream(c *CLI) error {
	if !r.Yes {
		return fmt.Errorf("%w: nothing is made yet. The new stream has no events, and read models are built again from it, "+
			"so that they have none either. Restore a backup instead if there is one, or add --yes", errUsage)
	}
	return c.offline(func(o *operate.Offline) error {
		made, err := o.NewStream(c.ctx)
		if err == nil && !made {
			err = errors.New("the stream is there; nothing was made")
		}
		out := map[string]bool{"made": made}
		return c.answer(out, err, func() { fmt.Fprintln(c.Out, "a new, empty stream was made; start pagestream again") })
	})
}

func printLoss(c *CLI, l operate.Loss) {
	if l.Accepted > 0 {
		fmt.Fprintf(c.Out, "%d events were accepted as lost before\n", l.Accepted)
	}
	if l.Events == 0 {
		fmt.Fprintln(c.Out, "nothing is lost")
		return
	}
	fmt.Fprintf(c.Out, "lost: %d of %d events, with the sequences\n", l.Events, l.Last)
	for _, r := range l.Ranges {
		fmt.Fprintf(c.Out, "  %s\n", r)
	}
	fmt.Fprintf(c.Out, "the conversations still have %d messages of them\n", len(l.Messages))
	if len(l.Messages) > 0 {
		writeTable(c, "SEQ, TIME, DIRECTION, MID, TEXT", l.Messages, func(m conversations.Message) cells {
			return cells{m.Seq, localTime(m.Time), m.Direction, dash(inLine(m.MID)), dash(inLine(m.Text))}
		})
	}
}
