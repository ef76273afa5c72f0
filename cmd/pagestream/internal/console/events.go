package console

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/sse"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
)

// eventsSize is the number of events on one page of the list.
const eventsSize = 100

// eventsView is the view of the list of events.
type eventsView struct {
	Page   domain.PageID
	Type   domain.Type
	Types  []domain.Type
	Events []streams.Stored
	// Live is the URL of the feed of newer events; empty on an earlier page.
	Live string
	// Earlier is the sequence before which the earlier page ends, 0 if there is none.
	Earlier uint64
}

// filtersOf parses ?page= and ?type=.
func filtersOf(r *http.Request) (page domain.PageID, kind domain.Type, filters []string, err error) {
	page, kind = domain.PageID(r.URL.Query().Get("page")), domain.Type(r.URL.Query().Get("type"))
	if kind != "" && !kind.Known() {
		return "", "", nil, badInput("There is no such type of event.")
	}
	var kinds []domain.Type
	if kind != "" {
		kinds = append(kinds, kind)
	}
	if page != "" || kind != "" {
		filters = streams.Filter(page, kinds...)
	}
	return page, kind, filters, nil
}

// sequence parses the sequence of an event.
func sequence(given string) (uint64, error) {
	seq, err := strconv.ParseUint(given, 10, 64)
	if err != nil || seq == 0 {
		return 0, badInput("An event is named by its sequence, a number from 1.")
	}
	return seq, nil
}

// events serves GET /events: the newest events, or those before ?before=.
func (c *Console) events(w http.ResponseWriter, r *http.Request) error {
	page, kind, filters, err := filtersOf(r)
	if err != nil {
		return err
	}
	v := eventsView{Page: page, Type: kind, Types: domain.Types()}
	slices.Sort(v.Types)
	head, err := streams.Last(r.Context(), c.opts.JS, c.opts.Stream)
	if err != nil {
		return err
	}
	to := head
	if before := r.URL.Query().Get("before"); before != "" {
		n, err := sequence(before)
		if err != nil {
			return err
		}
		to = min(head, n-1)
	} else {
		q := url.Values{"after": {strconv.FormatUint(head, 10)}}
		if page != "" {
			q.Set("page", string(page))
		}
		if kind != "" {
			q.Set("type", string(kind))
		}
		v.Live = "/live/events?" + q.Encode()
	}
	if v.Events, err = c.eventsUpTo(r.Context(), to, filters); err != nil {
		return err
	}
	if len(v.Events) == eventsSize && v.Events[eventsSize-1].Seq > 1 {
		v.Earlier = v.Events[eventsSize-1].Seq
	}
	c.show(w, r, http.StatusOK, "events", "Events", v)
	return nil
}

// eventsUpTo reads the last events up to a sequence, the newest first. If few match,
// it reads further back in steps that grow by a factor of 8.
func (c *Console) eventsUpTo(ctx context.Context, to uint64, filters []string) (out []streams.Stored, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for step, end := uint64(eventsSize), to; end > 0 && len(out) < eventsSize; step *= 8 {
		from := end - min(step, end) + 1
		var found []streams.Stored
		_, err := streams.Read(ctx, c.opts.JS, streams.ReadOptions{
			Stream: c.opts.Stream, From: from, To: end, Filters: filters, Malformed: skipMalformed,
		}, func(e streams.Stored) error {
			if found = append(found, e); len(found) > eventsSize {
				found = found[1:] // only the newest of the step are kept
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("read events: %w", err)
		}
		slices.Reverse(found)
		out = append(out, found...)
		end = from - 1
	}
	return out[:min(len(out), eventsSize)], nil
}

// liveEvents serves GET /live/events: each new event as a row of the table.
func (c *Console) liveEvents(w http.ResponseWriter, r *http.Request) error {
	_, _, filters, err := filtersOf(r)
	if err != nil {
		return err
	}
	after, err := feedAfter(r)
	if err != nil {
		return err
	}
	return c.feed(w, r, func(ctx context.Context, send func(sse.Event) error) error {
		return streams.Follow(ctx, c.opts.JS, streams.ReadOptions{
			Stream: c.opts.Stream, From: streams.Following(after), Filters: filters, Malformed: skipMalformed,
		}, func(e streams.Stored) error {
			html, err := part("event-row", e)
			if err != nil {
				return err
			}
			return send(sse.Event{ID: strconv.FormatUint(e.Seq, 10), Type: "event", Data: html})
		})
	})
}

// eventView is the view of one event.
type eventView struct {
	Event streams.Stored
	// Raw is the item as Meta sent it, Data the fields that were decoded from it.
	Raw, Data string
	Earlier   uint64
	Later     uint64
}

// event serves GET /events/{seq}.
func (c *Console) event(w http.ResponseWriter, r *http.Request) error {
	seq, err := sequence(r.PathValue("seq"))
	if err != nil {
		return err
	}
	e, err := streams.Get(r.Context(), c.opts.JS, c.opts.Stream, seq)
	if err != nil {
		return err
	}
	v := eventView{Event: e, Earlier: seq - 1, Later: seq + 1}
	if head, err := streams.Last(r.Context(), c.opts.JS, c.opts.Stream); err == nil && seq >= head {
		v.Later = 0
	}
	raw, understood := e.Data.Raw, e.Data
	understood.Raw = nil
	data, err := understood.EncodeLine()
	if err != nil {
		return fmt.Errorf("encode event %d: %w", seq, err)
	}
	v.Raw, v.Data = pretty(raw), pretty(data)
	c.show(w, r, http.StatusOK, "event", fmt.Sprintf("Event %d", seq), v)
	return nil
}

// maxSources is the largest number of events in one request for sources.
const maxSources = 64

// sources serves GET /sources?event=7&event=9: the events that changed a row.
func (c *Console) sources(w http.ResponseWriter, r *http.Request) error {
	var out []streams.Stored
	for i, given := range r.URL.Query()["event"] {
		seq, err := sequence(given)
		if err != nil || i == maxSources {
			return badInput("Up to 64 events, each named by its sequence.")
		}
		e, err := streams.Get(r.Context(), c.opts.JS, c.opts.Stream, seq)
		if errors.Is(err, streams.ErrNotFound) || errors.Is(err, streams.ErrMalformed) {
			continue // it was erased, or is no event
		}
		if err != nil {
			return err
		}
		out = append(out, e)
	}
	c.show(w, r, http.StatusOK, "sources", "Events", out)
	return nil
}
