package cli

import (
	"errors"
	"fmt"
	"net/url"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/projections/pages"
)

// PagesForgetCommand removes pages that are not connected from the read models.
type PagesForgetCommand struct {
	Pages []PageRef `arg:"" optional:"" name:"page" help:"Pages, by their ids or names."`
	Tests bool      `env:"PAGESTREAM_PAGES_FORGET_TESTS" help:"Every page that load marked as a test."`
	Yes   bool      `env:"PAGESTREAM_PAGES_FORGET_YES" help:"Confirm that pages which are no tests are not shown any more."`
}

// Validate returns an error if it is not said which pages.
func (f PagesForgetCommand) Validate() error {
	if (len(f.Pages) == 0) != f.Tests {
		return errors.New("which pages? Name them, or give --tests")
	}
	return nil
}

// Run forgets the pages, one after the other, and says of each what is not shown any more and what stays. A page that
// the server refuses does not keep the others; all errors are returned. Pages that are no tests need --yes.
func (f PagesForgetCommand) Run(c *CLI) error {
	var list []operate.Page
	if f.Tests {
		all, err := collect[operate.Page](c, pagesPath, url.Values{}, 0)
		if err != nil {
			return err
		}
		for _, p := range all {
			if p.Test {
				list = append(list, p)
			}
		}
	}
	for _, id := range f.Pages {
		p, err := get[operate.Page](c, pagePath(id), nil)
		if err != nil {
			return err
		}
		if !p.Test && !f.Yes && p.State != pages.Connected { // the server refuses that
			return fmt.Errorf("%w: its conversations, comments and posts would not be shown any more; add --yes to forget page %s %s",
				errUsage, p.ID, inLine(p.Name))
		}
		list = append(list, p)
	}
	done, failed := []operate.Forgotten{}, []error(nil)
	for _, p := range list {
		out, err := post[operate.Forgotten](c, pagePath(p.ID)+"/forget", nil, nil)
		if err == nil {
			done = append(done, out)
			continue
		}
		failed = append(failed, fmt.Errorf("page %s: %w", p.ID, err))
		var r refusal
		if !errors.As(err, &r) { // no answer: the other pages would have none either
			break
		}
	}
	if len(done) > 0 || len(failed) == 0 {
		failed = append(failed, c.printForgotten(done))
	}
	return errors.Join(failed...)
}

func (c *CLI) printForgotten(done []operate.Forgotten) error {
	return c.Print(done, func() {
		for _, d := range done {
			fmt.Fprintf(c.Out, "page %s %s is forgotten: %d conversations with %d messages, %d posts and %d comments are not shown "+
				"any more\n", d.Page, inLine(d.Name), d.Conversations, d.Messages, d.Posts, d.Comments)
		}
		if len(done) == 0 {
			fmt.Fprintln(c.Out, "No page is marked as a test.")
			return
		}
		fmt.Fprintln(c.Out, "What stays: the events in the stream (events list shows them), and what consumers have received. "+
			"A page that receives more is shown again, with that.")
	})
}
