package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/names"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/comments"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
	"github.com/pagestream/pagestream/streams"
)

// What a company's token gets. Events are judged one by one: a company gets those that
// belong to it ([pages.Owner]). A row of a read model is made of many events, which may
// have belonged to others before, so it is judged by the sequence since which the company
// has had the page without a break ([pages.Since]): a row that was made from later events
// only is shown, and otherwise at most what is known to be from later ones. Rows of a page
// that the company does not have now are not shown. What is not shown is answered as what
// does not exist.

// bound is what a request by a company's token may see of a page. A nil *bound is for all
// other requests, which may see everything.
type bound struct {
	s       *Server
	ctx     context.Context //nolint:containedctx // that of the request
	company string
	page    domain.PageID
	// from is the sequence since which the page belongs to the company.
	from uint64
}

// bound returns the bound of a request, nil if there is none. It fails with 404 if the page is not the company's.
func (s *Server) bound(r *http.Request, page domain.PageID) (*bound, error) {
	company := companyOf(r)
	if company == "" {
		return nil, nil
	}
	b := &bound{s: s, ctx: r.Context(), company: company, page: page}
	if err := b.settle(); err != nil {
		return nil, err
	}
	return b, nil
}

// settle reads since when the page belongs to the company. It is called after rows were
// read and before they are shown: it waits until the read model of pages has applied every
// event that the rows can have been made from.
func (b *bound) settle() error {
	ctx, cancel := context.WithTimeout(b.ctx, maxWait)
	defer cancel()
	head, err := streams.Last(ctx, b.s.opts.JS, b.s.opts.Stream)
	if err != nil {
		return err
	}
	if err := b.s.opts.Pages.WaitFor(ctx, head); err != nil {
		return fmt.Errorf("wait for read model: %w", err)
	}
	from, ok, err := pages.Since(b.s.opts.Pages, b.page, b.company)
	if err != nil {
		return fmt.Errorf("find owner: %w", err)
	}
	if !ok {
		return notOwn(b.page)
	}
	b.from = from
	return nil
}

// owns reports whether all sequences are since the page belongs to the company. No
// sequence is not.
func (b *bound) owns(seqs ...uint64) bool { return len(seqs) > 0 && slices.Min(seqs) >= b.from }

// notOwn is the answer about a page that the company does not have, and about one that does
// not exist.
func notOwn(page domain.PageID) Problem {
	return problem(http.StatusNotFound, fmt.Sprintf("there is no page %.40q", page))
}

// isOwn fails with 404 if a company's token asks for a page that the company does not have.
func (s *Server) isOwn(r *http.Request, page domain.PageID) error {
	_, err := s.bound(r, page)
	return err
}

// notPast fails with 403 if a company's token asks for a past state: it is made by a replay
// of all events of the page.
func notPast(r *http.Request) error {
	if companyOf(r) != "" && isPast(r) {
		return problem(http.StatusForbidden, "this token reads the present only; leave out at_seq and at_time")
	}
	return nil
}

const (
	// maxTries bounds how often a list is read again because it changes.
	maxTries = 5
	// minRead is how many elements are read at once at least, since few may be shown.
	minRead = 256
)

// boundList returns one page of a list with the elements that keep accepts. Its cursor is
// that of an element in it: a cursor can be decoded, and so must not be of a hidden one.
func boundList[T any](b *bound, cursor string, limit int,
	read func(cursor string, limit int) ([]T, string, error), keep func(T) bool,
) (out []T, next string, err error) {
	if b == nil {
		return read(cursor, limit)
	}
	out, next = []T{}, cursor
	for tries := 0; tries < maxTries; {
		at := next
		list, more, err := read(at, max(limit, minRead))
		if err == nil {
			err = cmp.Or(b.ctx.Err(), b.settle())
		}
		if err != nil {
			return nil, "", err
		}
		last, n := len(list), len(out)
		for i := 0; i < len(list) && last == len(list); i++ {
			if keep(list[i]) {
				if n++; n == limit {
					last = i + 1
				}
			}
		}
		if last < len(list) || n == limit && more != "" { // the page ends within the list
			if list, more, err = read(at, last); err == nil {
				err = b.settle()
			}
			if err != nil {
				return nil, "", err
			}
			if more != "" && (len(list) == 0 || !keep(list[len(list)-1])) { // it has changed
				tries++
				continue
			}
			return append(out, kept(list, keep)...), more, nil
		}
		out = append(out, kept(list, keep)...)
		if next = more; next == "" {
			return out, "", nil
		}
	}
	return nil, "", problem(http.StatusServiceUnavailable, "the list changes too fast; try again")
}

