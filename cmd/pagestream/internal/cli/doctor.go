package cli

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/doctor"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
)

// DoctorCommand shows what is wrong with the installation and with pages.
type DoctorCommand struct {
	Pages []PageRef `arg:"" optional:"" name:"page" help:"Pages, by their ids or names (default: every connected page)."`
}

// Run prints each finding about the installation and the pages with its evidence and the
// commands that fix it. It fails when anything is wrong.
func (d DoctorCommand) Run(c *CLI) error {
	r, err := get[doctor.Report](c, "/api/v1/doctor", url.Values{"page": pageTexts(d.Pages)})
	err = c.answer(r, err, func() { printReport(c, r) })
	if err == nil && r.Wrong {
		return errors.New("something is wrong; each finding shows how to fix it")
	}
	return err
}

func printReport(c *CLI, r doctor.Report) {
	for _, f := range r.Install {
		printFinding(c, f)
	}
	fine := 0
	for _, p := range r.Pages {
		if p.State == meta.StateHealthy && len(r.Pages) > 1 {
			fine++
			continue
		}
		fmt.Fprintln(c.Out, strings.TrimSpace(fmt.Sprintf("page %s %s", p.Page, p.Name)))
		for _, f := range p.Findings {
			printFinding(c, f)
		}
	}
	if len(r.Pages) > 1 {
		fmt.Fprintf(c.Out, "%d of %d pages are healthy\n", fine, len(r.Pages))
	}
	if len(r.Pages) == 0 && len(r.Install) == 0 {
		fmt.Fprintln(c.Out, "Nothing is wrong, and no page is connected. Run: "+
			"pagestream pages login --company NAME --new-company")
	}
}

func printFinding(c *CLI, f meta.Finding) {
	severity := c.paint(ofSeverity(f.Severity), fmt.Sprintf("%-7s", f.Severity))
	fmt.Fprintf(c.Out, "  %s %s: %s\n", severity, f.Cause, f.Summary)
	if f.Because != "" {
		fmt.Fprintf(c.Out, "          because of %s\n", f.Because)
	}
	for _, e := range f.Evidence {
		fmt.Fprintf(c.Out, "          - %s\n", e)
	}
	for _, do := range f.Do {
		fmt.Fprintf(c.Out, "          > %s\n", do)
	}
}
