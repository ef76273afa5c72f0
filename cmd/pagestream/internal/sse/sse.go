// Package sse writes and reads feeds of server-sent events.
// https://html.spec.whatwg.org/multipage/server-sent-events.html
package sse

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// ContentType is the media type of a feed.
const ContentType = "text/event-stream"

const (
	// heartbeat is how often [Options.Heartbeat] is sent.
	heartbeat = 15 * time.Second
	// writeLimit is the default of [Options.WriteLimit].
	writeLimit = 30 * time.Second
)

// ErrFull is returned when the limit of open feeds is reached. No response was
// written then.
var ErrFull = errors.New("too many feeds are open")

// Event is one event of a feed. ID and Type may be empty.
type Event struct {
	ID, Type string
	Data     []byte
}

// append appends the event in its wire format. Each line of Data becomes a data
// field. Carriage returns and one newline at the end of Data are dropped.
func (e Event) append(b []byte) []byte {
	if e.ID != "" {
		b = append(b, "id: "+e.ID+"\n"...)
	}
	if e.Type != "" {
		b = append(b, "event: "+e.Type+"\n"...)
	}
	data := bytes.TrimSuffix(bytes.ReplaceAll(e.Data, []byte("\r"), nil), []byte("\n"))
	for line := range bytes.SplitSeq(data, []byte("\n")) {
		b = append(b, "data: "...)
		b = append(b, line...)
		b = append(b, '\n')
	}
	return append(b, '\n')
}

// Feeds limits and ends the open feeds of a server. Make one with [NewFeeds]; it is
// safe for concurrent use.
type Feeds struct {
	ctx   context.Context //nolint:containedctx // ends every feed
	slots chan struct{}
}

// NewFeeds returns a Feeds with at most limit feeds open at once. All feeds end when
// ctx ends; otherwise a graceful HTTP shutdown would wait for them.
func NewFeeds(ctx context.Context, limit int) *Feeds {
	return &Feeds{ctx, make(chan struct{}, limit)}
}

// Options configure one feed. All are optional.
type Options struct {
	// Hello is a comment that is sent at once, Heartbeat a comment that is sent every
	// 15 seconds. An empty one is not sent.
	Hello, Heartbeat string
	// WriteLimit bounds each write; 0 means 30 seconds.
	WriteLimit time.Duration
}

// Serve responds with the events that produce sends. The context of produce ends when
// the client disconnects or the server shuts down; then Serve returns nil, whatever
// produce returns. Otherwise it returns the error of produce, or [ErrFull] before
// anything was written.
func (f *Feeds) Serve(w http.ResponseWriter, r *http.Request, o Options,
	produce func(ctx context.Context, send func(Event) error) error,
) error {
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	default:
		return ErrFull
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(f.ctx, cancel)()

	w.Header().Set("Content-Type", ContentType)
	w.Header().Set("Cache-Control", "no-store")
	o.WriteLimit = cmp.Or(o.WriteLimit, writeLimit)
	var mu sync.Mutex // heartbeats are written by another goroutine
	write := func(b []byte) error {
		mu.Lock()
		defer mu.Unlock()
		rc := http.NewResponseController(w)
		_ = rc.SetWriteDeadline(time.Now().Add(o.WriteLimit))
		_, err := w.Write(b)
		if err == nil {
			err = rc.Flush()
		}
		if err != nil {
			cancel() // the client is gone
		}
		return err
	}
	if o.Hello != "" && write([]byte(": "+o.Hello+"\n\n")) != nil {
		return nil
	}
	var beating sync.WaitGroup
	if o.Heartbeat != "" {
		beating.Go(func() {
			tick := time.NewTicker(heartbeat)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					_ = write([]byte(": " + o.Heartbeat + "\n\n"))
				case <-ctx.Done():
					return
				}
			}
		})
	}
	err := produce(ctx, func(e Event) error { return write(e.append(nil)) })
	if ctx.Err() != nil {
		err = nil
	}
	cancel()
	beating.Wait()
	return err
}

// Read calls f with each event of a feed, until the feed ends, and then returns
// [io.EOF], or until f returns an error, which Read returns. An event without an id
// gets the id of the one before. An event without data is skipped, as the
// specification requires. A line may end in LF or CRLF; a CR alone ends no line.
func Read(r io.Reader, f func(Event) error) error {
	lines := bufio.NewReaderSize(r, 64<<10)
	var e Event
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			if len(e.Data) > 0 {
				e.Data = e.Data[:len(e.Data)-1] // the newline after the last line
				if err := f(e); err != nil {
					return err
				}
			}
			e = Event{ID: e.ID}
			continue
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "id":
			e.ID = string(value)
		case "event":
			e.Type = string(value)
		case "data":
			e.Data = append(append(e.Data, value...), '\n')
		}
	}
}
