package connect

import (
	"context"
	"errors"
	"fmt"

	"github.com/pagestream/pagestream/domain"
)

// ErrConnected is returned when a page is connected and the operation is for other pages.
var ErrConnected = errors.New("the page is connected; disconnect it first: pagestream pages disconnect PAGE")

// MarkTest records that the page is a test: what is received for it is not from Meta. It returns the sequence of
// the event. [ErrConnected] is returned for a connected page, [ErrChanged] if the page changed meanwhile.
func (c *Connector) MarkTest(ctx context.Context, page domain.PageID) (uint64, error) {
	return c.record(ctx, page, domain.PageTestMarked, domain.Connection{Reason: "by the operator"})
}

// Forget records that the read models forget the page. Its events before stay in the stream. It returns the sequence of
// the event. [ErrConnected] is returned for a connected page, [ErrChanged] if the page changed meanwhile.
func (c *Connector) Forget(ctx context.Context, page domain.PageID, name string) (uint64, error) {
	return c.record(ctx, page, domain.PageForgotten, domain.Connection{Name: name, Reason: "forgotten by the operator"})
}

// record appends an event about a page that is not connected. The condition of Append is the page's last event, so a
// connection meanwhile is not lost.
func (c *Connector) record(
	ctx context.Context, page domain.PageID, t domain.Type, about domain.Connection,
) (uint64, error) {
	if page == "" || page == domain.NoPage {
		return 0, fmt.Errorf("%w: it names no page", ErrRequest)
	}
	last, err := c.lastSeq(ctx, page, t)
	if err != nil {
		return 0, err
	}
	known, err := c.opts.Pages.Known(ctx, page, last)
	if err != nil {
		return 0, fmt.Errorf("read page %s: %w", page, err)
	}
	if known.Connected {
		return 0, ErrConnected
	}
	op := &operation{c: c, page: page, attempt: c.opts.NewID()}
	return op.append(ctx, last, t, domain.Data{Connection: &about})
}
