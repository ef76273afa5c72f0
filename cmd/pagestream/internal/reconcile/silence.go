package reconcile

import (
	"errors"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/pages"
)

// updateSilence compares the time since each page's last event with its rhythm, and
// returns the pages that have fallen silent. It returns none if nearly all have.
//
// A page is silent for no longer than the loop has seen no event of it. So a clock that is
// set forward makes no page silent.
func (r *Reconciler) updateSilence(list []domain.PageID) (silent []domain.PageID) {
	found := make(map[domain.PageID]pages.Silence, len(list))
	rhythmic := 0
	for _, page := range list {
		s, err := r.quiet(page)
		if err != nil {
			if !errors.Is(err, pages.ErrNotFound) {
				r.opts.Logger.Warn("page's rhythm can't be read", "page", page, "err", err)
			}
			continue
		}
		found[page] = s
		if s.Enough {
			rhythmic++
		}
		if s.Silent {
			silent = append(silent, page)
		}
	}
	all := rhythmic >= meta.AllSilentPages && float64(len(silent)) >= meta.AllSilentShare*float64(rhythmic)

	r.mu.Lock()
	defer r.mu.Unlock()
	for page, s := range found {
		e := r.entry(page)
		was := e.status.Silence.Silent
		e.status.Silence = s
		switch {
		case all || was == s.Silent:
		case s.Silent:
			r.opts.Logger.Warn("page is silent compared with its own rhythm",
				"page", page, "since", s.Since, "expected", int(s.Expected))
		default:
			r.opts.Logger.Info("page is no longer silent", "page", page)
		}
	}
	if all != r.allSilent {
		r.allSilent = all
		if all {
			r.opts.Logger.Warn("nearly all pages are silent: deliveries do not arrive",
				"silent", len(silent), "pages", rhythmic)
		} else {
			r.opts.Logger.Info("pages are no longer silent all at once", "silent", len(silent), "pages", rhythmic)
		}
	}
	if all {
		return nil
	}
	return silent
}

// quiet returns a page's silence.
func (r *Reconciler) quiet(page domain.PageID) (pages.Silence, error) {
	now, elapsed := r.opts.Now(), r.opts.Elapsed()
	r.mu.Lock()
	e := r.entry(page)
	events, heard, before := e.events, e.heard, e.polled
	e.polled = elapsed
	r.mu.Unlock()
	watch := pages.Watch{Now: now, From: now.Add(heard - elapsed), Threshold: meta.SilentEvents}
	s, err := pages.Quiet(r.opts.Pages, page, watch)
	if err != nil || s.Events == events {
		return s, err
	}
	if events > 0 { // otherwise they may be from before the start
		heard = before
		watch.From = now.Add(heard - elapsed)
		s, err = pages.Quiet(r.opts.Pages, page, watch)
	}
	r.mu.Lock()
	e = r.entry(page)
	e.events, e.heard = s.Events, heard
	r.mu.Unlock()
	return s, err
}
