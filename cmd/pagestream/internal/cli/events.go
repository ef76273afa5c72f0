package cli

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/streams"
)

// EventsCommand groups the commands for the stream of events.
type EventsCommand struct {
	List    EventsListCommand    `cmd:"" help:"List events, the newest first: sequence, time, page, contact, type and what they say."`
	Show    EventsShowCommand    `cmd:"" help:"Show one event with all its data, as JSON."`
	Explain EventsExplainCommand `cmd:"" help:"Show which events made a conversation or a message."`
	Tail    EventsTailCommand    `cmd:"" help:"Follow events as they are stored, with the lines of list."`
	Adopt   EventsAdoptCommand   `cmd:"" help:"Make events that another app delivered for a page the page's own."`
	Export  EventsExportCommand  `cmd:"" help:"Write events to a file, one CloudEvent per line."`
	Import  EventsImportCommand  `cmd:"" help:"Create the stream of a new installation from an export."`
	Schema  EventsSchemaCommand  `cmd:"" help:"Print the JSON Schema of a type's data, or the types. Needs no server."`
}

const eventsPath = "/api/v1/events"

// EventFilter selects events by page and type.
type EventFilter struct {
	Page []PageRef `stored:"" placeholder:"PAGE" env:"PAGESTREAM_EVENTS_PAGE" help:"Only events of these pages, by their ids or names."`
	Type []string  `placeholder:"TYPE" env:"PAGESTREAM_EVENTS_TYPE" help:"Only these types, for example message.received."`
}

func (f EventFilter) query() url.Values {
	return url.Values{"page": pageTexts(f.Page), "type": f.Type}
}

// EventSelection is an EventFilter that can also select a company.
type EventSelection struct {
	EventFilter
	Company string `placeholder:"NAME" env:"PAGESTREAM_EVENTS_COMPANY" help:"Only events of pages that this company had then."`
}

func (s EventSelection) query() url.Values {
	q := s.EventFilter.query()
	if s.Company != "" {
		q.Set("company", s.Company)
	}
	return q
}

// eventLine has the fields of an event that the command line shows without its data.
type eventLine struct {
	Seq         uint64     `json:"seq"`
	ID          string     `json:"id"`
	Type        string     `json:"type"`
	Page        string     `json:"page"`
	PageName    string     `json:"page_name,omitempty"`
	Contact     string     `json:"contact"`
	ContactName string     `json:"contact_name,omitempty"`
	Time        *time.Time `json:"time"`
	Stored      time.Time  `json:"stored_at"`
	Standby     bool       `json:"standby"`
}

// shownEvent is an event with its data, of which a line shows a preview.
type shownEvent struct {
	eventLine

	Data json.RawMessage `json:"data"`
}

// columnsOf is the form of the columns before a preview.
type columnsOf struct {
	time        string
	names, kind int
}

var (
	wide = columnsOf{time.DateTime, 20, 22}
	// narrow is for terminals of less than narrowBelow columns. It leaves minPreview of 80.
	narrow = columnsOf{time.TimeOnly, 12, 16}
)

const (
	narrowBelow = 120
	minPreview  = 14
)

// text formats the event with a preview on one line, for a terminal of that width; 0 is no limit.
func (e eventLine) text(preview string, width int) string {
	form := wide
	if width > 0 && width < narrowBelow {
		form = narrow
	}
	name := func(name, id string) string { return pad(inLine(dash(cmp.Or(name, id))), form.names) }
	line := fmt.Sprintf("%8d  %s  %s  %s  %-*s  ", e.Seq, e.Stored.Local().Format(form.time),
		name(e.PageName, e.Page), name(e.ContactName, e.Contact), form.kind, inLine(e.Type))
	preview = inLine(preview)
	if e.Standby {
		preview = strings.TrimRight("(standby) "+preview, " ")
	}
	if width > 0 {
		preview = clip(preview, max(width-columns(line), minPreview))
	}
	return strings.TrimRight(line+preview, " ")
}

// preview returns what the event says. An event that a newer server sent may have none.
func (e shownEvent) preview() string {
	d, err := domain.DecodeLine(e.Data)
	if err != nil {
		return ""
	}
	return domain.Event{Type: domain.Type(e.Type), Data: d}.Preview()
}

// eventPath returns the API path of an event.
func eventPath(seq uint64) string { return eventsPath + "/" + strconv.FormatUint(seq, 10) }

// EventsListCommand lists stored events.
type EventsListCommand struct {
	EventSelection
	After *uint64 `placeholder:"SEQ" xor:"which" env:"PAGESTREAM_EVENTS_AFTER" help:"The events after this sequence, oldest first; 0 is the beginning."`
	Last  int     `placeholder:"N" xor:"which" env:"PAGESTREAM_EVENTS_LAST" help:"The newest N, whatever --limit is."`
	Since string  `placeholder:"WHEN" env:"PAGESTREAM_EVENTS_SINCE" help:"Only events stored since a time (2026-11-23T10:00:00Z) or a duration before now (2h, 24h)."`
	Until string  `placeholder:"WHEN" env:"PAGESTREAM_EVENTS_UNTIL" help:"Only events stored before a time, or a duration before now."`
	Limit int     `default:"50" env:"PAGESTREAM_EVENTS_LIMIT" help:"Maximum number; 0 for all."`
}

// Validate returns an error for a negative number.
func (l EventsListCommand) Validate() error {
	if l.Last < 0 || l.Limit < 0 {
		return errors.New("--last and --limit are numbers of events, 0 or more")
	}
	return nil
}

