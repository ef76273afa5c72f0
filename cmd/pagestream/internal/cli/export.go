package cli

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/export"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
)

// EventsExportCommand writes events to a file.
type EventsExportCommand struct {
	EventFilter

	File string `arg:"" optional:"" help:"Where to; one that is there already is gone on with. Default: standard output."`
	From uint64 `env:"PAGESTREAM_EVENTS_EXPORT_FROM" help:"From this sequence."`
	To   uint64 `env:"PAGESTREAM_EVENTS_EXPORT_TO" help:"To this sequence; default: the newest."`
}

// Run writes one CloudEvent in JSON a line. What people wrote is in it.
func (e EventsExportCommand) Run(c *CLI) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	write := func(w io.Writer, from uint64) error {
		query := url.Values{
			"from": {strconv.FormatUint(from, 10)}, "to": {strconv.FormatUint(e.To, 10)}, "page": e.Page, "type": e.Type,
		}
		resp, err := cl.Send(c.ctx, http.MethodGet, "/api/v1/export", query, nil, "application/x-ndjson")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		n, err := io.Copy(w, resp.Body)
		if err != nil {
			return fmt.Errorf("broken off after %d bytes: %w; type the same again to go on", n, err)
		}
		return nil
	}
	if e.File == "" {
		return write(c.Out, e.From)
	}
	return export.ToFile(e.File, func(w io.Writer, last uint64) error {
		if last > 0 {
			fmt.Fprintf(c.Err, "goes on after event %d\n", last)
		}
		return write(w, max(e.From, last+1))
	})
}

// EventsImportCommand makes the stream of an export.
type EventsImportCommand struct {
	File string `arg:"" help:"What events export wrote."`
}

// Run stores the events in an installation that has none, with the server stopped.
// Each keeps its sequence and its time.
func (e EventsImportCommand) Run(c *CLI) error {
	f, err := os.Open(e.File)
	if err != nil {
		return fmt.Errorf("open export: %w", err)
	}
	defer f.Close()
	return c.offline(func(o *operate.Offline) error {
		out, err := o.Import(c.ctx, f, func(seq uint64) { c.redraw("event %d", seq) })
		c.redraw("")
		return c.answer(out, err, func() {
			fmt.Fprintf(c.Out, "%d events to sequence %d; %d sequences between them are in no event\n", out.Events, out.Last, out.Gaps)
		})
	})
}
