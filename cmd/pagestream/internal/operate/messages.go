package operate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/backfill"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/erase"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/outbound"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/comments"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/streams"
)

// Send sends a message as a page. If the message was sent but could not be recorded,
// Send returns no error, so that no caller sends it again: the result has a Warning.
func (o *Operator) Send(ctx context.Context, r outbound.Request) (outbound.Sent, error) {
	sent, err := o.Sender.Send(ctx, r)
	if errors.Is(err, outbound.ErrNotRecorded) {
		sent.Warning, err = err.Error(), nil
	}
	return sent, err
}

// Backfill fills a gap in a page's messages from the Conversations API.
func (o *Operator) Backfill(ctx context.Context, r backfill.Request, progress func(backfill.Progress)) (
	backfill.Sum, error,
) {
	return o.Filler.Run(ctx, r, progress)
}

// eraseWait is how long Erase waits for the deletion, which goes on in the background
// after that. It is shorter than the timeout of clients.
const eraseWait = 50 * time.Second

// Erase removes a contact from the stream, the read models and everything else that keeps
// events. It waits for the deletion for up to 50 seconds. The result names who may have
// received events of the contact. See [erase.Eraser.Erase].
func (o *Operator) Erase(ctx context.Context, page domain.PageID, contact domain.ContactID) (erase.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, eraseWait)
	defer cancel()
	if page == domain.NoPage { // what belongs to no page is erased with what the contact's page has
		return erase.Result{}, erase.ErrRequest
	}
	out, err := o.Eraser.Erase(ctx, page, contact)
	o.applied(ctx, out.Seq)
	if err != nil || out.Seq == 0 {
		return out, err
	}
	out.Consumers, err = o.consumersOf(ctx, page)
	if err == nil && o.Hooks != nil {
		out.Hooks, err = o.Hooks.Receivers(page)
	}
	return out, err
}

// appliedWait is how long [Operator.applied] waits at most.
const appliedWait = 5 * time.Second

// applied waits, for a bounded time, until every read model has applied the event seq.
// So the operator's next command sees the effect of this one.
func (o *Operator) applied(ctx context.Context, seq uint64) {
	ctx, cancel := context.WithTimeout(ctx, appliedWait)
	defer cancel()
	for _, m := range o.Models {
		if m.WaitFor(ctx, seq) != nil {
			return
		}
	}
}

// Past reads a conversation as it was at the event seq or, if seq is 0, at a time by
// the stream's clock. It replays the conversation's events up to there.
func (o *Operator) Past(ctx context.Context, page domain.PageID, contact domain.ContactID, seq uint64, at time.Time,
	read func(projections.Viewer) error,
) error {
	return o.past(ctx, conversations.New(), projections.PastOptions{
		Seq: seq, Time: at, Filters: streams.Filter(page),
		Keep: func(e streams.Stored) bool {
			return e.Contact == contact || e.Type == domain.PageForgotten ||
				e.Data.Erasure != nil && e.Data.Erasure.Contact == domain.ContactHash(contact)
		},
	}, read)
}

// PastComments reads the comments and posts of a page as they were at the event seq or,
// if seq is 0, at a time by the stream's clock. It replays the page's events about
// comments and posts up to there.
func (o *Operator) PastComments(ctx context.Context, page domain.PageID, seq uint64, at time.Time,
	read func(projections.Viewer) error,
) error {
	return o.past(ctx, comments.New(), projections.PastOptions{
		Seq: seq, Time: at, Filters: streams.Filter(page, comments.Types()...),
	}, read)
}

// past folds the selected events of the stream up to a point and reads the result.
func (o *Operator) past(ctx context.Context, p projections.Projection, past projections.PastOptions,
	read func(projections.Viewer) error,
) error {
	past.JS, past.Stream, past.Dir = o.JS, o.Stream, o.ModelsDir
	past.Dedup = deliveries.Index{Runner: o.Models.Deliveries()}
	err := projections.Past(ctx, p, past, func(v projections.Viewer, _ uint64) error { return read(v) })
	if err != nil {
		return fmt.Errorf("read the past: %w", err)
	}
	return nil
}
