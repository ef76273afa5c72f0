package cli

import (
	"fmt"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
)

// EventsAdoptCommand makes events that another app delivered for a page the page's own.
type EventsAdoptCommand struct {
	Page PageRef  `arg:"" help:"Page, by its id or name."`
	Seqs []uint64 `arg:"" optional:"" name:"seq" help:"Sequences of events of type foreign.received."`
	All  bool     `env:"PAGESTREAM_EVENTS_ADOPT_ALL" help:"Adopt every event of that type that the page has."`
}

// Validate returns an error if it is not said which events.
func (a EventsAdoptCommand) Validate() error {
	if a.All == (len(a.Seqs) > 0) {
		return fmt.Errorf("name the sequences, or say --all; pagestream events list --type foreign.received "+
			"--page %s lists them", a.Page)
	}
	return nil
}

// Run adopts the events and prints their number.
func (a EventsAdoptCommand) Run(c *CLI) error {
	progress := func(d operate.Adopted) { c.redraw("%d events adopted", d.Adopted) }
	path := pagePath(a.Page) + "/adopt"
	out, err := follow[operate.Adopted, operate.Adopted](c, path, operate.Adoption{Seqs: a.Seqs, All: a.All}, progress)
	return c.answer(out, err, func() {
		fmt.Fprintf(c.Out, "%d events adopted; %d were the page's own already\n", out.Adopted, out.Already)
	})
}
