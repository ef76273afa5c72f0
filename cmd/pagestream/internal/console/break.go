package console

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/pages"
)

// Fault is something that the fake Meta of `pagestream dev` can do wrong.
type Fault string

// The faults. Those of a page are [FaultSubscription] and [FaultToken]; the others concern
// all deliveries.
const (
	// FaultSubscription removes the app's subscription from a page.
	FaultSubscription Fault = "subscription"
	// FaultToken makes the page's token invalid until it is healed.
	FaultToken Fault = "token"
	// FaultDuplicates sends each delivery again.
	FaultDuplicates Fault = "duplicates"
	// FaultReorder sends half of the items late.
	FaultReorder Fault = "reorder"
	// FaultOutage delivers nothing; what is written meanwhile is never delivered.
	FaultOutage Fault = "outage"
)

// ofPage reports whether the fault is one of a single page.
func (f Fault) ofPage() bool { return f == FaultSubscription || f == FaultToken }

// Faults are the faults of the fake Meta that are on.
type Faults struct {
	Duplicates, Reorder, Outage bool
	// Unsubscribed are the pages whose subscription was removed and is not there again.
	// TokenDead are those whose token was made invalid. Both are sorted.
	Unsubscribed, TokenDead []domain.PageID
}

// Breaker is the fake Meta of `pagestream dev`. It is safe for concurrent use.
type Breaker interface {
	// Faults returns what is broken now.
	Faults() Faults
	// Break turns a fault on. The page is that of a fault of a page, else it is empty.
	// Repeating it changes nothing.
	Break(f Fault, page domain.PageID) error
	// Heal turns all faults off, and makes the tokens valid again. A removed subscription
	// stays removed: to restore it is pagestream's work.
	Heal() error
}

// breakView is the view of the page that breaks the fake Meta.
type breakView struct {
	Faults
	// Pages are the connected pages, sorted by name, and Names the names of all pages.
	Pages []pages.Page
	Names map[domain.PageID]string
	// Page is the page that the form has chosen.
	Page domain.PageID
}

// Any reports whether anything is broken.
func (v breakView) Any() bool {
	return v.Duplicates || v.Reorder || v.Outage || len(v.Unsubscribed)+len(v.TokenDead) > 0
}

// breakRoutes are the routes of [Options.Breaker].
func (c *Console) breakRoutes() map[string]route {
	return map[string]route{
		"GET /break":  {serve: c.showBreak, admin: true},
		"POST /break": {serve: c.breakIt, verb: "dev_break"},
		"POST /heal":  {serve: c.heal, verb: "dev_heal"},
	}
}

// showBreak serves GET /break: what is broken, and the buttons.
func (c *Console) showBreak(w http.ResponseWriter, r *http.Request) error {
	return c.renderBreak(w, r, domain.PageID(r.URL.Query().Get("page")), "")
}

func (c *Console) renderBreak(w http.ResponseWriter, r *http.Request, page domain.PageID, done string) error {
	v := breakView{Faults: c.opts.Breaker.Faults(), Names: map[domain.PageID]string{}, Page: page}
	err := pages.Each(c.opts.Pages, func(p pages.Page) error {
		v.Names[p.ID] = cmp.Or(p.Name, string(p.ID))
		if p.State == pages.Connected {
			v.Pages = append(v.Pages, p)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list pages: %w", err)
	}
	slices.SortFunc(v.Pages, func(a, b pages.Page) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	c.showOutcome(w, r, http.StatusOK, "break", "Break something", v, done, "")
	return nil
}

// broken says what was broken and what pagestream does about it.
var broken = map[Fault]string{
	FaultSubscription: "The page's subscription is gone. Pagestream checks each page twice a minute: it finds that, and " +
		"subscribes the page again.",
	FaultToken: "The page's token is dead. Pagestream finds that within a minute. Messages are stored meanwhile.",
	FaultDuplicates: "Each delivery is sent again from now on. The count of duplicates grows, and no message is " +
		"stored twice.",
	FaultReorder: "Half of all items come late from now on. Conversations still show them by the time at which " +
		"they were written.",
	FaultOutage: "Nothing is delivered from now on, and what people write meanwhile never will be. Afterwards, " +
		"pagestream backfill reads the messages of the gap from Meta.",
}

// breakIt serves POST /break.
func (c *Console) breakIt(w http.ResponseWriter, r *http.Request) error {
	f, page := Fault(r.PostForm.Get("fault")), domain.PageID(r.PostForm.Get("page"))
	said, known := broken[f]
	if !known {
		return badInput("There is no such fault.")
	}
	action := history.From(r.Context())
	action.On("fault", string(f))
	target := page
	if f.ofPage() {
		action.On("page", string(page))
	} else {
		target = ""
	}
	if err := c.opts.Breaker.Break(f, target); err != nil {
		return badInput("That can't be broken: " + err.Error() + ".")
	}
	return c.renderBreak(w, r, page, said)
}

// heal serves POST /heal.
func (c *Console) heal(w http.ResponseWriter, r *http.Request) error {
	if err := c.opts.Breaker.Heal(); err != nil {
		return fmt.Errorf("heal: %w", err)
	}
	return c.renderBreak(w, r, "",
		"The fake Meta works again. Pagestream finds within a minute which tokens are valid again.")
}
