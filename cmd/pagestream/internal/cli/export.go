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

	File string `arg:"" optional:"" help:"Output file; an existing one is continued. Default, and for -: standard output."`
	From uint64 `env:"PAGESTREAM_EVENTS_EXPORT_FROM" help:"First sequence."`
	To   uint64 `env:"PAGESTREAM_EVENTS_EXPORT_TO" help:"Last sequence (default: the newest)."`
}

// Run writes one CloudEvent in JSON per line. The export contains the texts of messages.
func (e EventsExportCommand) Run(c *CLI) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	write := func(w io.Writer, from uint64) error {
		query := url.Values{
			"from": {strconv.FormatUint(from, 10)}, "to": {strconv.FormatUint(e.To, 10)}, "page": pageTexts(e.Page), "type": e.Type,
		}
		resp, err := cl.Send(c.ctx, http.MethodGet, "/api/v1/export", query, nil, "application/x-ndjson")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		n, err := io.Copy(w, resp.Body)
		if err != nil {
			return fmt.Errorf("export interrupted after %d bytes: %w; run the same command again to continue", n, err)
		}
		return nil
	}
	if e.File == "" || e.File == "-" {
		return write(c.Out, e.From)
	}
	return export.ToFile(e.File, func(w io.Writer, last uint64) error {
		if last > 0 {
			fmt.Fprintf(c.Err, "continuing after event %d\n", last)
		}
		return write(w, max(e.From, last+1))
	})
}

// EventsImportCommand creates the stream of a new installation from an export.
type EventsImportCommand struct {
	File    string `arg:"" help:"File written by events export."`
	MaxGaps uint64 `placeholder:"N" env:"PAGESTREAM_EVENTS_IMPORT_MAX_GAPS" help:"How many sequences may be missing in the file (default: 10000000)."`
}

// Run stores the events in an installation without events, whose server is stopped. Each
// event keeps its sequence and its time.
func (e EventsImportCommand) Run(c *CLI) error {
	f, err := os.Open(e.File)
	if err != nil {
		return fmt.Errorf("open export: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return fmt.Errorf("%w: events are checked before any is stored, so they are read twice: write them to a file first",
			errUsage)
	}
	return c.offline(func(o *operate.Offline) error {
		c.redraw("checking the file")
		out, err := o.Import(c.ctx, f, e.MaxGaps, func(seq uint64) { c.redraw("event %d", seq) })
		c.redraw("")
		return c.answer(out, err, func() {
			fmt.Fprintf(c.Out, "imported %d events to sequence %d; %d sequences in between have no event\n",
				out.Events, out.Last, out.Gaps)
			if out.DroppedHeaders > 0 {
				fmt.Fprintf(c.Out, "%d headers of other programs were not stored\n", out.DroppedHeaders)
			}
		})
	})
}
