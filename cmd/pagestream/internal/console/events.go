package console

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/names"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/sse"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
)

// eventsSize is the number of events on one page of the list.
const eventsSize = 100

// maxSpan is how many sequences one request looks through; the link to the earlier events goes on.
const maxSpan = 500_000

// eventFilter selects events. Empty fields select all.
type eventFilter struct {
	Page    domain.PageID
	Contact domain.ContactID
	Type    domain.Type
	// Since and Until bound the stored time.
	Since, Until time.Time
}

// eventsView is the view of the list of events.
type eventsView struct {
	Filter eventFilter
	Types  []domain.Type
	Events []eventRow
	// Live is the URL of the feed of newer events; empty on an earlier page, and if there is an end.
	Live string
	// Earlier is the URL of the earlier events, empty if there are none.
	Earlier string
}

// eventRow is an event with the names of its page and contact, and what it says.
type eventRow struct {
	streams.Stored
	PageName, ContactName string
}

// rowOfEvent returns an event's row.
func rowOfEvent(n *names.Names, e streams.Stored) eventRow {
	return eventRow{e, n.Page(e.Page), n.Contact(e.Page, e.Contact)}
}

func (c *Console) newNames() *names.Names { return names.New(c.opts.Pages, c.opts.Conversations) }

// eventFilterOf parses ?page=, ?contact=, ?type=, ?since= and ?until=.
func eventFilterOf(r *http.Request) (f eventFilter, err error) {
	q := r.URL.Query()
	f.Page, f.Contact = domain.PageID(q.Get("page")), domain.ContactID(strings.TrimSpace(q.Get("contact")))
	if f.Type = domain.Type(q.Get("type")); f.Type != "" && !f.Type.Known() {
		return f, badInput("There is no such type of event.")
	}
	if f.Since, err = timeOf(q.Get("since")); err == nil {
		f.Until, err = timeOf(q.Get("until"))
	}
	return f, err
}

// timeOf parses a time as a script or a browser without scripts sends it; the latter has no zone
// and is UTC. It returns the zero time for an empty one.
func timeOf(given string) (time.Time, error) {
	if given == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04", "2006-01-02T15:04:05"} {
		if at, err := time.Parse(layout, given); err == nil {
			return at.UTC(), nil
		}
	}
	return time.Time{}, badInput("A time is written like 2026-11-23T10:00 (UTC).")
}

// subjects returns the subject filters, none for all.
func (f eventFilter) subjects() []string {
	switch {
	case f.Type != "":
		return streams.Filter(f.Page, f.Type)
	case f.Page != "":
		return streams.Filter(f.Page)
	}
	return nil
}

// matches reports whether an event that has passed the subject filters is selected.
func (f eventFilter) matches(e streams.Stored) bool {
	return (f.Contact == "" || e.Contact == f.Contact) && (f.Since.IsZero() || !e.At.Before(f.Since)) &&
		(f.Until.IsZero() || !e.At.After(f.Until))
}

// query returns the filter as parameters of a URL.
func (f eventFilter) query() url.Values {
	q := url.Values{}
	for name, value := range map[string]string{
		"page": string(f.Page), "contact": string(f.Contact), "type": string(f.Type),
		"since": stampOf(f.Since), "until": stampOf(f.Until),
	} {
		if value != "" {
			q.Set(name, value)
		}
	}
	return q
}

func stampOf(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
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
	f, err := eventFilterOf(r)
	if err != nil {
		return err
	}
	v := eventsView{Filter: f, Types: domain.Types()}
	slices.Sort(v.Types)
	ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
	defer cancel()
	head, err := streams.Last(ctx, c.opts.JS, c.opts.Stream)
	if err != nil {
		return err
	}
	to, first := head, uint64(1)
	before := r.URL.Query().Get("before")
	if before != "" {
		n, err := sequence(before)
		if err != nil {
			return err
		}
		to = min(head, n-1)
	} else if f.Until.IsZero() {
		q := f.query()
		q.Set("after", strconv.FormatUint(head, 10))
		v.Live = "/live/events?" + q.Encode()
	}
	if !f.Since.IsZero() {
		if first, err = c.storedFrom(ctx, f.Since, head); err != nil {
			return err
		}
	}
	if !f.Until.IsZero() && before == "" {
		after, err := c.storedFrom(ctx, f.Until.Add(time.Nanosecond), head)
		if err != nil {
			return err
		}
		to = min(to, after-1)
	}
	list, rest, err := c.eventsUpTo(ctx, first, to, f)
	if err != nil {
		return err
	}
	found := c.newNames()
	for _, e := range list {
		v.Events = append(v.Events, rowOfEvent(found, e))
	}
	if rest >= first {
		q := f.query()
		q.Set("before", strconv.FormatUint(rest+1, 10))
		v.Earlier = "/events?" + q.Encode()
	}
	c.show(w, r, http.StatusOK, "events", "Events", v)
	return nil
}

