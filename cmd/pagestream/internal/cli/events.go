package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/streams"
)

// EventsCommand groups the commands for the stream of events.
type EventsCommand struct {
	List    EventsListCommand    `cmd:"" help:"List events, starting at a sequence."`
	Show    EventsShowCommand    `cmd:"" help:"Show one event with all its data."`
	Explain EventsExplainCommand `cmd:"" help:"Show which events made a conversation or a message."`
	Tail    EventsTailCommand    `cmd:"" help:"Follow events as they are stored."`
	Export  EventsExportCommand  `cmd:"" help:"Write events to a file, one CloudEvent per line."`
	Import  EventsImportCommand  `cmd:"" help:"Create the stream of a new installation from an export."`
	Schema  EventsSchemaCommand  `cmd:"" help:"Print the JSON Schema of a type's data, or the types. Needs no server."`
}

const eventsPath = "/api/v1/events"

// EventFilter selects events by page and type.
type EventFilter struct {
	Page []string `placeholder:"ID" env:"PAGESTREAM_EVENTS_PAGE" help:"Only events of these pages."`
	Type []string `placeholder:"TYPE" env:"PAGESTREAM_EVENTS_TYPE" help:"Only these types, for example message.received."`
}

func (f EventFilter) query() url.Values {
	return url.Values{"page": f.Page, "type": f.Type}
}

// eventLine has the fields of an event that the command line shows.
type eventLine struct {
	Seq     uint64     `json:"seq"`
	ID      string     `json:"id"`
	Type    string     `json:"type"`
	Page    string     `json:"page"`
	Contact string     `json:"contact"`
	Time    *time.Time `json:"time"`
	Stored  time.Time  `json:"stored_at"`
	Standby bool       `json:"standby"`
}

// write prints the event on one line without its text. Message texts are only shown by events
// show and conversations show.
func (e eventLine) write(w io.Writer) {
	standby := ""
	if e.Standby {
		standby = " standby"
	}
	fmt.Fprintf(w, "%8d  %s  %-24s page %s  contact %s%s\n",
		e.Seq, e.Stored.Local().Format("15:04:05.000"), e.Type, e.Page, dash(e.Contact), standby)
}

// eventPath returns the API path of an event.
func eventPath(seq uint64) string { return eventsPath + "/" + strconv.FormatUint(seq, 10) }

// EventsListCommand lists stored events.
type EventsListCommand struct {
	EventFilter
	After uint64 `placeholder:"SEQ" env:"PAGESTREAM_EVENTS_AFTER" help:"Start after this sequence."`
	Limit int    `default:"50" env:"PAGESTREAM_EVENTS_LIMIT" help:"Maximum number; 0 for all."`
}

// Run prints one line per event: text, or a JSON object with --json.
func (l EventsListCommand) Run(c *CLI) error {
	q := l.query()
	if l.After > 0 {
		q.Set("cursor", strconv.FormatUint(l.After, 10))
	}
	return each(c, eventsPath, q, l.Limit, func(b json.RawMessage) error { return c.writeEvent(b) })
}

// writeEvent prints one event of the API: unchanged with --json, otherwise as a line of text.
func (c *CLI) writeEvent(b []byte) error {
	if c.JSON {
		_, err := fmt.Fprintf(c.Out, "%s\n", b)
		return err
	}
	var e eventLine
	if err := json.Unmarshal(b, &e); err != nil {
		return fmt.Errorf("decode the server's answer: %w", err)
	}
	e.write(c.Out)
	return nil
}

// EventsShowCommand shows one event.
type EventsShowCommand struct {
	Seq uint64 `arg:"" help:"Sequence of the event."`
}

// Run prints the event as indented JSON, including data and raw item.
func (s EventsShowCommand) Run(c *CLI) error {
	// The event is not decoded, because ids with 17 and more digits would be rounded.
	e, err := get[json.RawMessage](c, eventPath(s.Seq), nil)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, e, "", "  "); err != nil {
		return fmt.Errorf("decode the server's answer: %w", err)
	}
	_, err = fmt.Fprintf(c.Out, "%s\n", out.Bytes())
	return err
}

