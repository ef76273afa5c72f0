// Package sse writes and reads server-sent events.
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

// Bounds of a feed.
const (
	heartbeat  = 15 * time.Second
	writeLimit = 30 * time.Second
)

// ErrFull is returned when as many feeds are open as may be. Nothing was answered yet.
var ErrFull = errors.New("too many feeds are open")

// Event is one event of a feed. ID and Type may be empty.
type Event struct {
	ID, Type string
	Data     []byte
}

// append adds the event as it is sent. Data may have line ends in it: each of its
// lines is a line of its own, without carriage returns, and a line end at its end
// counts for nothing.
func (e Event) append(b []byte) []byte {
	if e.ID != "" {
		b = append(b, "id: "+e.ID+"\n"...)
	}
	if e.Type != "" {
		b = append(b, "event: "+e.Type+"\n"...)
	}
	data := bytes.ReplaceAll(e.Data, []byte("\r"), nil)
	for line := range bytes.Lines(data) {
		b = append(b, "data: "...)
		b = append(b, bytes.TrimSuffix(line, []byte("\n"))...)
		b = append(b, '\n')
	}
	if len(data) == 0 {
		b = append(b, "data:\n"...)
	}
	return append(b, '\n')
}

// Feeds are the open feeds of a server. Make them with [NewFeeds].
type Feeds struct {
	ctx  context.Context //nolint:containedctx // ends every feed
	open chan struct{}
}

// NewFeeds returns feeds of which at most most are open at once, and none after ctx
// ends: a graceful HTTP shutdown would wait for them.
func NewFeeds(ctx context.Context, most int) *Feeds {
	return &Feeds{ctx, make(chan struct{}, most)}
}

// Options configure one feed. All are optional.
type Options struct {
	// Hello is a comment that is sent at once, Beat one that is sent every 15 seconds.
	Hello, Beat string
	// WriteLimit bounds each write; 0 means 30 seconds.
	WriteLimit time.Duration
}

// Serve answers with what produce sends, until the client goes or the server ends;
// then the context of produce ends as well, and the error is nil whatever produce
// returns. Otherwise it is produce's.
func (f *Feeds) Serve(w http.ResponseWriter, r *http.Request, o Options,
	produce func(ctx context.Context, send func(Event) error) error,
) error {
	select {
	case f.open <- struct{}{}:
		defer func() { <-f.open }()
	default:
		return ErrFull
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(f.ctx, cancel)()

	w.Header().Set("Content-Type", ContentType)
	w.Header().Set("Cache-Control", "no-store")
	o.WriteLimit = cmp.Or(o.WriteLimit, writeLimit)
	var one sync.Mutex // a beat may come between two events
	write := func(b []byte) error {
		one.Lock()
		defer one.Unlock()
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
	if o.Beat != "" {
		beating.Go(func() {
			tick := time.NewTicker(heartbeat)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					_ = write([]byte(": " + o.Beat + "\n\n"))
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

// Read calls f with each event of a feed until the feed ends, which is [io.EOF], or f
// fails. An event without an id has that of the one before, and one without data is
// none. A line may end in a line feed with or without a carriage return.
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
				e.Data = e.Data[:len(e.Data)-1] // the last line's end
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
