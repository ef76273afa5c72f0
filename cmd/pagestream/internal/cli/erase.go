package cli

import (
	"fmt"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/erase"
)

// EraseCommand removes a contact.
type EraseCommand struct {
	Page    string `arg:"" help:"Page id."`
	Contact string `arg:"" help:"The person's id, as conversations list shows it."`
	Yes     bool   `env:"PAGESTREAM_ERASE_YES" help:"Yes, remove everything of this person: it can't be undone."`
}

// Run removes the contact's events from the stream and its rows from the read
// models.
func (e EraseCommand) Run(c *CLI) error {
	if !e.Yes {
		return fmt.Errorf("%w: this can't be undone; add --yes to remove everything of contact %s on page %s", errUsage, e.Contact, e.Page)
	}
	sum, err := post[erase.Result](c, conversationPath(e.Page, e.Contact)+"/erase", nil, nil)
	return c.answer(sum, err, func() {
		if sum.Events == 0 {
			fmt.Fprintf(c.Out, "there is nothing of contact %s on page %s\n", e.Contact, e.Page)
			return
		}
		fmt.Fprintf(c.Out, "erased: %d events are gone from the stream; event %d is the record\n", sum.Events, sum.Seq)
	})
}
