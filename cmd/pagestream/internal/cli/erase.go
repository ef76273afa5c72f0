package cli

import (
	"fmt"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/erase"
)

// EraseCommand removes all data of a contact.
type EraseCommand struct {
	Page    string `arg:"" help:"Page id."`
	Contact string `arg:"" help:"The person's id, as shown by conversations list."`
	Yes     bool   `env:"PAGESTREAM_ERASE_YES" help:"Confirm removing all data of this person; this can't be undone."`
}

// Run removes the contact's events from the stream and its rows from the read models. It
// requires --yes.
func (e EraseCommand) Run(c *CLI) error {
	if !e.Yes {
		return fmt.Errorf("%w: this can't be undone; add --yes to remove all data of contact %s on page %s",
			errUsage, e.Contact, e.Page)
	}
	sum, err := post[erase.Result](c, conversationPath(e.Page, e.Contact)+"/erase", nil, nil)
	return c.answer(sum, err, func() {
		if sum.Events == 0 {
			fmt.Fprintf(c.Out, "there is nothing to erase for contact %s on page %s\n", e.Contact, e.Page)
			return
		}
		fmt.Fprintf(c.Out, "erased: %d events are removed from the stream; event %d records it\n", sum.Events, sum.Seq)
	})
}