// EventsTailCommand follows the stream.
type EventsTailCommand struct {
	EventFilter
	After string `placeholder:"SEQ" env:"PAGESTREAM_EVENTS_AFTER" help:"Start after this sequence instead of at the head."`
	Count int    `env:"PAGESTREAM_EVENTS_COUNT" help:"Stop after this many events; 0 for no limit."`
}

// Run prints events until it is interrupted. After a lost connection it resumes at the last
// event that was printed, so that no event is missed or printed twice.
func (t EventsTailCommand) Run(c *CLI) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	if t.After != "" {
		if _, err := strconv.ParseUint(t.After, 10, 64); err != nil {
			return fmt.Errorf("%w: --after %q is not a sequence number", errUsage, t.After)
		}
	}
	last, n := t.After, 0
	pause := backoff.Backoff{Min: 250 * time.Millisecond, Max: 10 * time.Second}
	for {
		err := cl.Feed(c.ctx, t.query(), last, func(id string, data []byte) error {
			last = id
			pause.Reset()
			if err := c.writeEvent(data); err != nil {
				return err
			}
			if n++; t.Count > 0 && n >= t.Count {
				return errDone
			}
			return nil
		})
		switch {
		case errors.Is(err, errDone), c.ctx.Err() != nil:
			return nil
		case last == t.After && n == 0 && !errors.Is(err, io.EOF):
			return err // the first connection failed: report it instead of trying again
		}
		fmt.Fprintln(c.Err, "connection lost; trying again")
		if pause.Wait(c.ctx) != nil {
			return nil
		}
	}
}

// errDone is returned by a feed's callback to end the feed after --count events.
var errDone = errors.New("done")

// EventsExplainCommand shows which events made a conversation or a message.
type EventsExplainCommand struct {
	Page    string `arg:"" help:"Page id."`
	Contact string `arg:"" help:"Contact id."`
	MID     string `name:"mid" placeholder:"ID" env:"PAGESTREAM_EVENTS_EXPLAIN_MID" help:"Only events of the message with this id."`
	Limit   int    `default:"100" env:"PAGESTREAM_EVENTS_EXPLAIN_LIMIT" help:"Maximum number; 0 for all."`
}

// Run prints the events in stream order, without their text.
func (e EventsExplainCommand) Run(c *CLI) error {
	query := url.Values{}
	if e.MID != "" {
		query.Set("mid", e.MID)
	}
	seqs, err := collect[uint64](c, conversationPath(e.Page, e.Contact)+"/events", query, e.Limit)
	if err != nil {
		return err
	}
	events := make([]eventLine, len(seqs))
	for i, seq := range seqs {
		if events[i], err = get[eventLine](c, eventPath(seq), nil); err != nil {
			return err
		}
	}
	return c.Print(events, func() {
		for _, line := range events {
			line.write(c.Out)
		}
		if len(events) == 0 {
			fmt.Fprintln(c.Out, "There are no events.")
		}
	})
}

// EventsSchemaCommand shows the event types and the JSON Schemas of their data.
type EventsSchemaCommand struct {
	Type string `arg:"" optional:"" help:"Event type, for example message.received. Without it, all types are listed."`
}

// Run prints the schema of the type as JSON, or one type per line.
func (s EventsSchemaCommand) Run(c *CLI) error {
	if s.Type == "" {
		types := domain.Types()
		return c.Print(types, func() {
			for _, t := range types {
				fmt.Fprintln(c.Out, t)
			}
		})
	}
	schema, err := streams.Schema(domain.Type(s.Type))
	if errors.Is(err, streams.ErrUnknownType) {
		return fmt.Errorf("%w: there is no event type %q; pagestream events schema lists them", errUsage, s.Type)
	}
	if err != nil {
		return err
	}
	_, err = c.Out.Write(schema)
	return err
}
