// Package ownership decides which app may speak for a page: the one that the page is
// connected through.
//
// Every configured app can sign a delivery for any page. Without this judgement an app
// could write into the conversations of another's page, unsend its messages, or take the
// place of a message by delivering its id first.
package ownership

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/streams"
)

// Options configure a [Judge]. Apps and Pages are required.
type Options struct {
	// Apps has the id at Meta of each configured app, by its name.
	Apps map[string]string
	// Pages is the read model of pages.
	Pages projections.Model
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Judge implements [streams.Judge] by the read model of pages. Make one with [New].
type Judge struct {
	opts Options
	ids  map[string]bool // the ids of configured apps
}

var _ streams.Judge = (*Judge)(nil)

// New returns a Judge.
func New(o Options) *Judge {
	if o.Now == nil {
		o.Now = time.Now
	}
	j := &Judge{opts: o, ids: make(map[string]bool, len(o.Apps))}
	for _, id := range o.Apps {
		j.ids[id] = true
	}
	return j
}

// Judge returns the standing of each claim after the read model has applied the event
// after. It fails if the read model does not reach that event before ctx ends.
func (j *Judge) Judge(ctx context.Context, claims []streams.Claim, after uint64) ([]streams.Standing, error) {
	if err := j.opts.Pages.WaitFor(ctx, after); err != nil {
		return nil, fmt.Errorf("wait for the connections of pages: %w", err)
	}
	owners := map[domain.PageID]owner{}
	out := make([]streams.Standing, len(claims))
	for i, c := range claims {
		o, known := owners[c.Page]
		if !known {
			var err error
			if o, err = j.owner(c.Page); err != nil {
				return nil, err
			}
			owners[c.Page] = o
		}
		out[i] = o.standing(c, j.opts.Now())
	}
	return out, nil
}

// owner is who owns a page. Its apps are empty where there is none.
type owner struct {
	// app is the configured app that the page is connected through; former is the app
	// before it, and moved is when the page was connected through app.
	app, former string
	moved       time.Time
	// released is the app that the page was connected through until it was disconnected.
	released string
}

// standing judges one claim.
func (o owner) standing(c streams.Claim, now time.Time) streams.Standing {
	switch {
	case o.app == "" && c.App == o.released:
		return streams.Released
	case o.app == "":
		return streams.Unowned
	case c.App == o.app:
		return streams.Own
	case c.App == o.former && c.Time.Before(o.moved) && now.Sub(o.moved) <= domain.RedeliveryWindow:
		return streams.Own // Meta still repeats what happened before the page moved
	}
	return streams.Foreign
}

// owner reads the owner of a page, or of the page that an Instagram account is linked to.
func (j *Judge) owner(id domain.PageID) (owner, error) {
	// A read model that is built again has the connections when it has applied the event that Judge waits for.
	model := projections.PartialOf(j.opts.Pages)
	p, err := pages.Get(model, id)
	if err == nil && p.State == pages.Unknown && p.LinkedPage != "" {
		p, err = pages.Get(model, p.LinkedPage)
	} else if errors.Is(err, pages.ErrNotFound) { // perhaps an account that had no event yet
		var page domain.PageID
		if page, err = pages.ByInstagram(model, string(id)); err == nil {
			p, err = pages.Get(model, page)
		}
	}
	if errors.Is(err, pages.ErrNotFound) {
		return owner{}, nil
	}
	if err != nil {
		return owner{}, fmt.Errorf("read page: %w", err)
	}
	app := p.AppID
	if app == "" { // the event that connected the page has the name only
		app = j.opts.Apps[p.App]
	}
	switch {
	case p.State == pages.Connected && j.ids[app]:
		return owner{app: app, former: p.FormerAppID, moved: p.MovedAt}, nil
	case p.State == pages.Disconnected:
		return owner{released: app}, nil
	}
	return owner{}, nil // an app that is not configured owns nothing
}
