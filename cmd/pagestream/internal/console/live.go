package console

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
)

// Bounds of a feed.
const (
	maxFeeds       = 64
	feedHeartbeat  = 15 * time.Second
	feedWriteLimit = 30 * time.Second
	// quiet is the least time between two notices of one feed, so that a busy
	// page costs its readers no more than a few pages a second.
	quiet = 250 * time.Millisecond
	// modelWait bounds how long a notice waits for the read model.
	modelWait = 5 * time.Second
)

// notice is one server-sent event.
type notice struct {
	id    uint64 // 0 for none
	event string
	data  string
}

// feed sends what produce gives as server-sent events until the client goes.
// produce must return when its context ends, and may block in send.
// https://html.spec.whatwg.org/multipage/server-sent-events.html
func (c *Console) feed(w http.ResponseWriter, r *http.Request, produce func(ctx context.Context, send func(notice)) error) error {
	select {
	case c.feeds <- struct{}{}:
		defer func() { <-c.feeds }()
	default:
		return problem{http.StatusServiceUnavailable, fmt.Sprintf("%d live views are open already, which is the limit.", maxFeeds)}
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()

	head := w.Header()
	head.Set("Content-Type", "text/event-stream")
	head.Set("Cache-Control", "no-store")
	rc := http.NewResponseController(w)
	write := func(s string) bool {
		_ = rc.SetWriteDeadline(time.Now().Add(feedWriteLimit))
		_, err := w.Write([]byte(s))
		return err == nil && rc.Flush() == nil
	}
	if !write(": live\n\n") {
		return nil
	}
	notices := make(chan notice, 64)
	produced := make(chan error, 1)
	go func() {
		produced <- produce(ctx, func(n notice) {
			select {
			case notices <- n:
			case <-ctx.Done():
			}
		})
	}()
	beat := time.NewTicker(feedHeartbeat)
	defer beat.Stop()
	for {
		alive := true
		select {
		case n := <-notices:
			alive = write(n.String())
		case <-beat.C:
			alive = write(": beat\n\n")
		case err := <-produced:
			if err != nil && ctx.Err() == nil {
				c.opts.Logger.Warn("live view ended", "what", r.Pattern, "err", err)
			}
			return nil // the browser connects again
		}
		if !alive {
			cancel()
			<-produced //nolint:errcheck // it was told to end
			return nil
		}
	}
}

// String is the notice as it is sent.
func (n notice) String() string {
	var b strings.Builder
	if n.id > 0 {
		fmt.Fprintf(&b, "id: %d\n", n.id)
	}
	fmt.Fprintf(&b, "event: %s\n", n.event)
	for line := range strings.Lines(n.data) {
		b.WriteString("data: " + strings.TrimRight(line, "\r\n") + "\n")
	}
	if n.data == "" {
		b.WriteString("data:\n")
	}
	b.WriteString("\n")
	return b.String()
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
	return c.feed(w, r, func(ctx context.Context, send func(notice)) error {
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
				pause := time.NewTimer(quiet)
				for more := true; more; { // one notice for what comes together
					select {
					case e := <-seqs:
						last, mine = e.Seq, mine || about(e, contact)
					case <-pause.C:
						more = false
					}
				}
				waiting, cancel := context.WithTimeout(ctx, modelWait)
				_ = c.opts.Conversations.WaitFor(waiting, last) // a model that lags is shown as it is
				cancel()
				send(notice{id: last, event: "page"})
				if mine {
					send(notice{id: last, event: "thread"})
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
