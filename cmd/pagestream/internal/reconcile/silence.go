package reconcile

import (
	"errors"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/pages"
)

// updateSilence compares the time since each page's last event with its rhythm, and
// returns the pages that have fallen silent. It returns none if nearly all have.
func (r *Reconciler) updateSilence(list []domain.PageID) (silent []domain.PageID) {
	watch := pages.Watch{Now: r.opts.Now(), From: r.began, Threshold: meta.SilentEvents}
	found := make(map[domain.PageID]pages.Silence, len(list))
	rhythmic := 0
	for _, page := range list {
		s, err := pages.Quiet(r.opts.Pages, page, watch)
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
