package console

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/audit"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/consumers"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/hooks"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/streams"
)

// maxDeadLetters is how many dead letters are listed; the command line lists all.
const maxDeadLetters = 200

// streamsView is the view of the streams and of everything that reads them.
type streamsView struct {
	Models []projections.Status
	// Jobs are those of the console that run or failed to begin; Past are the rebuilds, verifications and
	// audits on record, whoever began them, the newest first.
	Jobs []job
	Past []history.Entry
	// Busy is set while a job or a rebuild runs; the page then refreshes every second.
	Busy     bool
	Dead     []projections.DeadLetter
	DeadMore bool
	Pages    []deadPage
	// PageNames are the names of the pages of dead letters, where they are known.
	PageNames map[domain.PageID]string
	Consumers []consumers.Consumer
	Hooks     []hooks.Status
	// Trouble is the error if something could not be listed.
	Trouble string
}

// deadPage is the number of a page's dead letters among those that are listed. Name is empty if it is not known.
type deadPage struct {
	Page  domain.PageID
	Name  string
	Count int
}

// streams serves GET /streams: the state of the read models, jobs, dead letters,
// consumers and webhook endpoints.
func (c *Console) streams(w http.ResponseWriter, r *http.Request) error {
	return c.showStreams(w, r, http.StatusOK, "", "")
}

func (c *Console) showStreams(w http.ResponseWriter, r *http.Request, status int, done, failed string) error {
	v := streamsView{Models: c.opts.Operator.Statuses(), Hooks: c.opts.Operator.ListHooks()}
	for _, j := range c.jobs.list() {
		if j.Running() || j.OfPages() {
			v.Jobs = append(v.Jobs, j)
		}
	}
	v.Busy = slices.ContainsFunc(v.Jobs, job.Running) ||
		slices.ContainsFunc(v.Models, func(s projections.Status) bool { return s.Rebuild != nil })
	var err error
	if v.Dead, err = c.opts.Operator.DeadLetters("", projections.DeadLetter{}, maxDeadLetters+1); err != nil {
		v.Trouble = "The dead letters can't be listed: " + err.Error()
	}
	if v.DeadMore = len(v.Dead) > maxDeadLetters; v.DeadMore {
		v.Dead = v.Dead[:maxDeadLetters]
	}
	counts := map[domain.PageID]int{}
	for _, d := range v.Dead {
		counts[d.Page]++
	}
	v.PageNames = map[domain.PageID]string{}
	for page, n := range counts {
		if p, err := pages.Get(c.opts.Pages, page); err == nil { // otherwise its id is shown
			v.PageNames[page] = p.Name
		}
		v.Pages = append(v.Pages, deadPage{page, v.PageNames[page], n})
	}
	slices.SortFunc(v.Pages, func(a, b deadPage) int { return b.Count - a.Count })
	ctx, cancel := context.WithTimeout(r.Context(), modelWait)
	defer cancel()
	if v.Past, err = c.past.get(ctx, c.opts.Operator.ListHistory); err != nil {
		v.Trouble = "The rebuilds and audits can't be listed: " + err.Error()
	}
	if v.Consumers, err = c.opts.Operator.ListConsumers(ctx); err != nil {
		v.Trouble = "The consumers can't be listed: " + err.Error()
	}
	c.showOutcome(w, r, status, "streams", "Streams", v, done, failed)
	return nil
}

// The number of rebuilds, verifications and audits that are listed, and how old the list may be: the page
// is read again more than once a second while a job runs.
const (
	pastSize = 20
	pastAge  = 2 * time.Second
)

// past keeps the list of the rebuilds, verifications and audits for a short time.
type past struct {
	mu   sync.Mutex
	read time.Time
	list []history.Entry
}

func (p *past) get(ctx context.Context, read func(context.Context, history.Query) ([]history.Entry, uint64, error)) (
	[]history.Entry, error,
) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.read) < pastAge {
		return p.list, nil
	}
	list, _, err := read(ctx, history.Query{Verbs: []string{"projections_rebuild", "projections_verify", "audit"}, Limit: pastSize})
	if err == nil {
		p.list, p.read = list, time.Now()
	}
	return p.list, err
}

// drop makes the next get read the list again.
func (p *past) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.read = time.Time{}
}

// Kinds of job.
const (
	jobRebuild = "rebuild"
	jobVerify  = "verify"
	jobAudit   = "audit"
)

