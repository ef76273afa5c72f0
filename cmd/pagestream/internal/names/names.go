// Package names looks up the names of pages and contacts, for lists of events.
package names

import (
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/pages"
)

// Names looks up the names of pages and contacts, each once. They are for people, so a name
// that can't be read now is left out. Make one for each request with [New]: it keeps what it
// has read. It is not safe for concurrent use.
type Names struct {
	pages, conversations projections.Viewer
	ofPage               map[domain.PageID]string
	ofContact            map[Contact]string
}

// Contact identifies a contact of a page.
type Contact struct {
	Page    domain.PageID
	Contact domain.ContactID
}

// New returns a look-up in the read models of pages and conversations. Nil ones have no names.
func New(pages, conversations projections.Viewer) *Names {
	return &Names{
		pages: pages, conversations: conversations,
		ofPage: map[domain.PageID]string{}, ofContact: map[Contact]string{},
	}
}

// Page returns the page's name; for an Instagram account without one, that of its page.
func (n *Names) Page(id domain.PageID) string {
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

// Contact returns the contact's name.
func (n *Names) Contact(page domain.PageID, id domain.ContactID) string {
	if n.conversations == nil || id == "" {
		return ""
	}
	key := Contact{page, id}
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