// Run prints one line per event, the newest first; with --after the oldest first.
func (l EventsListCommand) Run(c *CLI) error {
	q, limit, now := l.query(), l.Limit, time.Now()
	for name, given := range map[string]string{"since": l.Since, "until": l.Until} {
		at, err := parseTime(given, now)
		if err != nil {
			return err
		}
		if !at.IsZero() {
			q.Set(name, at.UTC().Format(time.RFC3339Nano))
		}
	}
	if l.After != nil {
		q.Set("cursor", strconv.FormatUint(*l.After, 10))
	} else {
		q.Set("order", "newest")
	}
	if l.Last > 0 {
		limit = l.Last
	}
	out := documents{c: c}
	err := each(c, eventsPath, q, limit, func(b json.RawMessage) error {
		_, err := c.writeEvent(&out, b)
		return err
	})
	if err == nil && out.n == 0 && !c.machine() {
		fmt.Fprintln(c.Err, "There are no such events.")
	}
	return errors.Join(err, out.endAfter(err))
}

// writeEvent prints one event of the API on one line: unchanged as JSON, otherwise as text. It
// reports an event that it can't decode on stderr, and returns false. An error means that the
// output can't be written.
func (c *CLI) writeEvent(out *documents, b []byte) (shown bool, err error) {
	var e shownEvent
	if err := json.Unmarshal(b, &e); err != nil {
		fmt.Fprintf(c.Err, "an event of %d bytes can't be shown: the server's answer has another form\n", len(b))
		return false, nil
	}
	if c.machine() {
		err = out.item(bytes.Map(breakToSpace, b))
	} else {
		out.n++
		_, err = fmt.Fprintln(c.Out, e.text(e.preview(), terminalWidth(c.Out)))
	}
	if err != nil {
		return false, fmt.Errorf("write event: %w", err)
	}
	return true, nil
}

// breakToSpace replaces a line break, which JSON has between tokens only.
func breakToSpace(r rune) rune {
	if r == '\r' || r == '\n' {
		return ' '
	}
	return r
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
	EventSelection
	After string `placeholder:"SEQ" env:"PAGESTREAM_EVENTS_AFTER" help:"Start after this sequence instead of at the head."`
	Count int    `env:"PAGESTREAM_EVENTS_COUNT" help:"Stop after this many events; 0 for no limit."`
}

// waits says what the tail waits for.
func (t EventsTailCommand) waits() string {
	text := "waiting for "
	if len(t.Type) > 0 {
		text += strings.Join(t.Type, ", ") + " "
	}
	text += "events"
	if len(t.Page) > 0 {
		text += " of page " + strings.Join(pageTexts(t.Page), ", ")
	}
	if t.Company != "" {
		text += " of company " + inLine(t.Company)
	}
	if t.After == "" {
		return text + ", from now on; Ctrl-C ends it"
	}
	return text + " after sequence " + t.After + "; Ctrl-C ends it"
}

// Run prints events until it is interrupted. After a lost connection it resumes at the last
// event that it received, so that no event is missed or printed twice. With --json the list is
// complete at the end.
func (t EventsTailCommand) Run(c *CLI) (err error) {
	cl, err := c.client()
	if err != nil {
		return err
	}
	if t.After != "" {
		if _, err := strconv.ParseUint(t.After, 10, 64); err != nil {
			return fmt.Errorf("%w: --after %q is not a sequence number", errUsage, t.After)
		}
	}
	out := documents{c: c}
	defer func() { err = errors.Join(err, out.endAfter(err)) }()
	last, n := t.After, 0
	var failed error // of the output
	pause := backoff.Backoff{Min: 250 * time.Millisecond, Max: 10 * time.Second}
	said := sync.OnceFunc(func() { fmt.Fprintln(c.Err, t.waits()) })
	for {
		err := cl.Feed(c.ctx, t.query(), last, said, func(id string, data []byte) error {
			last = id
			pause.Reset()
			shown, err := c.writeEvent(&out, data)
			if err != nil {
				failed = err
				return err
			}
			if shown {
				n++
			}
			if t.Count > 0 && n >= t.Count {
				return errDone
			}
			return nil
		})
		switch {
		case errors.Is(err, errDone), c.ctx.Err() != nil:
			return nil
		case failed != nil:
			return failed
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
	Page    PageRef `arg:"" stored:"" help:"Page, by its id or name."`
	Contact string  `arg:"" help:"Contact id."`
	MID     string  `name:"mid" placeholder:"ID" env:"PAGESTREAM_EVENTS_EXPLAIN_MID" help:"Only events of the message with this id."`
	Limit   int     `default:"100" env:"PAGESTREAM_EVENTS_EXPLAIN_LIMIT" help:"Maximum number; 0 for all."`
}

// Run prints the events in stream order, one per line. With --json they are without their data.
func (e EventsExplainCommand) Run(c *CLI) error {
	query := url.Values{}
	if e.MID != "" {
		query.Set("mid", e.MID)
	}
	seqs, err := collect[uint64](c, conversationPath(e.Page, e.Contact)+"/events", query, e.Limit)
	if err != nil {
		return err
	}
	if len(seqs) == 0 {
		if err := c.knownContact(e.Page, e.Contact); err != nil {
			return err
		}
	}
	events, previews := make([]eventLine, len(seqs)), make([]string, len(seqs))
	for i, seq := range seqs {
		shown, err := get[shownEvent](c, eventPath(seq), nil)
		if err != nil {
			return err
		}
		events[i], previews[i] = shown.eventLine, shown.preview()
	}
	return c.Print(events, func() {
		width := terminalWidth(c.Out)
		for i, line := range events {
			fmt.Fprintln(c.Out, line.text(previews[i], width))
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
		return fmt.Errorf("%w: %s; pagestream events schema lists them", errUsage, meta.UnknownType(domain.Type(s.Type)))
	}
	if err != nil {
		return err
	}
	_, err = c.Out.Write(schema)
	return err
}