func kept[T any](list []T, keep func(T) bool) (out []T) {
	for _, one := range list {
		if keep(one) {
			out = append(out, one)
		}
	}
	return out
}

// companyPage is a page as its company's token gets it: without what its earlier events
// count for, and without the words and names of operators.
type companyPage struct {
	operate.Page
	// These hide the fields of the page.
	Traffic   *struct{} `json:"traffic,omitempty"`
	Judgement struct {
		State    meta.State    `json:"state"`
		Severity meta.Severity `json:"severity"`
	} `json:"judgement"`
}

// boundPage returns the page as its company's token gets it. New fields are left out until they
// are named here.
func boundPage(p operate.Page) (out companyPage) {
	out.Page = operate.Page{
		Page: pages.Page{
			ID: p.ID, Object: p.Object, Name: p.Name, Company: p.Company, Instagram: p.Instagram,
			LinkedPage: p.LinkedPage, Fields: p.Fields, State: p.State, Token: p.Token,
			TokenExpires: p.TokenExpires, DataAccessExpires: p.DataAccessExpires, Scopes: p.Scopes,
		},
		Subscription: p.Subscription,
	}
	out.Judgement.State, out.Judgement.Severity = p.Judgement.State, p.Judgement.Severity
	return out
}

// listOwnPages serves GET /api/v1/pages for a company's token.
func (s *Server) listOwnPages(w http.ResponseWriter, r *http.Request, company string, limit int) error {
	after, err := projections.DecodeCursor(r.URL.Query().Get("cursor"))
	if err != nil {
		return errCursor
	}
	held, err := pages.Held(s.opts.Pages, company)
	if err != nil {
		return fmt.Errorf("list pages: %w", err)
	}
	out := List[companyPage]{Items: []companyPage{}}
	for _, one := range held {
		if string(one.ID) <= string(after) {
			continue
		}
		if len(out.Items) == limit {
			out.Next = projections.EncodeCursor([]byte(out.Items[limit-1].ID))
			break
		}
		p, err := s.opts.Operator.Page(one.ID)
		if errors.Is(err, pages.ErrNotFound) {
			continue // an account without events
		}
		if err != nil {
			return fmt.Errorf("get page: %w", err)
		}
		if owner, err := pages.Owner(s.opts.Pages, one.ID, math.MaxUint64); err != nil || owner.Company != company {
			if err != nil {
				return fmt.Errorf("find owner: %w", err)
			}
			continue
		}
		out.Items = append(out.Items, boundPage(p))
	}
	return writeJSON(w, http.StatusOK, out)
}

// subscriptions leaves what the page's present owner did.
func (b *bound) subscriptions(list []subscriptions.Subscription) ([]subscriptions.Subscription, error) {
	owner, err := pages.Owner(b.s.opts.Pages, b.page, math.MaxUint64)
	if err != nil {
		return nil, fmt.Errorf("find owner: %w", err)
	}
	out := []subscriptions.Subscription{}
	for _, sub := range list {
		if sub.App != owner.App || !b.owns(sub.LastSeq) {
			continue
		}
		history := sub.History
		sub.History = []subscriptions.Transition{}
		for _, t := range history {
			if b.owns(t.Seq) {
				sub.History = append(sub.History, t)
			}
		}
		if sub.Transitions = uint64(len(sub.History)); len(sub.History) < len(history) {
			sub.Failure = nil // it may be of before
		}
		if len(sub.History) == 0 {
			sub.Since, sub.Reason = time.Time{}, ""
		}
		sub.Incomplete = 0
		out = append(out, sub)
	}
	return out, nil
}

// companyConversation is a conversation as a company's token gets it.
type companyConversation struct {
	conversations.Conversation
	// Partial is set if the conversation began before the company had the page. It has
	// the last event and, if that is of the company, the newest message only.
	Partial bool `json:"partial,omitempty"`
	// These hide the counts of a partial conversation.
	In         *uint64 `json:"in,omitempty"`
	Out        *uint64 `json:"out,omitempty"`
	Unanswered *uint64 `json:"unanswered,omitempty"`

	// first is the sequence of the contact's first event, last the newest message.
	first uint64
	last  *conversations.Message
}