// errFound ends the reading of a stream.
var errFound = errors.New("found")

// storedFrom returns the sequence of the first event up to head that was stored at a time or later,
// head+1 if there is none. It searches by halves: if the clock was set back meanwhile, it may
// be that of a later event.
func (c *Console) storedFrom(ctx context.Context, at time.Time, head uint64) (uint64, error) {
	low, high := uint64(1), head+1
	for low < high {
		middle := low + (high-low)/2
		next := high // the first event from the middle on, which is late enough if there is none
		_, err := streams.Read(ctx, c.opts.JS, streams.ReadOptions{
			Stream: c.opts.Stream, From: middle, To: high - 1, Malformed: skipMalformed,
		}, func(e streams.Stored) error {
			if e.At.Before(at) {
				next = e.Seq
			}
			return errFound
		})
		if err != nil && !errors.Is(err, errFound) {
			return 0, fmt.Errorf("find time in stream: %w", err)
		}
		if next < high {
			low = next + 1
		} else {
			high = middle
		}
	}
	return low, nil
}

// eventsUpTo reads the last events from a sequence to another one, the newest first, and returns
// the sequence up to which there may be more, below first if there are none. If few match, it reads
// further back in steps that grow by a factor of 8, through [maxSpan] sequences at most.
func (c *Console) eventsUpTo(ctx context.Context, first, to uint64, f eventFilter) (
	out []streams.Stored, rest uint64, err error,
) {
	end, read := to, uint64(0)
	for step := uint64(eventsSize); end >= first && end > 0 && len(out) < eventsSize && read < maxSpan; step *= 8 {
		from := max(first, end-min(step, maxSpan-read, end)+1)
		var found []streams.Stored
		_, err := streams.Read(ctx, c.opts.JS, streams.ReadOptions{
			Stream: c.opts.Stream, From: from, To: end, Filters: f.subjects(), Malformed: skipMalformed,
		}, func(e streams.Stored) error {
			if !f.matches(e) {
				return nil
			}
			if found = append(found, e); len(found) > eventsSize {
				found = found[1:] // only the newest of the step are kept
			}
			return nil
		})
		if err != nil {
			return nil, 0, fmt.Errorf("read events: %w", err)
		}
		slices.Reverse(found)
		out = append(out, found...)
		read += end - from + 1
		end = from - 1
	}
	if len(out) >= eventsSize {
		out = out[:eventsSize]
		end = out[eventsSize-1].Seq - 1
	}
	return out, end, nil
}

// liveEvents serves GET /live/events: each new event as a row of the table.
func (c *Console) liveEvents(w http.ResponseWriter, r *http.Request) error {
	f, err := eventFilterOf(r)
	if err != nil {
		return err
	}
	after, err := feedAfter(r)
	if err != nil {
		return err
	}
	return c.feed(w, r, func(ctx context.Context, send func(sse.Event) error) error {
		return streams.Follow(ctx, c.opts.JS, streams.ReadOptions{
			Stream: c.opts.Stream, From: streams.Following(after), Filters: f.subjects(), Malformed: skipMalformed,
		}, func(e streams.Stored) error {
			if !f.matches(e) {
				return nil
			}
			html, err := part("event-row", rowOfEvent(c.newNames(), e)) // a feed is long, and names change
			if err != nil {
				return err
			}
			return send(sse.Event{ID: strconv.FormatUint(e.Seq, 10), Type: "event", Data: html})
		})
	})
}

// eventView is the view of one event.
type eventView struct {
	Event eventRow
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
	v := eventView{Event: rowOfEvent(c.newNames(), e), Earlier: seq - 1, Later: seq + 1}
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
