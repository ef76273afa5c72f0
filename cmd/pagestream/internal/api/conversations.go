package api

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/conversations"
)

func (s *Server) listConversations(w http.ResponseWriter, r *http.Request) error {
	limit, err := limit(r, maxPage)
	if err != nil {
		return err
	}
	m, err := view(r, s.opts.Conversations)
	if err != nil {
		return err
	}
	items, next, err := conversations.List(m, domain.PageID(r.PathValue("id")), r.URL.Query().Get("cursor"), limit)
	if err != nil {
		return badCursor(err, conversations.ErrCursor, "list conversations")
	}
	writeJSON(w, http.StatusOK, List[conversations.Conversation]{Items: items, Next: next})
	return nil
}

func (s *Server) getConversation(w http.ResponseWriter, r *http.Request) error {
	m, err := view(r, s.opts.Conversations)
	if err != nil {
		return err
	}
	page, contact := r.PathValue("page"), r.PathValue("contact")
	c, err := conversations.Get(m, domain.PageID(page), domain.ContactID(contact))
	if errors.Is(err, conversations.ErrNotFound) {
		return problem(http.StatusNotFound, fmt.Sprintf("page %s has no conversation with contact %s", page, contact))
	}
	if err != nil {
		return fmt.Errorf("get conversation: %w", err)
	}
	writeJSON(w, http.StatusOK, c)
	return nil
}

// listMessages serves the messages of one conversation, oldest first, or newest
// first with ?order=newest.
func (s *Server) listMessages(w http.ResponseWriter, r *http.Request) error {
	limit, err := limit(r, maxPage)
	if err != nil {
		return err
	}
	m, err := view(r, s.opts.Conversations)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	order := q.Get("order")
	if order != "" && order != "newest" && order != "oldest" {
		return problem(http.StatusBadRequest, "order is oldest or newest")
	}
	items, next, err := conversations.Messages(m, domain.PageID(r.PathValue("page")),
		domain.ContactID(r.PathValue("contact")), q.Get("cursor"), limit, order == "newest")
	if err != nil {
		return badCursor(err, conversations.ErrCursor, "list messages")
	}
	writeJSON(w, http.StatusOK, List[conversations.Message]{Items: items, Next: next})
	return nil
}
