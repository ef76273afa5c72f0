package cli

import (
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
)

// ErasuresCommand groups the commands about erasures.
type ErasuresCommand struct {
	List ErasuresListCommand `cmd:"" help:"List erasures, and which consumers and webhooks have acknowledged them."`
}

// ErasuresListCommand lists erasures.
type ErasuresListCommand struct {
	Page PageRef `arg:"" optional:"" stored:"" help:"Page, by its id or name (default: every page)."`
}

// Run prints a table. A contact is shown by its hash.
func (e ErasuresListCommand) Run(c *CLI) error {
	query := url.Values{}
	if e.Page != "" {
		query.Set("page", string(e.Page))
	}
	list, err := get[api.List[operate.Erasure]](c, "/api/v1/erasures", query)
	if err != nil {
		return err
	}
	items := append([]operate.Erasure{}, list.Items...)
	return c.Print(items, func() {
		if len(items) == 0 {
			fmt.Fprintln(c.Out, "There are no erasures.")
			return
		}
		writeTable(c, "SEQ, PAGE, CONTACT HASH, EVENTS, ACKNOWLEDGED, WAITING", items, func(e operate.Erasure) cells {
			return cells{
				e.Seq, e.Page, e.Contact, e.Events, strings.Join(e.Acknowledged, " "), strings.Join(e.Waiting, " "),
			}
		})
	})
}

// PersonCommand groups the commands about what is held on a person.
type PersonCommand struct {
	Export PersonExportCommand `cmd:"" help:"Write everything that is held on a person to a directory."`
}

// PersonExportCommand writes what is held on a person, for a request of access.
type PersonExportCommand struct {
	Page    PageRef `arg:"" stored:"" help:"Page, by its id or name."`
	Contact string  `arg:"" help:"The person's id, as shown by conversations list; or the id of a lead."`
	Dir     string  `arg:"" help:"A new directory on the server's machine."`
}

// Run writes the directory. It prints numbers and no text.
func (p PersonExportCommand) Run(c *CLI) error {
	dir, err := filepath.Abs(p.Dir)
	if err != nil {
		return err
	}
	path := conversationPath(p.Page, p.Contact) + "/export"
	out, err := follow[operate.PersonProgress, api.Person](c, path, map[string]string{"dir": dir},
		func(p operate.PersonProgress) { c.redraw("%d events", p.Events) })
	return c.answer(out, c.orUnknown(err, p.Page, p.Contact), func() {
		fmt.Fprintf(c.Out, "written to %s: person.json, events.jsonl, and index.html for reading\n", out.Dir)
		for _, kind := range slices.Sorted(maps.Keys(out.Events)) {
			fmt.Fprintf(c.Out, "  %s: %d\n", kind, out.Events[kind])
		}
		if out.DeadLetters > 0 {
			fmt.Fprintf(c.Out, "  dead letters: %d\n", out.DeadLetters)
		}
		if len(out.Receivers) > 0 {
			fmt.Fprintf(c.Out, "these consumers and webhooks may have more: %s\n", strings.Join(out.Receivers, ", "))
		}
	})
}
