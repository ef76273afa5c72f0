package operate

import (
	"context"
	"errors"
	"fmt"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/comments"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/pages"
)

// TestMarked is the result of [Operator.MarkTest].
type TestMarked struct {
	Page domain.PageID `json:"page"`
	// Seq is the sequence of the event page.test_marked.
	Seq uint64 `json:"seq"`
}

// Forgotten is the result of [Operator.Forget]: what the read models had of the page, and have no more.
type Forgotten struct {
	Page domain.PageID `json:"page"`
	Name string        `json:"name,omitempty"`
	// Seq is the sequence of the event page.forgotten.
	Seq           uint64 `json:"seq"`
	Conversations uint64 `json:"conversations"`
	Messages      uint64 `json:"messages"`
	Comments      uint64 `json:"comments"`
	Posts         uint64 `json:"posts"`
	// Events is how many events of the page stay in the stream, as they were counted.
	Events uint64 `json:"events"`
}

// MarkTest marks a page that was never connected as a test, until it is connected or forgotten. The page need not be
// known. It may be repeated. It fails with [connect.ErrConnected] for a page that is connected, and with [ErrRealPage]
// for one that was, unless it was forgotten since, and for an account that is linked to a connected page.
func (o *Operator) MarkTest(ctx context.Context, page domain.PageID) (TestMarked, error) {
	wasReal, err := o.findPage(ctx, func() (bool, error) {
		p, err := pages.Get(o.Models.Pages(), page)
		if err == nil {
			return p.State == pages.Disconnected || p.LinkedPage != "", nil
		}
		if errors.Is(err, pages.ErrNotFound) {
			_, err = pages.ByInstagram(o.Models.Pages(), string(page)) // of which nothing was received yet
		}
		if errors.Is(err, pages.ErrNotFound) {
			return false, nil
		}
		return err == nil, err
	})
	if err == nil && wasReal {
		err = fmt.Errorf("page %s: %w", page, ErrRealPage)
	}
	if err != nil {
		return TestMarked{}, err
	}
	seq, err := o.Connector.MarkTest(ctx, page)
	if err != nil {
		return TestMarked{}, err
	}
	o.Known.Settle(ctx, seq)
	return TestMarked{Page: page, Seq: seq}, nil
}

// Forget removes a page that is not connected, and its conversations, comments, posts and subscriptions, from the read
// models. What stays: its events in the stream and in what consumers have received, their ids, so that an item that
// Meta sends again is still a duplicate, who they belonged to, and which contacts were erased. What the page receives
// later is shown again. It fails with [pages.ErrNotFound] for a page that no read model has, and with
// [connect.ErrConnected] for one that is connected or linked to a connected one.
func (o *Operator) Forget(ctx context.Context, page domain.PageID) (Forgotten, error) {
	var p pages.Page
	_, err := o.findPage(ctx, func() (bool, error) {
		var err error
		if p, err = pages.Get(o.Models.Pages(), page); errors.Is(err, pages.ErrNotFound) {
			return false, nil
		}
		return err == nil, err
	})
	if err == nil && p.ID == "" {
		err = fmt.Errorf("page %s: %w", page, pages.ErrNotFound)
	}
	if err == nil && p.LinkedPage != "" {
		err = fmt.Errorf("account %s is linked to page %s: %w", page, p.LinkedPage, connect.ErrConnected)
	}
	if err != nil {
		return Forgotten{}, err
	}
	talks, err := conversations.Count(o.Models.Conversations(), page)
	if err != nil {
		return Forgotten{}, fmt.Errorf("count conversations: %w", err)
	}
	said, err := comments.Count(o.Models.Comments(), page)
	if err != nil {
		return Forgotten{}, fmt.Errorf("count comments: %w", err)
	}
	seq, err := o.Connector.Forget(ctx, page, p.Name)
	if err != nil {
		return Forgotten{}, err
	}
	o.Known.Settle(ctx, seq)
	wait, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	// A read model that is behind has the page a little longer.
	_ = o.Models.Conversations().WaitFor(wait, seq)
	_ = o.Models.Comments().WaitFor(wait, seq)
	return Forgotten{
		Page: page, Name: p.Name, Seq: seq, Conversations: talks.Conversations, Messages: talks.In + talks.Out,
		Comments: said.Comments.Sum(), Posts: said.Posts, Events: p.Traffic.Events,
	}, nil
}
