package api

import (
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/pages"
)

// names looks up the names of pages and contacts, each once. They are for people, so a
// name that can't be read now is left out.
type names struct {
	pages, conversations projections.Viewer
	ofPage               map[domain.PageID]string
	ofContact            map[contactKey]string
}

type contactKey struct {
	page    domain.PageID
	contact domain.ContactID
}

// names returns a look-up for one request.
func (s *Server) names() *names {
	return &names{
		pages: s.opts.Pages, conversations: s.opts.Conversations,
		ofPage: map[domain.PageID]string{}, ofContact: map[contactKey]string{},
	}
}

// page returns the page's name; for an Instagram account without one, that of its page.
func (n *names) page(id domain.PageID) string {
	if n.pages == nil || id == "" || id == domain.NoPage {
		return ""
	}
	name, known := n.ofPage[id]
	if !known {
		p, err := pages.Get(n.pages, id)
		if err == nil {
			name = p.Name
		}
		if name == "" && p.LinkedPage != "" && p.LinkedPage != id {
			p, _ = pages.Get(n.pages, p.LinkedPage)
			name = p.Name
		}
		n.ofPage[id] = name
	}
	return name
}

// contact returns the contact's name.
func (n *names) contact(page domain.PageID, id domain.ContactID) string {
	if n.conversations == nil || id == "" {
		return ""
	}
	key := contactKey{page, id}
	name, known := n.ofContact[key]
	if !known {
		c, err := conversations.Get(n.conversations, page, id)
		if err == nil {
			name = c.Name
		}
		n.ofContact[key] = name
	}
	return name
}