// conversation reads a conversation with what is needed to bound it. The first event is
// read before the rest, so that an erasure meanwhile does not make it later.
func (s *Server) conversation(page domain.PageID, contact domain.ContactID) (c companyConversation, err error) {
	v := s.opts.Conversations
	first, err := conversations.EventsOf(v, page, contact, 0, 1)
	if err != nil {
		return c, err
	}
	if len(first) > 0 {
		c.first = first[0]
	}
	if c.Conversation, err = conversations.Get(v, page, contact); err != nil {
		return c, err
	}
	list, _, err := conversations.Messages(v, page, contact, "", 1, true)
	if len(list) > 0 && list[0].Seq <= c.LastSeq {
		c.last = &list[0]
	}
	return c, err
}

// conversation returns the conversation as the company's token gets it.
func (b *bound) conversation(c companyConversation) companyConversation {
	c.ErasedBefore = time.Time{}
	if b.owns(c.first) {
		c.In, c.Out, c.Unanswered = &c.Conversation.In, &c.Conversation.Out, &c.Conversation.Unanswered
		return c
	}
	whole := c.Conversation
	c.Partial = true
	c.Conversation = conversations.Conversation{
		Page: whole.Page, Contact: whole.Contact, Object: whole.Object, LastSeq: whole.LastSeq, LastAt: whole.LastAt,
	}
	if c.last != nil && b.owns(append(c.last.Events, c.last.Seq)...) {
		c.Last, c.LastActivity = whole.Last, c.last.Time
	}
	return c
}

// getOwnConversation serves GET /api/v1/conversations/{page}/{contact} for a company's
// token.
func (s *Server) getOwnConversation(w http.ResponseWriter, r *http.Request,
	page domain.PageID, contact domain.ContactID,
) error {
	c, err := s.conversation(page, contact)
	b, refused := s.bound(r, page)
	switch {
	case refused != nil:
		return refused
	case errors.Is(err, conversations.ErrErased), errors.Is(err, conversations.ErrNotFound),
		err == nil && !b.owns(c.LastSeq):
		return problem(http.StatusNotFound, fmt.Sprintf("page %s has no conversation with contact %s", page, contact))
	case err != nil:
		return fmt.Errorf("get conversation: %w", err)
	}
	return writeJSON(w, http.StatusOK, b.conversation(c))
}

// listConversations returns a page of the conversations that the company may see.
func (b *bound) listConversations(cursor string, limit int) (out []companyConversation, next string, err error) {
	out, next, err = boundList(b, cursor, limit, func(cursor string, limit int) ([]companyConversation, string, error) {
		rows, next, err := conversations.List(b.s.opts.Conversations, b.page, cursor, limit)
		list := make([]companyConversation, len(rows))
		for i, row := range rows {
			if err != nil {
				break
			}
			if !b.owns(row.LastSeq) {
				continue
			}
			list[i], err = b.s.conversation(b.page, row.Contact)
			if errors.Is(err, conversations.ErrErased) || errors.Is(err, conversations.ErrNotFound) {
				err = nil // just now; it has no sequence and is not shown
			}
		}
		return list, next, err
	}, func(c companyConversation) bool { return b.owns(c.LastSeq) })
	for i, c := range out {
		out[i] = b.conversation(c)
	}
	return out, next, err
}

// messages returns a page of the messages that the company may see.
func (b *bound) messages(contact domain.ContactID, cursor string, limit int, newest bool) (
	out []conversations.Message, next string, err error,
) {
	v := b.s.opts.Conversations
	first, err := conversations.EventsOf(v, b.page, contact, 0, 1)
	if err != nil {
		return nil, "", err
	}
	out, next, err = boundList(b, cursor, limit, func(cursor string, limit int) ([]conversations.Message, string, error) {
		return conversations.Messages(v, b.page, contact, cursor, limit, newest)
	}, b.message)
	if b.owns(first...) {
		return out, next, err
	}
	for i := range out {
		// How late a message was tells when the one before it was sent, and a receipt that
		// covers it may be of before.
		if out[i].LateMillis > 0 {
			out[i].LateMillis, out[i].DeliveredAt, out[i].ReadAt = 0, time.Time{}, time.Time{}
		}
	}
	return out, next, err
}

// message reports whether the company may see a message.
func (b *bound) message(m conversations.Message) bool { return b.owns(append(m.Events, m.Seq)...) }

