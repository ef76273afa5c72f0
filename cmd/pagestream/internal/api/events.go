package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/sse"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
)

func (s *Server) eventRoutes() routes {
	return routes{
		"GET /api/v1/events":       s.listEvents,
		"GET /api/v1/events/{seq}": s.getEvent,
	}
}

// errEnough ends a read that has a full page.
var errEnough = errors.New("enough")

// eventHead is everything of an event but its data, which keeps its own bytes.
type eventHead struct {
	Seq     uint64           `json:"seq"`
	ID      string           `json:"id"`
	Type    domain.Type      `json:"type"`
	Page    domain.PageID    `json:"page"`
	Contact domain.ContactID `json:"contact,omitempty"`
	Time    *time.Time       `json:"time,omitempty"`
	Stored  time.Time        `json:"stored_at"`
	Standby bool             `json:"standby,omitempty"`
}

// appendEvent appends e as one JSON object whose data ends in the raw item,
// byte for byte; encoding/json would compact and escape it.
func appendEvent(buf *bytes.Buffer, e streams.Stored) error {
	head := eventHead{
		Seq: e.Seq, ID: e.ID, Type: e.Type, Page: e.Page, Contact: e.Contact, Stored: e.At, Standby: e.Standby,
	}
	if !e.Time.IsZero() {
		head.Time = &e.Time
	}
	h, err := json.Marshal(head)
	if err != nil {
		return fmt.Errorf("encode event %d: %w", e.Seq, err)
	}
	data, err := e.Data.Encode()
	if err != nil {
		return fmt.Errorf("encode event %d: %w", e.Seq, err)
	}
	buf.Write(h[:len(h)-1])
	buf.WriteString(`,"data":`)
	buf.Write(data)
	buf.WriteByte('}')
	return nil
}

// filters reads ?page= and ?type=, each repeatable or comma-separated.
func filters(r *http.Request) ([]string, error) {
	q := r.URL.Query()
	var types []domain.Type
	for _, v := range q["type"] {
		for name := range strings.SplitSeq(v, ",") {
			t := domain.Type(name)
			if !t.Known() {
				return nil, problem(http.StatusBadRequest, fmt.Sprintf("there is no event type %q; one is message.received", name))
			}
			types = append(types, t)
		}
	}
	var out []string
	for _, v := range q["page"] {
		for page := range strings.SplitSeq(v, ",") {
			out = append(out, streams.Filter(domain.PageID(page), types...)...)
		}
	}
	if len(out) == 0 && len(types) > 0 {
		out = streams.Filter("", types...)
	}
	return out, nil
}

// listEvents serves GET /api/v1/events: a page of events after ?after= (or
// ?cursor=), or the live feed where the client asks for text/event-stream.
func (s *Server) listEvents(w http.ResponseWriter, r *http.Request) error {
	filters, err := filters(r)
	if err != nil {
		return err
	}
	if wantsFeed(r) {
		return s.feedEvents(w, r, filters)
	}
	after, err := number(r, "after", 0)
	if err != nil {
		return err
	}
	if after == 0 {
		if after, err = number(r, "cursor", 0); err != nil {
			return err
		}
	}
	limit, err := limit(r)
	if err != nil {
		return err
	}
	var buf bytes.Buffer
	buf.WriteString(`{"items":[`)
	n, last := 0, uint64(0)
	_, err = streams.Read(r.Context(), s.opts.JS, streams.ReadOptions{Stream: s.opts.Stream, From: after + 1, Filters: filters},
		func(e streams.Stored) error {
			if n > 0 {
				buf.WriteByte(',')
			}
			if err := appendEvent(&buf, e); err != nil {
				return err
			}
			last = e.Seq
			// A page is bounded in bytes as well: events may be large.
			if n++; n >= limit || buf.Len() > maxPageBytes {
				return errEnough
			}
			return nil
		})
	full := errors.Is(err, errEnough)
	if err != nil && !full {
		return fmt.Errorf("read events: %w", err)
	}
	buf.WriteByte(']')
	if full {
		fmt.Fprintf(&buf, `,"next":"%d"`, last)
	}
	buf.WriteString("}\n")
	writeRaw(w, http.StatusOK, &buf)
	return nil
}

// getEvent serves GET /api/v1/events/{seq}.
func (s *Server) getEvent(w http.ResponseWriter, r *http.Request) error {
	seq, err := strconv.ParseUint(r.PathValue("seq"), 10, 64)
	if err != nil || seq == 0 {
		return problem(http.StatusBadRequest, "an event is named by its sequence, a number from 1")
	}
	e, err := streams.Get(r.Context(), s.opts.JS, s.opts.Stream, seq)
	if errors.Is(err, streams.ErrNotFound) {
		return problem(http.StatusNotFound, fmt.Sprintf("there is no event %d", seq))
	}
	if err != nil {
		return fmt.Errorf("read event %d: %w", seq, err)
	}
	var buf bytes.Buffer
	if err := appendEvent(&buf, e); err != nil {
		return err
	}
	buf.WriteByte('\n')
	writeRaw(w, http.StatusOK, &buf)
	return nil
}

// maxFeeds bounds the feeds that are open at once.
const maxFeeds = 64

// wantsFeed reports whether a client asks for server-sent events.
func wantsFeed(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Accept"), sse.ContentType)
}

// fed answers what came of a feed: the client connects again after all but a full
// house.
func (s *Server) fed(err error, full string) error {
	switch {
	case errors.Is(err, sse.ErrFull):
		return problem(http.StatusServiceUnavailable, full)
	case err != nil:
		s.opts.Logger.Warn("feed ended", "err", err)
	}
	return nil
}

// feedEvents serves events as they are stored, as server-sent events. It
// starts after Last-Event-ID (or ?after=), which is a sequence; without either
// it starts at the head. An event is sent once or more: a client that
// reconnects with the last id it handled misses none and sees none twice.
func (s *Server) feedEvents(w http.ResponseWriter, r *http.Request, filters []string) error {
	var after uint64
	var err error
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		if after, err = strconv.ParseUint(id, 10, 64); err != nil {
			return problem(http.StatusBadRequest, "Last-Event-ID is the sequence of the last event that was handled, a number")
		}
	} else if r.URL.Query().Has("after") {
		if after, err = number(r, "after", 0); err != nil {
			return err
		}
	} else if after, err = streams.Last(r.Context(), s.opts.JS, s.opts.Stream); err != nil {
		return fmt.Errorf("find the head: %w", err)
	}
	err = s.feeds.Serve(w, r, sse.Options{Hello: "feed", Heartbeat: "still here"}, func(ctx context.Context, send func(sse.Event) error) error {
		return streams.Follow(ctx, s.opts.JS, streams.ReadOptions{Stream: s.opts.Stream, From: after + 1, Filters: filters},
			func(e streams.Stored) error {
				var data bytes.Buffer
				if err := appendEvent(&data, e); err != nil {
					return err
				}
				return send(sse.Event{ID: strconv.FormatUint(e.Seq, 10), Type: string(e.Type), Data: data.Bytes()})
			})
	})
	return s.fed(err, fmt.Sprintf("%d feeds are open already, which is the limit", maxFeeds))
}
