package console

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
	"github.com/pagestream/pagestream/streams"
)

// Bounds of an action on several pages.
const (
	maxBatch      = 500
	batchParallel = 4
	// pageLimit bounds the action on one page.
	pageLimit = time.Minute
	// batchWait is how long the answer waits for the end of the action.
	batchWait = 2 * time.Second
	// batchFailures is how many of the pages that failed are named in the result.
	batchFailures = 5
)

// onPages serves POST /pages: it carries out a remedy on the pages that are selected. It is a job
// in the background, for whose end the answer waits shortly; a login link is made at once.
func (c *Console) onPages(w http.ResponseWriter, r *http.Request) error {
	remedy, ids := meta.Remedy(r.PostForm.Get("do")), r.PostForm["page"]
	action := history.From(r.Context())
	action.On("action", string(remedy))
	action.On("count", strconv.Itoa(len(ids)))
	switch {
	case len(ids) == 0:
		return c.showOverview(w, r, http.StatusUnprocessableEntity, "", "Select at least one page.")
	case len(ids) > maxBatch:
		failed := fmt.Sprintf("Select at most %d pages at once.", maxBatch)
		return c.showOverview(w, r, http.StatusUnprocessableEntity, "", failed)
	}
	list := make([]pages.Page, len(ids))
	for i, id := range ids {
		var err error
		if list[i], err = pages.Get(c.opts.Pages, domain.PageID(id)); err != nil {
			return err
		}
	}
	action.OnPages(idsOf(list))
	do, known := map[meta.Remedy]func(context.Context, domain.PageID) (string, error){
		meta.RemedyCheck:       outcomeOf(c.opts.Operator.Check),
		meta.RemedyResubscribe: outcomeOf(c.opts.Operator.Resubscribe),
		meta.RemedyRedrive:     c.redrivePage,
	}[remedy]
	switch {
	case remedy == meta.RemedyConnect:
		return c.reconnect(w, r, list)
	case !known:
		return badInput("There is no such action on pages.")
	}
	extend(w)
	j, err := c.beginBatch(r, remedy, list, do)
	if err != nil {
		return err
	}
	wait := time.NewTimer(batchWait)
	defer wait.Stop()
	select {
	case <-j.done:
	case <-wait.C:
		return c.showOverview(w, r, http.StatusOK, fmt.Sprintf("The %s of %s goes on.", remedy, j.Of), "")
	case <-r.Context().Done():
		return r.Context().Err()
	}
	if j.OK { // it no longer changes
		return c.showOverview(w, r, http.StatusOK, j.Result, "")
	}
	return c.showOverview(w, r, http.StatusOK, "", j.Result)
}

// beginBatch starts the job that calls do for each page of a selection, which is not empty.
func (c *Console) beginBatch(r *http.Request, remedy meta.Remedy, list []pages.Page,
	do func(context.Context, domain.PageID) (string, error),
) (*job, error) {
	of := nameOf(list[0])
	if len(list) > 1 {
		of = fmt.Sprintf("%d pages, the first of them %s", len(list), of)
	}
	job := func(ctx context.Context, progress func(done, total uint64)) (string, bool, error) {
		return onEach(ctx, list, do, progress)
	}
	return c.begin(r, string(remedy), of, keyOf(list), job)
}

// idsOf returns the ids of the pages, each once and sorted.
func idsOf(list []pages.Page) []domain.PageID {
	ids := make([]domain.PageID, len(list))
	for i, p := range list {
		ids[i] = p.ID
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// keyOf returns a short text that is the same for the same pages only, in any order.
func keyOf(list []pages.Page) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", idsOf(list)))
	return hex.EncodeToString(sum[:8])
}

// onEach calls do for each page, some at once, and returns the result in a sentence and whether all
// went well. A page that failed does not stop the others. It returns no error when ctx ends, since the
// sentence says what was done until then.
func onEach(ctx context.Context, list []pages.Page, do func(context.Context, domain.PageID) (string, error),
	progress func(done, total uint64),
) (string, bool, error) {
	var mu sync.Mutex
	var failures []string
	done, failed := uint64(0), 0
	var group errgroup.Group
	group.SetLimit(batchParallel)
	for _, p := range list {
		group.Go(func() error {
			if ctx.Err() != nil {
				return nil
			}
			one, cancel := context.WithTimeout(ctx, pageLimit)
			defer cancel()
			why, err := do(one, p.ID)
			mu.Lock()
			defer mu.Unlock()
			if why != "" || err != nil {
				if err != nil {
					why = err.Error()
				}
				if failed++; failed <= batchFailures {
					failures = append(failures, nameOf(p)+": "+why+".")
				}
			}
			done++
			progress(done, uint64(len(list)))
			return nil
		})
	}
	_ = group.Wait()
	result := fmt.Sprintf("%d of %d pages done, %d of them failed.", done, len(list), failed)
	if failed == 0 && done == uint64(len(list)) {
		if len(list) == 1 {
			return "Done: " + nameOf(list[0]) + ".", true, nil
		}
		return fmt.Sprintf("Done: %d pages.", len(list)), true, nil
	}
	if failed > len(failures) {
		failures = append(failures, "…")
	}
	return strings.Join(append([]string{result}, failures...), " "), false, nil
}

// outcomeOf returns a function that carries out a verb on a page and returns why the page is not
// confirmed afterwards, empty if it is.
func outcomeOf(do func(context.Context, domain.PageID) (meta.Outcome, error)) func(
	context.Context, domain.PageID) (string, error) {
	return func(ctx context.Context, page domain.PageID) (string, error) {
		o, err := do(ctx, page)
		if err != nil || o.State == subscriptions.Confirmed && len(o.AppMissing) == 0 {
			return "", err
		}
		_, failed := describe(o)
		return strings.TrimSuffix(failed, "."), nil
	}
}

// redrivePage redrives the dead letters of a page, and returns what is still parked.
func (c *Console) redrivePage(ctx context.Context, page domain.PageID) (string, error) {
	out, err := c.opts.Operator.Decide(ctx, operate.Decision{Action: streams.Redrive, Page: page})
	if errors.Is(err, projections.ErrNoDeadLetter) {
		return "", nil
	}
	left := uint64(0)
	for _, o := range out.Outcomes {
		left += o.Parked
	}
	if left > 0 {
		return fmt.Sprintf("%d events are still parked", left), err
	}
	return "", err
}

// reconnect shows a link for a login, which gives all the pages a new token. They must be of one
// company and one app.
func (c *Console) reconnect(w http.ResponseWriter, r *http.Request, list []pages.Page) error {
	first := list[0]
	for _, p := range list {
		if p.Company != first.Company || p.App != first.App {
			const failed = "A login is for one company and one app: select pages of one."
			return c.showOverview(w, r, http.StatusUnprocessableEntity, "", failed)
		}
	}
	r.PostForm.Set("app", first.App)
	r.PostForm.Set("company", first.Company)
	return c.connect(w, r)
}
