package console

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/sse"
	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

// maxRows bounds the rows of the overview; further pages are found by search.
const maxRows = 2000

// row is one page of the overview.
type row struct {
	Page pages.Page
	// Company is the name of the page's company.
	Company   string
	Judgement meta.Judgement
	// Level is the first sort key of the rows.
	Level  level
	Fields fields
	Spark  spark
	// Lag is the delay between the newest event's own time and its storage.
	Lag time.Duration
}

// fields contains the numbers of a page's webhook fields: wanted, subscribed on the
// page, subscribed on the app. KnownPage and KnownApp are set if Graph was asked.
type fields struct {
	Wanted, OnPage, OnApp            int
	KnownPage, KnownApp, Unconfirmed bool
}

func fieldsOf(p pages.Page, sub *subscriptions.Subscription, h meta.Loop) fields {
	if sub == nil {
		return fields{Wanted: len(p.Fields)}
	}
	wanted := len(sub.Wanted)
	return fields{
		Wanted: wanted, OnPage: wanted - len(sub.Missing()), OnApp: wanted - len(h.AppMissing),
		KnownPage: !sub.CheckedAt.IsZero(), KnownApp: !h.Checked.IsZero(), Unconfirmed: sub.State != subscriptions.Confirmed,
	}
}

// filter selects rows of the overview.
type filter struct {
	Query, Show, Company string
}

func (f filter) matches(r row) bool {
	switch f.Show {
	case "alarms":
		if r.Level > levelWarning {
			return false
		}
	case "wrong", "warning":
		if r.Level.String() != f.Show {
			return false
		}
	case "connected", "disconnected", "unknown":
		if string(r.Page.State) != f.Show {
			return false
		}
	}
	if f.Company != "" && r.Page.Company != f.Company {
		return false
	}
	q := strings.ToLower(f.Query)
	return slices.ContainsFunc([]string{r.Page.Name, string(r.Page.ID), r.Page.Company, r.Company, r.Page.Instagram},
		func(s string) bool { return strings.Contains(strings.ToLower(s), q) })
}

// level orders pages: those that need attention come first.
type level int

const (
	levelWrong level = iota
	levelWarning
	levelFine
	levelAway // disconnected
)

// String returns the level's name, which is also its CSS class.
func (l level) String() string { return [...]string{"wrong", "warning", "fine", "away"}[l] }

// levelOf returns the level of a page's judgement.
func levelOf(j meta.Judgement) level {
	switch {
	case j.Severity == meta.Wrong:
		return levelWrong
	case j.Severity == meta.Warning:
		return levelWarning
	case j.State == meta.StateDisconnected:
		return levelAway
	}
	return levelFine
}

// Alarms returns the findings that need attention.
func (r row) Alarms() []meta.Finding {
	return slices.DeleteFunc(slices.Clone(r.Judgement.Findings), func(f meta.Finding) bool {
		return f.Severity == meta.Fine
	})
}

// Fix returns the remedy of the first finding that has one and needs attention, empty if none has.
func (r row) Fix() meta.Remedy {
	for _, f := range r.Alarms() {
		if f.Remedy != "" {
			return f.Remedy
		}
	}
	return ""
}

// overviewView is the view of all pages.
type overviewView struct {
	Filter    filter
	Totals    totals
	Rows      []row
	Companies []string
	// Names are the names of companies by id.
	Names map[string]string
	// All is the number of pages. Cut is the number of matching pages that are not
	// listed.
	All, Cut int
	// Jobs are the actions on pages that run, or ended shortly ago; Busy is set while one runs.
	Jobs []job
	Busy bool
}

// jobShown is how long an ended action on pages is shown in the overview.
const jobShown = time.Minute

// overview serves GET /: every page, those that need attention first.
func (c *Console) overview(w http.ResponseWriter, r *http.Request) error {
	return c.showOverview(w, r, http.StatusOK, "", "")
}

