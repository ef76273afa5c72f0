package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/erase"
)

// EraseCommand removes all data of a contact.
type EraseCommand struct {
	Page    PageRef `arg:"" stored:"" help:"Page, by its id or name."`
	Contact string  `arg:"" help:"The person's id, as shown by conversations list; or the id of a lead."`
	Yes     bool    `env:"PAGESTREAM_ERASE_YES" help:"Confirm removing all data of this person; this can't be undone."`
}

// Validate returns an error without --yes.
func (e EraseCommand) Validate() error {
	if !e.Yes {
		return fmt.Errorf("this can't be undone; add --yes to remove all data of contact %s on page %s", e.Contact, e.Page)
	}
	return nil
}

// Run removes the contact's events from the stream and its rows from the read models. It fails if there is nothing
// of the contact, unless the contact was erased before.
func (e EraseCommand) Run(c *CLI) error {
	sum, err := post[erase.Result](c, conversationPath(e.Page, e.Contact)+"/erase", nil, nil)
	if err == nil && sum.Seq == 0 {
		err = c.knownContact(e.Page, e.Contact)
	}
	return c.answer(sum, err, func() {
		switch {
		case sum.Seq == 0:
			fmt.Fprintf(c.Out, "there is nothing to erase for contact %s on page %s\n", e.Contact, e.Page)
			return
		case sum.Events == 0:
			fmt.Fprintf(c.Out, "erased: the stream had lost the events, and the read models have nothing of them any more; "+
				"event %d records it\n", sum.Seq)
		default:
			fmt.Fprintf(c.Out, "erased: %d events are removed from the stream; event %d records it\n", sum.Events, sum.Seq)
		}
		for _, kind := range slices.Sorted(maps.Keys(sum.Kinds)) {
			fmt.Fprintf(c.Out, "  %s: %d\n", kind, sum.Kinds[kind])
		}
		for _, n := range []struct {
			what string
			n    int
		}{{"dead letters", sum.DeadLetters}, {"copies that waited for consumers", sum.Copies}} {
			if n.n > 0 {
				fmt.Fprintf(c.Out, "  %s: %d\n", n.what, n.n)
			}
		}
		fmt.Fprintln(c.Out, "not reached: exports and backups that were made before")
		for what, names := range map[string][]string{"consumers": sum.Consumers, "webhooks": sum.Hooks} {
			if len(names) > 0 {
				fmt.Fprintf(c.Out, "not reached: what these %s have received: %s; they get contact.erased\n",
					what, strings.Join(names, ", "))
			}
		}
	})
}
