package reconcile

import (
	"cmp"
	"slices"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
)

// PageStatus is what the loop knows about one page.
type PageStatus struct {
	Page domain.PageID `json:"page"`
	meta.Loop
}

// Counters count operations since the start of the process.
type Counters struct {
	Checks uint64 `json:"checks"`
	Probes uint64 `json:"probes"`
	// Resubscribed counts subscribe attempts, Healed those of them that ended confirmed.
	Resubscribed uint64 `json:"resubscribed"`
	Healed       uint64 `json:"healed"`
	Errors       uint64 `json:"errors"`
}

// Status is what the loop knows about all connected pages, sorted by id.
type Status struct {
	// At is when the pages were last listed.
	At time.Time `json:"at,omitzero"`
	// AllSilent reports that nearly all pages with a rhythm are silent at once:
	// deliveries do not arrive, and the cause is not in a single page.
	AllSilent bool         `json:"all_silent"`
	Pages     []PageStatus `json:"pages"`
	Counters  Counters     `json:"counters"`
}

// entry is what the loop keeps for one page.
type entry struct {
	status PageStatus
	busy   bool      // a goroutine works on the page
	hold   time.Time // Graph is not called before
	errs   int       // calls without an answer, in a row
	queued time.Time // the NextTry for which there is a task already
	// events is how many events of the page were delivered when it was polled the last
	// time. Heard is the last time after which there were more. Silence is measured from there
	// at the earliest, whatever the clock says. Both times are of Options.Elapsed.
	events        uint64
	polled, heard time.Duration
}

// Status returns a copy of the current state.
func (r *Reconciler) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := Status{
		At: r.listed, AllSilent: r.allSilent, Pages: make([]PageStatus, 0, len(r.entries)), Counters: r.counters,
	}
	for _, e := range r.entries {
		s.Pages = append(s.Pages, e.status)
	}
	slices.SortFunc(s.Pages, func(a, b PageStatus) int { return cmp.Compare(a.Page, b.Page) })
	return s
}

// AllSilent reports whether nearly all pages with a rhythm are silent at once.
func (r *Reconciler) AllSilent() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.allSilent
}

// Page returns what is known about one page, and false if it is not connected or was
// not listed yet.
func (r *Reconciler) Page(page domain.PageID) (PageStatus, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.entries[page]
	if e == nil {
		return PageStatus{}, false
	}
	return e.status, true
}

// entry returns the page's entry, and creates it if there is none. The caller must
// hold r.mu.
func (r *Reconciler) entry(page domain.PageID) *entry {
	e := r.entries[page]
	if e == nil {
		e = &entry{status: PageStatus{page, meta.Loop{State: meta.LoopUnknown}}}
		r.entries[page] = e
	}
	return e
}
