package main

import (
	"context"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/streams"
)

// past reads a conversation as it was at an event, or at a time by the stream's
// clock: it folds what the stream had of it by then.
func (p *Program) past(ctx context.Context, page domain.PageID, contact domain.ContactID, seq uint64, at time.Time,
	read func(projections.Viewer) error,
) error {
	return projections.Past(ctx, conversations.New(), projections.PastOptions{
		JS: p.js, Stream: streams.Name, Dir: p.cfg.ProjectionsDir(), Seq: seq, Time: at,
		Dedup:   deliveries.Index{Runner: p.model(deliveries.Name)},
		Filters: streams.Filter(page),
		Keep: func(e streams.Stored) bool {
			return e.Contact == contact || e.Data.Erasure != nil && e.Data.Erasure.Contact == domain.ContactHash(contact)
		},
	}, func(v projections.Viewer, _ uint64) error { return read(v) })
}
