package console

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
	"github.com/pagestream/pagestream/streams"
)

// pageView is the view of one page.
type pageView struct {
	Row    row
	Loop   meta.Loop
	Sub    *subscriptions.Subscription
	Fields []field
	Counts conversations.Counts
	// Names are the names of companies by id.
	Names map[string]string
	// Steps are the history of the page's connection, the newest first.
	Steps []step
}

// field is one webhook field of a page.
type field struct {
	Name                string
	Wanted, OnPage      bool
	OnApp               bool
	KnownPage, KnownApp bool
}

// step is one event in the history of a connection.
type step struct {
	Seq   uint64
	At    time.Time
	What  string
	Why   string
	Level level
}

// maxSteps bounds the timeline of a page.
const maxSteps = 60

// page serves GET /pages/{page}.
func (c *Console) page(w http.ResponseWriter, r *http.Request) error {
	return c.showPage(w, r, http.StatusOK, "", "")
}

func (c *Console) showPage(w http.ResponseWriter, r *http.Request, status int, done, failed string) error {
	id := pageOf(r)
	p, err := pages.Get(c.opts.Pages, id)
	if err != nil {
		return err
	}
	v := pageView{Loop: c.opts.Operator.Loop(id)}
	if v.Sub, err = c.opts.Operator.Subscription(p); err != nil {
		return err
	}
	day, err := pages.ReadDay(c.opts.Pages, p, time.Now())
	if err != nil {
		return err
	}
	v.Row = c.rowOf(p, day, v.Sub, c.opts.Operator.Judging()(p, v.Sub))
	v.Fields = fieldList(v.Sub, v.Loop)
	if v.Counts, err = conversations.Count(c.opts.Conversations, id); err != nil {
		return err
	}
	if v.Names, err = c.names(r.Context()); err != nil {
		return err
	}
	if v.Steps, err = c.steps(r.Context(), id, v.Sub); err != nil {
		return err
	}
	c.showOutcome(w, r, status, "page", nameOf(p), v, done, failed)
	return nil
}

func nameOf(p pages.Page) string {
	return cmp.Or(p.Name, "Page "+string(p.ID))
}

func fieldList(sub *subscriptions.Subscription, h meta.Loop) (out []field) {
	if sub == nil {
		return nil
	}
	names := slices.Concat(sub.Wanted, sub.Extra())
	slices.Sort(names)
	for _, name := range names {
		wanted := slices.Contains(sub.Wanted, name)
		out = append(out, field{
			Name: name, Wanted: wanted, OnPage: slices.Contains(sub.Actual, name),
			OnApp: wanted && !slices.Contains(h.AppMissing, name), KnownPage: !sub.CheckedAt.IsZero(),
			KnownApp: wanted && !h.Checked.IsZero(),
		})
	}
	return out
}

// stepTypes are the types of events about a connection that are not in the history of
// the subscriptions model.
var stepTypes = []domain.Type{
	domain.PageConnected, domain.PageDisconnected, domain.PageTokenInvalidated, domain.PageTokenRefreshed,
	domain.PolicyEnforced,
}

// steps merges the history of the subscription with the events about the connection,
// the newest first.
func (c *Console) steps(ctx context.Context, page domain.PageID, sub *subscriptions.Subscription) (
	out []step, err error,
) {
	if sub != nil {
		for _, t := range sub.History {
			s := step{Seq: t.Seq, At: t.At, What: "subscription " + string(t.To), Why: t.Reason, Level: levelFine}
			switch t.To {
			case subscriptions.Confirmed:
				s.Why = fmt.Sprintf("%d fields", len(t.Actual))
			case subscriptions.Failed, subscriptions.Drifted:
				s.Level = levelWrong
			case subscriptions.Removed, subscriptions.None:
				s.Level = levelWarning
			case subscriptions.Requested: // what follows says whether it was granted
			}
			out = append(out, s)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, modelWait)
	defer cancel()
	_, err = streams.Read(ctx, c.opts.JS, streams.ReadOptions{
		Stream: c.opts.Stream, Filters: streams.Filter(page, stepTypes...), Malformed: skipMalformed,
	}, func(e streams.Stored) error {
		what := strings.ReplaceAll(strings.ReplaceAll(string(e.Type), ".", " "), "_", " ")
		s := step{Seq: e.Seq, At: e.At, What: what, Level: levelFine}
		if e.Data.Connection != nil {
			s.Why = e.Data.Connection.Reason
		}
		if e.Type != domain.PageConnected && e.Type != domain.PageTokenRefreshed {
			s.Level = levelWarning
		}
		if out = append(out, s); len(out) > 4*maxSteps {
			out = slices.Delete(out, 0, maxSteps) // only the newest are shown
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the events about the connection: %w", err)
	}
	slices.SortFunc(out, func(a, b step) int { return cmp.Compare(b.Seq, a.Seq) })
	return out[:min(len(out), maxSteps)], nil
}

// verb returns a handler that carries out a verb on a page and shows the page again.
func (c *Console) verb(name string, do func(Operator, context.Context, domain.PageID) (meta.Outcome, error)) serve {
	return func(w http.ResponseWriter, r *http.Request) error {
		page := pageOf(r)
		extend(w)
		o, err := do(c.opts.Operator, r.Context(), page)
		if err != nil {
			return c.showPage(w, r, http.StatusUnprocessableEntity, "", fmt.Sprintf("Could not %s the page: %v", name, err))
		}
		done, failed := describe(o)
		return c.showPage(w, r, http.StatusOK, done, failed)
	}
}

// describe says in sentences what a verb on a page has done, and what is wrong afterwards.
func describe(o meta.Outcome) (done, failed string) {
	switch o.State {
	case subscriptions.Confirmed:
		done = "Confirmed: Graph's own list has every wanted field."
	case subscriptions.Removed:
		done = "Disconnected. Its history stays; connect it again at any time."
	default:
		failed = "The page is " + string(o.State)
		if o.Reason != "" {
			failed += ": " + o.Reason
		}
		failed += "."
		if len(o.Missing) > 0 {
			failed += " Missing: " + strings.Join(o.Missing, ", ") + "."
		}
	}
	if len(o.AppMissing) > 0 {
		failed += " The app itself lacks: " + strings.Join(o.AppMissing, ", ") + "."
	}
	return done, failed
}

// extend moves the write deadline to 2 minutes from now. The server's default is too
// short for requests that wait for Graph.
func extend(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(2 * time.Minute))
}

type findingsView struct {
	Page        domain.PageID
	App         string
	Company     string
	Install, Of []meta.Finding
}

// findings serves GET /pages/{page}/findings: the doctor's findings. It asks Graph.
func (c *Console) findings(w http.ResponseWriter, r *http.Request) error {
	id := pageOf(r)
	p, err := pages.Get(c.opts.Pages, id)
	if err != nil {
		return err
	}
	extend(w)
	report, err := c.opts.Operator.Examine(r.Context(), []domain.PageID{id})
	if err != nil {
		return problem{http.StatusBadGateway, "The page could not be examined: " + err.Error()}
	}
	v := findingsView{Page: id, App: p.App, Company: p.Company, Install: report.Install}
	for _, page := range report.Pages {
		v.Of = append(v.Of, page.Findings...)
	}
	c.show(w, r, http.StatusOK, "findings", "Findings", v)
	return nil
}
