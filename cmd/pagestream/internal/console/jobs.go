package console

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
)

// jobs are the background jobs of this console, the latest for each kind and read
// model.
type jobs struct {
	mu sync.Mutex
	of map[string]*job
}

// job is one background job. [jobs.list] returns consistent copies.
type job struct {
	// Kind is "rebuild", "verify" or "audit" and Of the name of the read model; or Kind is a
	// [meta.Remedy], and Of names the pages.
	Kind, Of string
	// ID tells jobs of the same Kind and Of apart; empty if there is one of them only.
	ID             string
	Started, Ended time.Time
	Done, Total    uint64
	// Rate is in events per second; ETA is the remaining time at that rate.
	Rate float64
	ETA  time.Duration
	// Result describes the result in a sentence; OK is set if it is good.
	Result string
	OK     bool

	cancel context.CancelFunc
	done   chan struct{} // closed at the end, after which the job does not change
}

// OfPages reports whether it is an action on pages.
func (j job) OfPages() bool { return j.Kind != jobRebuild && j.Kind != jobVerify && j.Kind != jobAudit }

// Key identifies the job.
func (j job) Key() string { return j.Kind + " " + cmp.Or(j.ID, j.Of) }

// Running reports whether the job has not ended yet.
func (j job) Running() bool { return j.Ended.IsZero() }

// Percent returns the progress, from 0 to 100.
func (j job) Percent() int {
	if j.Total == 0 {
		return 0
	}
	return int(100 * min(j.Done, j.Total) / j.Total)
}

const (
	// maxJob bounds how long a job may take.
	maxJob = 6 * time.Hour
	// maxJobs is how many jobs are kept; the oldest that has ended is dropped.
	maxJobs = 32
	// statusCanceled is the status on record of a job that was given up.
	statusCanceled = 499
)

// begin starts a job in the background and returns it. It is on record in place of the request r, when
// it has ended. It fails if a job with the same [job.Key] is running. do returns the result in a sentence,
// and whether it is good. An error of do replaces the sentence: a job that was given up and has changed
// something returns none.
func (c *Console) begin(r *http.Request, kind, of, id string,
	do func(ctx context.Context, progress func(done, total uint64)) (string, bool, error),
) (*job, error) {
	ctx, cancel := context.WithTimeout(c.ctx, maxJob)
	j := &job{Kind: kind, Of: of, ID: id, Started: time.Now(), cancel: cancel, done: make(chan struct{})}
	c.jobs.mu.Lock()
	defer c.jobs.mu.Unlock()
	if before := c.jobs.of[j.Key()]; before != nil && before.Running() || ctx.Err() != nil {
		cancel()
		return nil, problem{http.StatusConflict, fmt.Sprintf("The %s of %s runs already.", kind, cmp.Or(of, "the stream"))}
	}
	c.jobs.of[j.Key()] = j
	c.jobs.drop()
	action := history.From(r.Context()).Fork() // it is on record with its outcome
	ctx = action.With(ctx)
	c.work.Go(func() {
		defer cancel()
		result, ok, err := do(ctx, func(done, total uint64) { c.jobs.progress(j, done, total) })
		switch {
		case errors.Is(err, context.Canceled):
			result, ok = "Canceled; nothing was changed.", false
		case err != nil:
			result, ok = "Failed: "+err.Error(), false
		}
		if err == nil && !ok {
			err = ctx.Err() // it was ended, although it has a result of its own
		}
		switch {
		case errors.Is(err, context.Canceled):
			action.Ended(statusCanceled, 0)
		case err != nil:
			action.Ended(http.StatusInternalServerError, 0)
		default:
			action.Done()
		}
		action.End()
		c.past.drop()
		c.jobs.mu.Lock()
		defer c.jobs.mu.Unlock()
		j.Result, j.OK, j.Ended = result, ok, time.Now()
		close(j.done)
	})
	return j, nil
}

// drop removes the oldest job that has ended if there are too many. The caller holds mu.
func (s *jobs) drop() {
	var oldest *job
	for _, j := range s.of {
		if !j.Running() && (oldest == nil || j.Ended.Before(oldest.Ended)) {
			oldest = j
		}
	}
	if len(s.of) > maxJobs && oldest != nil {
		delete(s.of, oldest.Key())
	}
}

func (s *jobs) progress(j *job, done, total uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j.Done, j.Total = done, total
	if took := time.Since(j.Started).Seconds(); took > 0 && done > 0 {
		j.Rate = float64(done) / took
		j.ETA = time.Duration(float64(total-min(done, total)) / j.Rate * float64(time.Second))
	}
}

// list returns copies of the jobs, the last started first.
func (s *jobs) list() (out []job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range s.of {
		out = append(out, *j)
	}
	slices.SortFunc(out, func(a, b job) int { return cmp.Or(b.Started.Compare(a.Started), cmp.Compare(a.Key(), b.Key())) })
	return out
}

// stop cancels a job. It returns false if the job is not running.
func (s *jobs) stop(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.of[key]
	if j == nil || !j.Running() {
		return false
	}
	j.cancel()
	return true
}
