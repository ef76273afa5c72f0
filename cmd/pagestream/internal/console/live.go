package console

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/sse"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
)

// Bounds of a live view.
const (
	maxFeeds = 64
	// quiet is the least time between two notices of one feed, so that a busy
	// page costs its readers no more than a few pages a second.
	quiet = 250 * time.Millisecond
	// modelWait bounds how long a notice waits for the read model.
	modelWait = 5 * time.Second
)

// feed sends what produce gives as server-sent events until the client goes.
func (c *Console) feed(w http.ResponseWriter, r *http.Request, produce func(ctx context.Context, send func(sse.Event) error) error) error {
	switch err := c.feeds.Serve(w, r, sse.Options{Hello: "live", Heartbeat: "beat"}, produce); {
	case errors.Is(err, sse.ErrFull):
		return problem{http.StatusServiceUnavailable, fmt.Sprintf("%d live views are open already, which is the limit.", maxFeeds)}
	case err != nil:
		c.opts.Logger.Warn("live view ended", "what", r.Pattern, "err", err)
	}
	return nil // the browser connects again
}

// feedAfter is the event after which a feed begins: the last that the browser was
// told of, or the one that the page around it was made at. So nothing that comes
// between the page and its feed is missed.
func feedAfter(r *http.Request) (uint64, error) {
	after := r.Header.Get("Last-Event-ID")
	if after == "" {
		after = r.URL.Query().Get("after")
	}
	seq, err := strconv.ParseUint(after, 10, 64)
	if err != nil {
		return 0, badInput("after is the sequence of an event, a number.")
	}
	return seq, nil
}

// liveConversations says when a page's conversations have changed: "page" for any,
// and "thread" where the path names a contact and it is theirs. The read model
// has the change when it is said.
func (c *Console) liveConversations(w http.ResponseWriter, r *http.Request) error {
	page, contact := pageOf(r), contactOf(r)
	after, err := feedAfter(r)
	if err != nil {
		return err
	}
	return c.feed(w, r, func(ctx context.Context, send func(sse.Event) error) error {
		seqs := make(chan streams.Stored, 256)
		followed := make(chan error, 1)
		go func() {
			followed <- streams.Follow(ctx, c.opts.JS, streams.ReadOptions{
				Stream: c.opts.Stream, From: after + 1, Filters: streams.Filter(page), Malformed: skipMalformed,
			}, func(e streams.Stored) error {
				select {
				case seqs <- e:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			})
		}()
		for {
			select {
			case err := <-followed:
				return err
			case e := <-seqs:
				last, mine := e.Seq, about(e, contact)
				over := time.After(quiet)
				for more := true; more; { // one notice for what comes together
					select {
					case e := <-seqs:
						last, mine = e.Seq, mine || about(e, contact)
					case <-over:
						more = false
					}
				}
				waiting, cancel := context.WithTimeout(ctx, modelWait)
				_ = c.opts.Conversations.WaitFor(waiting, last) // a model that lags is shown as it is
				cancel()
				id := strconv.FormatUint(last, 10)
				err := send(sse.Event{ID: id, Type: "page"})
				if err == nil && mine {
					err = send(sse.Event{ID: id, Type: "thread"})
				}
				if err != nil {
					return err
				}
			}
		}
	})
}

func about(e streams.Stored, contact domain.ContactID) bool {
	return contact != "" && (e.Contact == contact || e.Data.Erasure != nil && e.Data.Erasure.Contact == domain.ContactHash(contact))
}

// skipMalformed leaves out what is no event of ours; the audit counts it.
func skipMalformed(uint64, error) error { return nil }
