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
	// noticeInterval is the minimum time between two notices of one feed, so that a
	// browser reloads a busy page at most a few times a second.
	noticeInterval = 250 * time.Millisecond
	// modelWait bounds how long a notice waits for the read model.
	modelWait = 5 * time.Second
)

// feed sends the events of produce as server-sent events until the client disconnects.
func (c *Console) feed(w http.ResponseWriter, r *http.Request,
	produce func(ctx context.Context, send func(sse.Event) error) error,
) error {
	switch err := c.feeds.Serve(w, r, sse.Options{Hello: "live", Heartbeat: "beat"}, produce); {
	case errors.Is(err, sse.ErrFull):
		text := fmt.Sprintf("%d live views are open already, which is the limit.", maxFeeds)
		return problem{http.StatusServiceUnavailable, text}
	case err != nil:
		c.opts.Logger.Warn("live view ended", "what", r.Pattern, "err", err)
	}
	return nil // the browser reconnects
}

// feedAfter returns the sequence after which a feed starts: the last one that the
// browser received, or the one up to which the page was rendered. So no event between
// the page and its feed is missed.
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

// liveConversations sends a notice when a page's conversations have changed: "page"
// for any of them, and also "thread" for the one of the contact in the path. The
// notice is sent when the read model has applied the change.
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
				Stream: c.opts.Stream, From: streams.Following(after), Filters: streams.Filter(page), Malformed: skipMalformed,
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
				last, inThread := e.Seq, concerns(e, contact)
				over := time.After(noticeInterval)
				for more := true; more; { // events that follow closely share one notice
					select {
					case e := <-seqs:
						last, inThread = e.Seq, inThread || concerns(e, contact)
					case <-over:
						more = false
					}
				}
				waiting, cancel := context.WithTimeout(ctx, modelWait)
				_ = c.opts.Conversations.WaitFor(waiting, last) // a read model that lags is shown as it is
				cancel()
				id := strconv.FormatUint(last, 10)
				err := send(sse.Event{ID: id, Type: "page"})
				if err == nil && inThread {
					err = send(sse.Event{ID: id, Type: "thread"})
				}
				if err != nil {
					return err
				}
			}
		}
	})
}

// concerns reports whether an event is about the contact or erases it.
func concerns(e streams.Stored, contact domain.ContactID) bool {
	if contact == "" {
		return false
	}
	erasure := e.Data.Erasure
	return e.Contact == contact || erasure != nil && erasure.Contact == domain.ContactHash(contact)
}

// skipMalformed skips stream messages that are not events; the audit counts them.
func skipMalformed(uint64, error) error { return nil }