func (c *Console) rebuild(w http.ResponseWriter, r *http.Request) error {
	return c.beginModel(w, r, jobRebuild, func(ctx context.Context, name string, progress rebuildProgress) (
		string, bool, error,
	) {
		out, err := c.opts.Operator.Rebuild(ctx, name, progress)
		result, good := operate.RebuiltText(out)
		return result, good, err
	})
}

func (c *Console) verify(w http.ResponseWriter, r *http.Request) error {
	return c.beginModel(w, r, jobVerify, func(ctx context.Context, name string, progress rebuildProgress) (
		string, bool, error,
	) {
		out, err := c.opts.Operator.Verify(ctx, name, progress)
		result, good := operate.VerifiedText(out)
		return result, good, err
	})
}

// rebuildProgress is called with the progress of a rebuild or a replay.
type rebuildProgress = func(projections.Rebuilding)

// beginModel starts a job on the read model in the path.
func (c *Console) beginModel(w http.ResponseWriter, r *http.Request, kind string,
	do func(context.Context, string, rebuildProgress) (string, bool, error),
) error {
	name := r.PathValue("name")
	if !slices.ContainsFunc(c.opts.Operator.Statuses(), func(s projections.Status) bool { return s.Name == name }) {
		return notFound("There is no read model of that name.")
	}
	_, err := c.begin(r, kind, name, "", func(ctx context.Context, progress func(done, total uint64)) (string, bool, error) {
		return do(ctx, name, func(p projections.Rebuilding) { progress(p.Seq, p.Target) })
	})
	return c.begun(w, r, err)
}

func (c *Console) audit(w http.ResponseWriter, r *http.Request) error {
	_, err := c.begin(r, jobAudit, "", "", func(ctx context.Context, progress func(done, total uint64)) (string, bool, error) {
		a, err := c.opts.Operator.Audit(ctx, false, func(p audit.Progress) {
			progress(uint64(p.Pass-1)*p.Target+p.Seq, uint64(p.Passes)*p.Target)
		})
		return operate.AuditText(a), a.OK, err
	})
	return c.begun(w, r, err)
}

// begun redirects to the page that shows the job, or returns the error.
func (c *Console) begun(w http.ResponseWriter, r *http.Request, err error) error {
	if err != nil {
		return err
	}
	http.Redirect(w, r, "/streams", http.StatusSeeOther)
	return nil
}

func (c *Console) cancelJob(w http.ResponseWriter, r *http.Request) error {
	history.From(r.Context()).On("job", r.PostForm.Get("job"))
	if !c.jobs.stop(r.PostForm.Get("job")) {
		return notFound("It has ended already.")
	}
	return c.begun(w, r, nil)
}

// decide redrives or discards dead letters: one, those of a page, or all.
func (c *Console) decide(w http.ResponseWriter, r *http.Request) error {
	f := r.PostForm
	d := operate.Decision{
		Action: streams.DecisionAction(f.Get("action")), Projection: f.Get("projection"), Page: domain.PageID(f.Get("page")),
		All: f.Get("all") != "", Reason: f.Get("reason"),
	}
	if event := f.Get("event"); event != "" {
		var err error
		if d.Event, err = sequence(event); err != nil {
			return err
		}
	}
	d.Record(history.From(r.Context()))
	switch err := d.Check(); {
	case errors.Is(err, operate.ErrDecisionReason) && d.Reason == "":
		return c.showStreams(w, r, http.StatusUnprocessableEntity, "", "Say why: the reason is kept with the decision.")
	case err != nil:
		return badInput("That can't be decided: " + err.Error() + ".")
	}
	extend(w)
	out, err := c.opts.Operator.Decide(r.Context(), d)
	switch {
	case errors.Is(err, projections.ErrNoDeadLetter):
		return c.showStreams(w, r, http.StatusUnprocessableEntity, "", "Not done: there is no such dead letter any more.")
	case err != nil:
		return c.showStreams(w, r, http.StatusUnprocessableEntity, "", "Not done: "+err.Error())
	}
	done := fmt.Sprintf("%d dead letters.", out.Count)
	for _, name := range slices.Sorted(maps.Keys(out.Outcomes)) {
		o := out.Outcomes[name]
		done += fmt.Sprintf(" %s: %d events applied, %d discarded, %d still parked.", name, o.Applied, o.Discarded, o.Parked)
	}
	return c.showStreams(w, r, http.StatusOK, done, "")
}
