package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/comments"
)

// CommentOperator reads past states of comments and posts.
type CommentOperator interface {
	// PastComments reads the comments and posts of a page as they were at the event seq,
	// or at a time if seq is 0.
	PastComments(ctx context.Context, page domain.PageID, seq uint64, at time.Time,
		read func(projections.Viewer) error) error
}

func (s *Server) commentRoutes() routes {
	return routes{
		"GET /api/v1/comments/{page}": {
			serve:  s.listComments,
			params: params{"at_seq", "at_time", "contact", "cursor", "limit", "min_seq", "order", "post", "state"},
			allow:  toCompanies,
		},
		"GET /api/v1/comments/{page}/{comment}": {
			serve: s.getComment, params: params{"at_seq", "at_time", "min_seq"}, allow: toCompanies,
		},
		"GET /api/v1/posts/{page}": {
			serve:  s.listPosts,
			params: params{"at_seq", "at_time", "cursor", "limit", "min_seq", "order"},
			allow:  toCompanies,
		},
		"GET /api/v1/posts/{page}/{post}": {
			serve: s.getPost, params: params{"at_seq", "at_time", "min_seq"}, allow: toCompanies,
		},
	}
}

// commentsAt reads the comments of the page in the request's path: as they are, or as
// they were at ?at_seq= or ?at_time=.
func (s *Server) commentsAt(r *http.Request, read func(v projections.Viewer, page domain.PageID) error) error {
	page := domain.PageID(r.PathValue("page"))
	if err := notPast(r); err != nil {
		return err
	}
	if !isPast(r) {
		if err := await(r, s.opts.Comments); err != nil {
			return err
		}
		return read(s.opts.Comments, page)
	}
	seq, at, err := moment(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), maxPast)
	defer cancel()
	return s.opts.Operator.PastComments(ctx, page, seq, at, func(v projections.Viewer) error { return read(v, page) })
}

// commentPage returns which elements of a list of comments or posts are asked for:
// oldest first, or newest first with ?order=newest.
func commentPage(r *http.Request) (p comments.Page, err error) {
	if p.Limit, err = limit(r); err != nil {
		return p, err
	}
	p.NewestFirst, err = newestFirst(r)
	p.Cursor = r.URL.Query().Get("cursor")
	return p, err
}

// listComments serves the comments of one page, or of its ?contact= or ?post= only, in
// one ?state= or in all.
func (s *Server) listComments(w http.ResponseWriter, r *http.Request) error {
	p, err := commentPage(r)
	if err != nil {
		return err
	}
	values := r.URL.Query()
	q := comments.Query{
		Contact: domain.ContactID(values.Get("contact")), Post: values.Get("post"),
		State: comments.State(values.Get("state")),
	}
	states := []comments.State{"", comments.Visible, comments.Hidden, comments.Removed}
	if !slices.Contains(states, q.State) {
		return problem(http.StatusBadRequest, "state is visible, hidden or removed")
	}
	return s.commentsAt(r, func(v projections.Viewer, page domain.PageID) error {
		b, err := s.bound(r, page)
		if err != nil {
			return err
		}
		read := func(cursor string, limit int) ([]comments.Comment, string, error) {
			return comments.List(v, page, q, comments.Page{Cursor: cursor, Limit: limit, NewestFirst: p.NewestFirst})
		}
		items, next, err := boundList(b, p.Cursor, p.Limit, read, b.comment)
		if b == nil {
			return writeList(w, "list comments", items, next, err)
		}
		out := make([]companyComment, len(items))
		for i, c := range items {
			out[i].Comment = c
		}
		return writeList(w, "list comments", out, next, err)
	})
}

func (s *Server) getComment(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("comment")
	return s.commentsAt(r, func(v projections.Viewer, page domain.PageID) error {
		c, err := comments.Get(v, page, id)
		b, refused := s.bound(r, page)
		switch {
		case refused != nil:
			return refused
		case errors.Is(err, comments.ErrNotFound), err == nil && !b.comment(c):
			return problem(http.StatusNotFound, fmt.Sprintf("page %s has no comment %s", page, id))
		case err != nil:
			return fmt.Errorf("get comment: %w", err)
		case b != nil:
			return writeJSON(w, http.StatusOK, companyComment{Comment: c})
		}
		return writeJSON(w, http.StatusOK, c)
	})
}

func (s *Server) listPosts(w http.ResponseWriter, r *http.Request) error {
	p, err := commentPage(r)
	if err != nil {
		return err
	}
	return s.commentsAt(r, func(v projections.Viewer, page domain.PageID) error {
		b, err := s.bound(r, page)
		if err != nil {
			return err
		}
		read := func(cursor string, limit int) ([]comments.Post, string, error) {
			return comments.Posts(v, page, comments.Page{Cursor: cursor, Limit: limit, NewestFirst: p.NewestFirst})
		}
		items, next, err := boundList(b, p.Cursor, p.Limit, read, b.post)
		if b == nil {
			return writeList(w, "list posts", items, next, err)
		}
		out := make([]companyPost, len(items))
		for i, one := range items {
			out[i].Post = one
		}
		return writeList(w, "list posts", out, next, err)
	})
}

func (s *Server) getPost(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("post")
	return s.commentsAt(r, func(v projections.Viewer, page domain.PageID) error {
		p, err := comments.GetPost(v, page, id)
		b, refused := s.bound(r, page)
		switch {
		case refused != nil:
			return refused
		case errors.Is(err, comments.ErrNotFound), err == nil && !b.post(p):
			return problem(http.StatusNotFound, fmt.Sprintf("page %s has no post %s", page, id))
		case err != nil:
			return fmt.Errorf("get post: %w", err)
		case b != nil:
			return writeJSON(w, http.StatusOK, companyPost{Post: p})
		}
		return writeJSON(w, http.StatusOK, p)
	})
}
