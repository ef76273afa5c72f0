package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/sync/errgroup"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

const (
	// batchParallel is the maximum number of pages that are processed at once.
	batchParallel = 4
	// batchTries and batchWait limit the tries for one page and each wait for its rate limit.
	batchTries = 5
	batchWait  = 10 * time.Minute
)

// batch runs one operation on many pages. It shows a progress bar while it runs, and then the outcomes.
type batch struct {
	what string
	bar  *bar

	mu       sync.Mutex
	outcomes []meta.Outcome
}

func (c *CLI) batch(what string, total int) *batch {
	b := &batch{what: what}
	if total > 1 {
		b.bar = c.bar(int64(total), progressbar.OptionSetDescription(what), progressbar.OptionShowCount())
	}
	return b
}

func (b *batch) add(o meta.Outcome) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.outcomes = append(b.outcomes, o)
	if b.bar != nil {
		_ = b.bar.Add(1)
	}
}

func (b *batch) done() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.outcomes)
}

// BatchReport is the result of a batch as JSON.
type BatchReport struct {
	Verb      string         `json:"verb"`
	Pages     int            `json:"pages"`
	Confirmed int            `json:"confirmed"`
	Outcomes  []meta.Outcome `json:"outcomes"`
}

// finish removes the bar and prints the outcomes in order of page ids. It returns an
// error if any page is not confirmed.
func (b *batch) finish(c *CLI) error {
	b.bar.end()
	slices.SortFunc(b.outcomes, func(x, y meta.Outcome) int { return strings.Compare(string(x.Page), string(y.Page)) })
	report := BatchReport{Verb: b.what, Pages: len(b.outcomes), Outcomes: append([]meta.Outcome{}, b.outcomes...)}
	for _, o := range b.outcomes {
		if o.Confirmed() {
			report.Confirmed++
		}
	}
	err := c.Print(report, func() {
		for _, o := range b.outcomes {
			printOutcome(c, o)
		}
		fmt.Fprintf(c.Out, "%s: %d of %d pages have all wanted fields\n", b.what, report.Confirmed, report.Pages)
	})
	if err == nil && report.Confirmed < report.Pages {
		err = fmt.Errorf("%d of %d pages lack wanted fields; run: pagestream doctor",
			report.Pages-report.Confirmed, report.Pages)
	}
	return err
}

// printOutcome prints one line for a page that has all wanted fields. Otherwise it prints
// a table of the wanted fields, those of the page and those of the app, side by side.
func printOutcome(c *CLI, o meta.Outcome) {
	w := c.Out
	if o.Confirmed() {
		fmt.Fprintf(w, "page %s %s: confirmed with %d fields\n", o.Page, o.Name, len(o.Actual))
		printAppLacks(c, o)
		return
	}
	fmt.Fprintf(w, "page %s %s: %s\n", o.Page, o.Name, o.State)
	if o.Reason != "" {
		fmt.Fprintf(w, "  %s", o.Reason)
		if o.Code != 0 {
			fmt.Fprintf(w, " (code %d, subcode %d)", o.Code, o.Subcode)
		}
		fmt.Fprintln(w)
	}
	if o.Field != "" {
		fmt.Fprintf(w, "  Graph refused the field %s; nothing was changed\n", o.Field)
	}
	printAppLacks(c, o)
	if len(o.Missing) == 0 && len(o.AppMissing) == 0 {
		return
	}
	writeTable(c, "  WANTED, PAGE, APP", o.Wanted, func(f string) cells {
		app := mark(o.AppFields, f)
		if len(o.AppFields) == 0 && len(o.AppMissing) == 0 { // Graph was not asked
			app = "?"
		}
		return cells{"  " + f, mark(o.Actual, f), app}
	})
}

// printAppLacks prints what the app itself lacks, and the command that sets it.
func printAppLacks(c *CLI, o meta.Outcome) {
	for _, words := range o.AppLacks {
		fmt.Fprintf(c.Out, "  %s\n", words)
	}
}

func mark(list []string, field string) string {
	if slices.Contains(list, field) {
		return "yes"
	}
	return "MISSING"
}

// run runs an operation on every page, at most batchParallel at a time, until the context
// ends. The operation is a path below that of the page.
func (b *batch) run(c *CLI, list []PageRef, operation string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var group errgroup.Group
	group.SetLimit(batchParallel)
	for _, page := range list {
		if c.ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			if o := cl.outcome(c.ctx, page, operation); c.ctx.Err() == nil {
				b.add(o)
			}
			return nil
		})
	}
	_ = group.Wait() // errors are in the outcomes
	return c.ctx.Err()
}

// outcome runs one operation on a page. It waits and tries again when Graph limits the rate.
// It returns an error as an outcome, because one page must not stop the others.
func (c *Client) outcome(ctx context.Context, page PageRef, operation string) meta.Outcome {
	for try := 1; ; try++ {
		var out meta.Outcome
		err := c.Do(ctx, http.MethodPost, pagePath(page)+operation, nil, nil, &out)
		wait := out.Wait()
		var p refusal
		if errors.As(err, &p) {
			wait = time.Duration(p.RetryAfter) * time.Second
		}
		if wait > 0 && wait <= batchWait && try < batchTries {
			if backoff.Sleep(ctx, wait) != nil {
				return out
			}
			continue
		}
		if err != nil {
			return meta.Outcome{
				Page: domain.PageID(page), State: subscriptions.Failed, Reason: err.Error(), Code: p.Code, Subcode: p.Subcode,
			}
		}
		return out
	}
}
