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
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/streams"
)

// Send sends a message as a page. One that was sent and could not be recorded is no
// error, since nobody may send it again: it has a Warning.
func (o *Operator) Send(ctx context.Context, r outbound.Request) (outbound.Sent, error) {
	sent, err := o.Sender.Send(ctx, r)
	if errors.Is(err, outbound.ErrNotRecorded) {
		sent.Warning, err = err.Error(), nil
	}
	return sent, err
}

// Backfill fills a gap in a page's messages from the Conversations API.
func (o *Operator) Backfill(ctx context.Context, r backfill.Request, progress func(backfill.Progress)) (backfill.Sum, error) {
	return o.Filler.Run(ctx, r, progress)
}

// eraseWait is how long an answer waits for the deletion, which goes on without
// it: less than a client does.
const eraseWait = 50 * time.Second

// Erase removes a contact from the stream and the read models.
func (o *Operator) Erase(ctx context.Context, page domain.PageID, contact domain.ContactID) (erase.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, eraseWait)
	defer cancel()
	return o.Eraser.Erase(ctx, page, contact)
}

// Past reads a conversation as it was at an event, or at a time by the stream's
// clock where seq is 0: it folds what the stream had of it by then.
func (o *Operator) Past(ctx context.Context, page domain.PageID, contact domain.ContactID, seq uint64, at time.Time,
	read func(projections.Viewer) error,
) error {
	err := projections.Past(ctx, conversations.New(), projections.PastOptions{
		JS: o.JS, Stream: o.Stream, Dir: o.ModelsDir, Seq: seq, Time: at,
		Dedup:   deliveries.Index{Runner: o.Models.Deliveries()},
		Filters: streams.Filter(page),
		Keep: func(e streams.Stored) bool {
			return e.Contact == contact || e.Data.Erasure != nil && e.Data.Erasure.Contact == domain.ContactHash(contact)
		},
	}, func(v projections.Viewer, _ uint64) error { return read(v) })
	if err != nil {
		return fmt.Errorf("read the past: %w", err)
	}
	return nil
}