// companyComment is a comment as a company's token gets it: without the counts of
// reactions, which have no sequences.
type companyComment struct {
	comments.Comment
	Reactions *struct{} `json:"reactions,omitempty"`
}

// companyPost is a post as a company's token gets it: without the counts of reactions and
// comments, which have no sequences.
type companyPost struct {
	comments.Post
	Reactions *struct{} `json:"reactions,omitempty"`
	Comments  *struct{} `json:"comments,omitempty"`
}

// comment and post report whether the company may see a comment or a post: everything but
// reactions to it and a post's comments happened since.
func (b *bound) comment(c comments.Comment) bool { return b == nil || b.owns(c.Events...) }

func (b *bound) post(p comments.Post) bool { return b == nil || b.owns(p.Events...) }

// boundEvents is what the events of a company's token are judged by. A nil *boundEvents is
// for all other requests, which may see everything.
type boundEvents struct {
	s       *Server
	ctx     context.Context //nolint:containedctx // that of the request
	company string
	// seen has the names that the company may see.
	seen map[names.Contact][2]string
}

// internalNouns are the nouns of events that a company's token does not get: what operators
// and Graph said about a page, and what another app delivered.
var internalNouns = []string{"page", "subscription", "foreign"}

// shows reports whether events of the type are shown.
func (b *boundEvents) shows(e streams.Stored) bool {
	return b == nil || !slices.Contains(internalNouns, e.Type.Noun())
}

// event returns an event without what it has about another's time.
func (b *boundEvents) event(e streams.Stored) (streams.Stored, error) {
	if b == nil || e.Data.Erasure == nil {
		return e, nil
	}
	erasure := *e.Data.Erasure
	erasure.Events = nil
	err := pages.Owners(b.s.opts.Pages, func(owner pages.OwnerFunc) error {
		for _, t := range e.Data.Erasure.Events {
			o, err := owner(e.Page, t.Seq)
			if err != nil {
				return err
			}
			if o.Company == b.company {
				erasure.Events = append(erasure.Events, t)
			}
		}
		return nil
	})
	e.Data.Erasure = &erasure
	return e, err
}

// names returns the names that the company may see: that of a page that it has, and that of
// a contact whose events are all of its time.
func (b *boundEvents) names(n *names.Names, e streams.Stored) (page, contact string, err error) {
	key := names.Contact{Page: e.Page, Contact: e.Contact}
	if b == nil {
		return n.Page(e.Page), n.Contact(e.Page, e.Contact), nil
	}
	if found, known := b.seen[key]; known {
		return found[0], found[1], nil
	}
	c, err := b.s.conversation(e.Page, e.Contact)
	if err != nil && !errors.Is(err, conversations.ErrNotFound) && !errors.Is(err, conversations.ErrErased) {
		return "", "", err
	}
	page = n.Page(e.Page)
	if err := b.s.opts.Pages.WaitFor(b.ctx, c.LastSeq); err != nil {
		return "", "", fmt.Errorf("wait for read model: %w", err)
	}
	from, ok, err := pages.Since(b.s.opts.Pages, e.Page, b.company)
	switch {
	case err != nil:
		return "", "", fmt.Errorf("find owner: %w", err)
	case !ok:
		page = ""
	case c.first >= from:
		contact = c.Name
	}
	b.seen[key] = [2]string{page, contact}
	return page, contact, nil
}

// boundEvents returns what the events of a request are judged by.
func (s *Server) boundEvents(r *http.Request) *boundEvents {
	company := companyOf(r)
	if company == "" {
		return nil
	}
	return &boundEvents{s: s, ctx: r.Context(), company: company, seen: map[names.Contact][2]string{}}
}

// ownSelection fails with 404 if a company's token selects a page that its company never
// had.
func (s *Server) ownSelection(r *http.Request, ids []domain.PageID) error {
	company := companyOf(r)
	if company == "" || len(ids) == 0 {
		return nil
	}
	held, err := pages.Held(s.opts.Pages, company)
	if err != nil {
		return fmt.Errorf("list pages: %w", err)
	}
	for _, id := range ids {
		if _, found := slices.BinarySearchFunc(held, id, func(h pages.Holding, id domain.PageID) int {
			return strings.Compare(string(h.ID), string(id))
		}); !found {
			return notOwn(id)
		}
	}
	return nil
}
