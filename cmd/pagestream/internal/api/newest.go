package api

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/streams"
)

// storedRange selects events by when they were stored. A zero time is no bound.
type storedRange struct{ since, until time.Time }

// storedIn parses ?since= and ?until=.
func storedIn(r *http.Request) (s storedRange, err error) {
	for name, at := range map[string]*time.Time{"since": &s.since, "until": &s.until} {
		given := r.URL.Query().Get(name)
		if given == "" {
			continue
		}
		if *at, err = time.Parse(time.RFC3339Nano, given); err != nil {
			return s, problem(http.StatusBadRequest, name+" is a time, as in 2026-11-23T10:00:00Z")
		}
	}
	return s, nil
}

// bound bounds what is read to where the events of that time are. none reports that there are none.
func (s storedRange) bound(ctx context.Context, js jetstream.JetStream, o *streams.ReadOptions) (none bool, err error) {
	if s.since.IsZero() && s.until.IsZero() {
		return false, nil
	}
	first, last, err := streams.Between(ctx, js, o.Stream, s.since, s.until)
	if err != nil {
		return false, fmt.Errorf("find events by time: %w", err)
	}
	o.From = max(o.From, first)
	if !s.until.IsZero() {
		if o.To == 0 || last < o.To {
			o.To = last
		}
		none = o.To < o.From
	}
	return none, nil
}

func (s storedRange) has(at time.Time) bool {
	return !at.Before(s.since) && (s.until.IsZero() || at.Before(s.until))
}

// The stream is read forward only, so what is at its end is read in windows of sequences, each before the last one and
// wider, until there are enough events.
const (
	firstWindow = 1000
	maxWindow   = 1 << 20
	widening    = 4
)

// backward reads one page of events, the newest first.
type backward struct {
	s       *Server
	from    streams.ReadOptions
	limit   int
	stored  storedRange
	events  eventWriter
	belongs func(context.Context, streams.Stored) (bool, error)
}

// shown is an encoded event.
type shown struct {
	seq  uint64
	json []byte
}

// write serves the page. Its cursor is the sequence of the oldest event in it.
func (b backward) write(w http.ResponseWriter, r *http.Request) error {
	before, err := number(r, "cursor", 0)
	if err != nil {
		return err
	}
	to := before - 1
	if before == 0 {
		if to, err = streams.Last(r.Context(), b.s.opts.JS, b.s.opts.Stream); err != nil {
			return fmt.Errorf("find the head: %w", err)
		}
	}
	if b.from.To > 0 {
		to = min(to, b.from.To)
	}
	list, full, err := b.read(r.Context(), to)
	if err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	var buf bytes.Buffer
	buf.WriteString(`{"items":[`)
	for i, e := range list {
		if i > 0 {
			buf.WriteByte(',')
		}
		buf.Write(e.json)
	}
	buf.WriteByte(']')
	if full {
		fmt.Fprintf(&buf, `,"next":%q`, strconv.FormatUint(list[len(list)-1].seq, 10))
	}
	buf.WriteString("}\n")
	writeRaw(w, http.StatusOK, &buf)
	return nil
}

// read returns the newest events up to a sequence, and whether the page is full, so that there may be more.
func (b backward) read(ctx context.Context, to uint64) (list []shown, full bool, err error) {
	width, size := uint64(max(firstWindow, b.limit)), 0
	for to >= b.from.From && to > 0 {
		low := b.from.From
		if to-low >= width {
			low = to - width + 1
		}
		var some []shown
		more := 0 // the bytes of some
		o := b.from
		o.From, o.To = low, to
		_, err := streams.Read(ctx, b.s.opts.JS, o, func(e streams.Stored) error {
			if !b.stored.has(e.At) {
				return nil
			}
			if ok, err := b.belongs(ctx, e); err != nil || !ok {
				return err
			}
			var buf bytes.Buffer
			if err := b.events.append(&buf, e); err != nil {
				return err
			}
			some = append(some, shown{e.Seq, buf.Bytes()})
			more += buf.Len()
			// The oldest ones make room. One event is shown, however large it is.
			for len(list)+len(some) > b.limit || size+more > maxPageBytes && len(list)+len(some) > 1 {
				full = true
				more -= len(some[0].json)
				if some = some[1:]; len(some) == 0 {
					break
				}
			}
			return nil
		})
		if err != nil {
			return nil, false, err
		}
		slices.Reverse(some)
		list, size = append(list, some...), size+more
		if full || len(list) == b.limit {
			return list, true, nil
		}
		to, width = low-1, min(width*widening, maxWindow)
	}
	return list, false, nil
}
