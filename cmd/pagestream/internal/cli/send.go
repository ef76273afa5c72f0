package cli

import (
	"encoding/json"
	"fmt"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/outbound"
	"github.com/pagestream/pagestream/domain"
)

// SendCommand sends one message as a page.
type SendCommand struct {
	Page    PageRef `arg:"" help:"Page, by its id or name."`
	Contact string  `arg:"" help:"The person's id, as shown by conversations list."`
	Text    string  `placeholder:"TEXT" xor:"what" env:"PAGESTREAM_SEND_TEXT" help:"Text of the message."`
	Message string  `placeholder:"JSON" xor:"what" env:"PAGESTREAM_SEND_MESSAGE" help:"Message object of Meta's Send API."`
	Action  string  `placeholder:"ACTION" xor:"what" env:"PAGESTREAM_SEND_ACTION" help:"mark_seen, typing_on or typing_off instead of a message."`
	Type    string  `placeholder:"TYPE" default:"RESPONSE" env:"PAGESTREAM_SEND_TYPE" help:"RESPONSE, UPDATE or MESSAGE_TAG."`
	Tag     string  `placeholder:"TAG" env:"PAGESTREAM_SEND_TAG" help:"Tag for MESSAGE_TAG, for example HUMAN_AGENT."`
}

// Run sends the message or action. It prints the message's id, which is also the id of its echo.
func (s SendCommand) Run(c *CLI) error {
	in := outbound.Request{
		Contact: domain.ContactID(s.Contact), MessagingType: s.Type, Tag: s.Tag, SenderAction: s.Action,
	}
	switch {
	case s.Text != "":
		b, err := json.Marshal(map[string]string{"text": s.Text})
		if err != nil {
			return fmt.Errorf("encode message: %w", err)
		}
		in.Message = b
	case s.Message != "":
		if !json.Valid([]byte(s.Message)) {
			return fmt.Errorf("%w: --message is not JSON; for a plain text give --text", errUsage)
		}
		in.Message = json.RawMessage(s.Message)
	case s.Action == "":
		return fmt.Errorf("%w: nothing to send; give --text, --message or --action", errUsage)
	default:
		in.MessagingType = ""
	}
	out, err := post[outbound.Sent](c, pagePath(s.Page)+"/messages", nil, in)
	return c.answer(out, c.orUnknown(err, s.Page, s.Contact), func() {
		if out.MID == "" {
			fmt.Fprintln(c.Out, "done")
		} else {
			fmt.Fprintf(c.Out, "sent %s, event %d\n", out.MID, out.Seq)
		}
		if out.Warning != "" {
			fmt.Fprintln(c.Err, out.Warning)
		}
	})
}
