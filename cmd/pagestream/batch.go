package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/domain"
)

const (
	// batchParallel bounds the pages that are asked about at once.
	batchParallel = 4
	// batchTries and batchWait bound the waiting for one page's rate limit.
	batchTries = 5
	batchWait  = 10 * time.Minute
)

// batch is one verb on many pages: a bar while it runs, then what came of it.
type batch struct {
	what  string
	total int
	bar   *progressbar.ProgressBar

	mu   sync.Mutex
	outs []api.SubscriptionOutcome
}

func (c *CLI) batch(what string, total int) *batch {
	b := &batch{what: what, total: total}
	if isTerminal(c.Err) && total > 1 {
		b.bar = progressbar.NewOptions(total, progressbar.OptionSetWriter(c.Err), progressbar.OptionClearOnFinish(),
			progressbar.OptionSetDescription(what), progressbar.OptionShowCount())
	}
	return b
}

func (b *batch) add(o api.SubscriptionOutcome) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.outs = append(b.outs, o)
	if b.bar != nil {
		_ = b.bar.Add(1)
	}
}

func (b *batch) done() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.outs)
}

// batchReport is a batch as JSON.
type batchReport struct {
	Verb      string                    `json:"verb"`
	Pages     int                       `json:"pages"`
	Confirmed int                       `json:"confirmed"`
	Outcomes  []api.SubscriptionOutcome `json:"outcomes"`
}

// end prints the outcomes in order of page. It is an error if any is not
// confirmed.
func (b *batch) end(c *CLI) error {
	if b.bar != nil {
		_ = b.bar.Finish()
	}
	slices.SortFunc(b.outs, func(x, y api.SubscriptionOutcome) int { return strings.Compare(string(x.Page), string(y.Page)) })
	report := batchReport{Verb: b.what, Pages: len(b.outs), Outcomes: b.outs}
	if report.Outcomes == nil {
		report.Outcomes = []api.SubscriptionOutcome{}
	}
	for _, o := range b.outs {
		if o.State == "confirmed" {
			report.Confirmed++
		}
	}
	err := c.Print(report, func() {
		for _, o := range b.outs {
			printOutcome(c.Out, o)
		}
		fmt.Fprintf(c.Out, "%s: %d of %d pages have what is wanted\n", b.what, report.Confirmed, report.Pages)
	})
	if err == nil && report.Confirmed < report.Pages {
		err = fmt.Errorf("%d of %d pages are not subscribed as wanted; type: pagestream doctor", report.Pages-report.Confirmed, report.Pages)
	}
	return err
}

// printOutcome is a line for a page that has what is wanted, else a table of
// what is wanted, what the page has and what the app has, side by side.
func printOutcome(w io.Writer, o api.SubscriptionOutcome) {
	if o.State == "confirmed" {
		fmt.Fprintf(w, "page %s %s: confirmed with %d fields\n", o.Page, o.Name, len(o.Actual))
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
		fmt.Fprintf(w, "  refused for the field %s; nothing was changed\n", o.Field)
	}
	if len(o.Missing) == 0 && len(o.AppMissing) == 0 {
		return
	}
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "  WANTED\tPAGE\tAPP")
	for _, f := range o.Wanted {
		app := mark(o.AppFields, f)
		if o.AppFields == nil {
			app = "?"
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\n", f, mark(o.Actual, f), app)
	}
	_ = t.Flush()
}

func mark(list []string, field string) string {
	if slices.Contains(list, field) {
		return "yes"
	}
	return "MISSING"
}

// each4 runs the verb on every page, a few at a time, until the context ends.
func each4(ctx context.Context, list []string, b *batch, do func(page string) api.SubscriptionOutcome) error {
	var group sync.WaitGroup
	free := make(chan struct{}, batchParallel)
	for _, page := range list {
		select {
		case <-ctx.Done():
		case free <- struct{}{}:
			group.Go(func() {
				defer func() { <-free }()
				if o := do(page); ctx.Err() == nil {
					b.add(o)
				}
			})
		}
	}
	group.Wait()
	return ctx.Err()
}

// outcome runs one verb on a page. It waits where Graph asks for it, and says
// what went wrong as an outcome: one page must not stop the others.
func (c *client) outcome(ctx context.Context, page, verb string) api.SubscriptionOutcome {
	path, query, _ := strings.Cut("/api/v1/pages/"+url.PathEscape(page)+"/"+verb, "?")
	values, _ := url.ParseQuery(query) // our own
	for try := 1; ; try++ {
		var out api.SubscriptionOutcome
		err := c.do(ctx, http.MethodPost, path, values, nil, &out)
		wait := time.Duration(out.RetryAfter) * time.Second
		var p api.Problem
		if errors.As(err, &p) {
			wait = time.Duration(p.RetryAfter) * time.Second
		}
		if wait > 0 && wait <= batchWait && try < batchTries {
			select {
			case <-ctx.Done():
				return out
			case <-time.After(wait):
				continue
			}
		}
		if err != nil {
			return api.SubscriptionOutcome{Page: domain.PageID(page), State: "failed", Reason: err.Error(), Code: p.Code, Subcode: p.Subcode}
		}
		return out
	}
}