// showOverview responds with the overview, filtered by the parameters in the URL or in a form.
func (c *Console) showOverview(w http.ResponseWriter, r *http.Request, status int, done, failed string) error {
	v := overviewView{Filter: filter{
		Query: strings.TrimSpace(r.FormValue("q")), Show: r.FormValue("show"), Company: r.FormValue("company"),
	}}
	rows, err := c.rows()
	if err != nil {
		return err
	}
	if v.Names, err = c.names(r.Context()); err != nil {
		return err
	}
	v.Totals, v.All = c.totals(rows), len(rows)
	for _, r := range rows {
		if r.Page.Company != "" {
			v.Companies = append(v.Companies, r.Page.Company)
		}
		r.Company = v.Names[r.Page.Company]
		if v.Filter.matches(r) {
			v.Rows = append(v.Rows, r)
		}
	}
	slices.Sort(v.Companies)
	v.Companies = slices.Compact(v.Companies)
	slices.SortStableFunc(v.Rows, func(a, b row) int {
		return cmp.Or(
			cmp.Compare(a.Level, b.Level),
			strings.Compare(strings.ToLower(a.Page.Name), strings.ToLower(b.Page.Name)),
			strings.Compare(string(a.Page.ID), string(b.Page.ID)),
		)
	})
	if v.Cut = len(v.Rows) - maxRows; v.Cut > 0 {
		v.Rows = v.Rows[:maxRows]
	}
	for _, j := range c.jobs.list() {
		if j.OfPages() && (j.Running() || time.Since(j.Ended) < jobShown) {
			v.Jobs, v.Busy = append(v.Jobs, j), v.Busy || j.Running()
		}
	}
	c.showOutcome(w, r, status, "overview", "Pages", v, done, failed)
	return nil
}

// rows returns all pages, in byte order of their ids. The two read models are read
// concurrently, because decoding their rows takes time.
func (c *Console) rows() (out []row, err error) {
	var subs subscriptions.Index
	var reading errgroup.Group
	reading.Go(func() (err error) { subs, err = subscriptions.All(c.opts.Subscriptions); return err })
	type dayOf struct {
		page pages.Page
		day  pages.Day
	}
	var list []dayOf
	err = pages.EachDay(c.opts.Pages, time.Now(), func(p pages.Page, d pages.Day) error {
		list = append(list, dayOf{p, d})
		return nil
	})
	if err := errors.Join(err, reading.Wait()); err != nil {
		return nil, err
	}
	out = make([]row, len(list))
	judge := c.opts.Operator.Judging()
	for i, l := range list {
		sub := subs.Of(l.page.ID, l.page.App)
		out[i] = c.rowOf(l.page, l.day, sub, judge(l.page, sub))
	}
	return out, nil
}

func (c *Console) rowOf(p pages.Page, d pages.Day, sub *subscriptions.Subscription, j meta.Judgement) row {
	r := row{
		Page: p, Judgement: j, Level: levelOf(j),
		Fields: fieldsOf(p, sub, c.opts.Operator.Loop(p.ID)), Spark: sparkOf(d),
	}
	if t := p.Traffic; !t.LastAt.IsZero() && !t.LastTime.IsZero() {
		r.Lag = max(0, t.LastAt.Sub(t.LastTime))
	}
	return r
}

// totals are the totals of the whole installation.
type totals struct {
	Connected, Wrong, Warnings int
	Duplicates                 uint64
	Events, Lag                uint64
	Chart                      rateChart
	// Reasons are the reasons why the server is not ready; empty if it is. AllSilent is
	// set if nearly all pages are silent.
	Reasons   []string
	AllSilent bool
}

func (c *Console) totals(rows []row) (t totals) {
	for _, r := range rows {
		if r.Page.State == pages.Connected {
			t.Connected++
		}
		switch r.Level {
		case levelWrong:
			t.Wrong++
		case levelWarning:
			t.Warnings++
		}
	}
	t.Duplicates, t.Chart = c.opts.Operator.Received().Duplicates(), c.rates.chart()
	t.AllSilent = c.opts.Operator.AllSilent()
	for _, s := range c.opts.Operator.Statuses() {
		t.Events, t.Lag = max(t.Events, s.Head), max(t.Lag, s.Lag)
	}
	for _, err := range c.opts.Operator.NotReady() {
		t.Reasons = append(t.Reasons, err.Error())
	}
	return t
}

// totalsEvery is how often the totals are sent. The rows that they are computed from
// are read less often.
const (
	totalsEvery = time.Second
	rowsEvery   = 5 * time.Second
)

// liveTotals serves GET /live/totals: the totals every second.
func (c *Console) liveTotals(w http.ResponseWriter, r *http.Request) error {
	return c.feed(w, r, func(ctx context.Context, send func(sse.Event) error) error {
		var rows []row
		var lastRead time.Time
		for {
			if time.Since(lastRead) >= rowsEvery {
				var err error
				if rows, err = c.rows(); err != nil {
					return err
				}
				lastRead = time.Now()
			}
			html, err := part("totals", c.totals(rows))
			if err != nil {
				return fmt.Errorf("render totals: %w", err)
			}
			if err := send(sse.Event{Type: "totals", Data: html}); err != nil {
				return err
			}
			if backoff.Sleep(ctx, totalsEvery) != nil {
				return nil
			}
		}
	})
}
