package reconcile

import (
	"cmp"
	"slices"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
)

// PageStatus is what the loop knows of one page.
type PageStatus struct {
	Page domain.PageID `json:"page"`
	meta.Loop
}

// Counters count since the start of the process.
type Counters struct {
	Checks uint64 `json:"checks"`
	Probes uint64 `json:"probes"`
	// Resubscribed counts attempts, Healed those that ended confirmed.
	Resubscribed uint64 `json:"resubscribed"`
	Healed       uint64 `json:"healed"`
	Errors       uint64 `json:"errors"`
}

// Status is what the loop knows of all connected pages, in order of their ids.
type Status struct {
	// At is when the pages were last listed.
	At time.Time `json:"at,omitzero"`
	// AllSilent says that nearly all pages with a rhythm are silent at once:
	// deliveries don't reach us, and no single page is to blame.
	AllSilent bool         `json:"all_silent"`
	Pages     []PageStatus `json:"pages"`
	Counters  Counters     `json:"counters"`
}

// entry is a page's place in the table.
type entry struct {
	status PageStatus
	busy   bool      // somebody works on the page
	hold   time.Time // Graph is not called before
	errs   int       // calls without an answer, in a row
	queued time.Time // the NextTry that has its task already
}

// Status returns a copy of what is known now.
func (r *Reconciler) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := Status{At: r.listed, AllSilent: r.allSilent, Pages: make([]PageStatus, 0, len(r.entries)), Counters: r.counters}
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

// Page returns what is known of one page, and false if it is not connected or
// not seen yet.
func (r *Reconciler) Page(page domain.PageID) (PageStatus, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.entries[page]
	if e == nil {
		return PageStatus{}, false
	}
	return e.status, true
}

// entry returns the page's place, which it makes if need be. The lock is held.
func (r *Reconciler) entry(page domain.PageID) *entry {
	e := r.entries[page]
	if e == nil {
		e = &entry{status: PageStatus{page, meta.Loop{State: meta.LoopUnknown}}}
		r.entries[page] = e
	}
	return e
}
