package console

import (
	"errors"
	"net/http"
	"net/url"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/pages"
)

// inboxView is the view of the conversations of all pages.
type inboxView struct {
	List []inboxRow
	// Unanswered is set if the conversations with unanswered messages come first.
	Unanswered bool
	// Here and Next are the URLs of this part of the list and of the next one; Next is empty at the
	// end. Live is set for the first part, which is read again every few seconds.
	Here, Next string
	Live       bool
}

// inboxRow is one conversation and the name of its page.
type inboxRow struct {
	conversations.Conversation
	PageName string
}

// inbox serves GET /conversations: the conversations of all pages, with ?order=unanswered those with
// unanswered messages first, or with ?by=page the pages.
func (c *Console) inbox(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	if q.Get("by") == "page" {
		return c.conversationPages(w, r)
	}
	v := inboxView{Unanswered: q.Get("order") == "unanswered", Live: q.Get("cursor") == "", Here: r.URL.RequestURI()}
	list, next, err := conversations.ListAll(c.opts.Conversations, v.Unanswered, q.Get("cursor"), listSize)
	if err != nil {
		return err
	}
	names := map[domain.PageID]string{}
	for _, one := range list {
		if _, known := names[one.Page]; !known {
			p, err := pages.Get(c.opts.Pages, one.Page)
			if err != nil && !errors.Is(err, pages.ErrNotFound) {
				return err
			}
			p.ID = one.Page
			names[one.Page] = nameOf(p)
		}
		v.List = append(v.List, inboxRow{one, names[one.Page]})
	}
	if next != "" {
		further := url.Values{"cursor": {next}}
		if v.Unanswered {
			further.Set("order", "unanswered")
		}
		v.Next = "/conversations?" + further.Encode()
	}
	c.show(w, r, http.StatusOK, "inbox", "Conversations", v)
	return nil
}
