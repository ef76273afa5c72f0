package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/conversations"
)

func (s *Server) conversationRoutes() routes {
	return routes{
		"GET /api/v1/pages/{id}/conversations": {
			serve: s.listConversations, params: params{"cursor", "limit", "min_seq"}, allow: toCompanies,
		},
		"GET /api/v1/conversations/{page}/{contact}": {
			serve: s.getConversation, params: params{"min_seq"}, allow: toCompanies,
		},
		"GET /api/v1/conversations/{page}/{contact}/messages": {
			serve:  s.listMessages,
			params: params{"at_seq", "at_time", "cursor", "limit", "min_seq", "order"},
			allow:  toCompanies,
		},
		"GET /api/v1/conversations/{page}/{contact}/events": {
			serve: s.listSources, params: params{"cursor", "limit", "mid", "min_seq"}, allow: toCompanies,
		},
	}
}

// conversation returns the page and the contact in the request's path.
func conversation(r *http.Request) (domain.PageID, domain.ContactID) {
	return domain.PageID(r.PathValue("page")), domain.ContactID(r.PathValue("contact"))
}

func (s *Server) listConversations(w http.ResponseWriter, r *http.Request) error {
	limit, err := limit(r)
	if err != nil {
		return err
	}
	if err := await(r, s.opts.Conversations); err != nil {
		return err
	}
	page, cursor := pageID(r), r.URL.Query().Get("cursor")
	b, err := s.bound(r, page)
	if err != nil {
		return err
	}
	if b != nil {
		items, next, err := b.listConversations(cursor, limit)
		return writeList(w, "list conversations", items, next, err)
	}
	items, next, err := conversations.List(s.opts.Conversations, page, cursor, limit)
	return writeList(w, "list conversations", items, next, err)
}

func (s *Server) getConversation(w http.ResponseWriter, r *http.Request) error {
	if err := await(r, s.opts.Conversations); err != nil {
		return err
	}
	page, contact := conversation(r)
	if companyOf(r) != "" {
		return s.getOwnConversation(w, r, page, contact)
	}
	c, err := conversations.Get(s.opts.Conversations, page, contact)
	if errors.Is(err, conversations.ErrErased) {
		return problem(http.StatusGone, fmt.Sprintf("the conversation of page %s with contact %s was erased", page, contact))
	}
	if errors.Is(err, conversations.ErrNotFound) {
		return problem(http.StatusNotFound, fmt.Sprintf("page %s has no conversation with contact %s", page, contact))
	}
	if err != nil {
		return fmt.Errorf("get conversation: %w", err)
	}
	return writeJSON(w, http.StatusOK, c)
}

// listMessages serves the messages of one conversation, oldest first, or newest
// first with ?order=newest.
func (s *Server) listMessages(w http.ResponseWriter, r *http.Request) error {
	limit, err := limit(r)
	if err != nil {
		return err
	}
	newest, err := newestFirst(r)
	if err != nil {
		return err
	}
	if err := notPast(r); err != nil {
		return err
	}
	page, contact := conversation(r)
	read := func(v projections.Viewer) error {
		b, err := s.bound(r, page)
		if err != nil {
			return err
		}
		if b != nil {
			items, next, err := b.messages(contact, r.URL.Query().Get("cursor"), limit, newest)
			return writeList(w, "list messages", items, next, err)
		}
		items, next, err := conversations.Messages(v, page, contact, r.URL.Query().Get("cursor"), limit, newest)
		return writeList(w, "list messages", items, next, err)
	}
	if isPast(r) {
		return s.past(r, page, contact, read)
	}
	if err := await(r, s.opts.Conversations); err != nil {
		return err
	}
	return read(s.opts.Conversations)
}

// maxPast bounds how long reading a past state may take.
const maxPast = 50 * time.Second

// past reads a conversation as it was at the event ?at_seq=, or at ?at_time= by the
// stream's clock.
func (s *Server) past(r *http.Request, page domain.PageID, contact domain.ContactID,
	read func(projections.Viewer) error,
) error {
	seq, at, err := moment(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), maxPast)
	defer cancel()
	return s.opts.Operator.Past(ctx, page, contact, seq, at, read)
}

// newestFirst parses ?order=: oldest, which is the default, or newest.
func newestFirst(r *http.Request) (bool, error) {
	switch r.URL.Query().Get("order") {
	case "newest":
		return true, nil
	case "", "oldest":
		return false, nil
	}
	return false, problem(http.StatusBadRequest, "order is oldest or newest")
}

// isPast reports whether the request asks for a past state.
func isPast(r *http.Request) bool {
	q := r.URL.Query()
	return q.Has("at_seq") || q.Has("at_time")
}

// moment parses ?at_seq= and ?at_time=.
func moment(r *http.Request) (seq uint64, at time.Time, err error) {
	if seq, err = number(r, "at_seq", 0); err != nil {
		return 0, at, err
	}
	if given := r.URL.Query().Get("at_time"); given != "" {
		if at, err = time.Parse(time.RFC3339Nano, given); err != nil {
			return 0, at, problem(http.StatusBadRequest, "at_time is a time, as in 2026-11-23T10:00:00Z")
		}
	}
	return seq, at, nil
}

// listSources lists the sequences of the events of a conversation, or of its message
// ?mid=, in order; ?cursor= returns the next ones.
func (s *Server) listSources(w http.ResponseWriter, r *http.Request) error {
	limit, err := limit(r)
	if err != nil {
		return err
	}
	after, err := number(r, "cursor", 0)
	if err != nil {
		return err
	}
	if err := await(r, s.opts.Conversations); err != nil {
		return err
	}
	page, contact := conversation(r)
	if mid := r.URL.Query().Get("mid"); mid != "" {
		notFound := problem(http.StatusNotFound, "the conversation has no such message")
		if err := s.isOwn(r, page); err != nil {
			return err
		}
		found, err := conversations.FindByMID(s.opts.Conversations, page, contact, mid)
		if errors.Is(err, conversations.ErrNotFound) {
			return notFound
		}
		if err != nil {
			return fmt.Errorf("find message: %w", err)
		}
		b, err := s.bound(r, page)
		if err != nil {
			return err
		}
		if b != nil && !b.message(found) {
			return notFound
		}
		return writeJSON(w, http.StatusOK, List[uint64]{Items: found.Events})
	}
	b, err := s.bound(r, page)
	if err != nil {
		return err
	}
	if b != nil {
		after = max(after, b.from-1)
	}
	seqs, err := conversations.EventsOf(s.opts.Conversations, page, contact, after, limit)
	if err != nil {
		return fmt.Errorf("list events of conversation: %w", err)
	}
	out := List[uint64]{Items: append([]uint64{}, seqs...)}
	if len(seqs) == limit {
		out.Next = strconv.FormatUint(seqs[limit-1], 10)
	}
	return writeJSON(w, http.StatusOK, out)
}
