package backfill

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/time/rate"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
)

const (
	// maxConversations is how many conversations one run reads. maxMessages and
	// maxBytes are how much of one conversation is kept in memory; a longer one is
	// stored in parts, so that its oldest messages are not stored first.
	maxConversations = 200_000
	maxMessages      = 5000
	maxBytes         = 16 << 20
	// clockSkew is the assumed difference between Meta's clock and ours.
	clockSkew = time.Minute
	// maxWalks is how often the list is read at most, to find conversations that became
	// active meanwhile.
	maxWalks = 4
)

// walk is one run.
type walk struct {
	*Filler
	Request
	access   meta.Access
	progress func(Progress)
	limiter  *rate.Limiter
	sum      Sum
	// seen has the keys of the conversations that were read.
	seen map[string]bool
}

// platform reads the conversations of one platform. Account is the id of the page or
// of its Instagram account there.
func (w *walk) platform(ctx context.Context, platform string, account domain.PageID) error {
	since := w.Since
	for range maxWalks {
		began, fresh := w.opts.Now(), 0
		err := w.list(ctx, platform, since, func(c graph.Conversation) error {
			key := platform + "|" + c.ID
			if w.seen[key] {
				return nil
			}
			if len(w.seen) >= maxConversations {
				return ErrTooMany
			}
			if err := w.conversation(ctx, platform, account, c); err != nil {
				return err
			}
			w.seen[key] = true
			w.sum.Conversations++
			fresh++
			w.progress(Progress{platform, c.Updated, w.sum})
			return nil
		})
		// A conversation that became active while the list was read has moved to its
		// front, which the cursor has passed already.
		if err != nil || fresh == 0 {
			return err
		}
		if since = began.Add(-clockSkew); since.Before(w.Since) {
			since = w.Since
		}
	}
	return nil
}

// list calls fn for the conversations that were active since, the newest first.
func (w *walk) list(ctx context.Context, platform string, since time.Time, fn func(graph.Conversation) error) error {
	for after := ""; ; {
		var list []graph.Conversation
		var next string
		err := w.call(ctx, func() (err error) {
			list, next, err = w.opts.Graph.Conversations(ctx, w.access, platform, after, w.opts.Limit)
			return err
		})
		if err != nil {
			return fmt.Errorf("list conversations: %w", err)
		}
		for _, c := range list {
			if c.Updated.Before(since) {
				return nil
			}
			if err := fn(c); err != nil {
				return err
			}
		}
		if next == "" || next == after {
			return nil
		}
		after = next
	}
}

// conversation appends the messages of one conversation that are in the gap.
func (w *walk) conversation(ctx context.Context, platform string, account domain.PageID, c graph.Conversation) error {
	var events []domain.Event // the newest first
	size := 0
	list, after := c.Messages, c.After
	for first := true; ; first = false {
		for _, m := range list {
			if !m.Created.IsZero() && m.Created.Before(w.Since) {
				return w.store(ctx, events)
			}
			if m.Created.After(w.Until) {
				continue
			}
			e, ok, err := w.event(m, platform, account)
			if err != nil {
				return err
			}
			if ok {
				events = append(events, e)
				size += len(e.Data.Raw) + len(m.Text)
			}
		}
		if len(events) >= maxMessages || size >= maxBytes {
			if err := w.store(ctx, events); err != nil {
				return err
			}
			events, size = nil, 0
		}
		if after == "" && !(first && len(list) == 0) {
			return w.store(ctx, events)
		}
		was := after
		err := w.call(ctx, func() (err error) {
			list, after, err = w.opts.Graph.Messages(ctx, w.access, c.ID, was)
			return err
		})
		if unreadable(err) {
			w.sum.Unreadable++
			return w.store(ctx, events)
		}
		if err != nil {
			// The messages that were read are the newest part of the gap; they are kept.
			return errors.Join(fmt.Errorf("read messages: %w", err), w.store(ctx, events))
		}
		if after == was {
			after = ""
		}
	}
}

// unreadable reports whether Graph refused only this conversation and not the page: it
// does not exist, or Graph no longer returns it.
func unreadable(err error) bool {
	refusal, class := meta.Refused(err), meta.ClassOf(err)
	return (class == meta.Gone || class == meta.Parameter) && !refusal.Temporary()
}
