package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/export"
	"github.com/pagestream/pagestream/streams"
)

// EventsExportCommand writes events to a file.
type EventsExportCommand struct {
	EventFilter

	File string `arg:"" optional:"" help:"Where to; one that is there already is gone on with. Default: standard output."`
	From uint64 `env:"PAGESTREAM_EVENTS_EXPORT_FROM" help:"From this sequence."`
	To   uint64 `env:"PAGESTREAM_EVENTS_EXPORT_TO" help:"To this sequence; default: the newest."`
}

// Run writes one CloudEvent in JSON a line. What people wrote is in it.
func (e EventsExportCommand) Run(c *CLI) (err error) {
	cl, err := c.client()
	if err != nil {
		return err
	}
	out, from := c.Out, e.From
	if e.File != "" {
		f, err := os.OpenFile(e.File, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return fmt.Errorf("open export: %w", err)
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		last, err := export.Resume(f)
		if err != nil {
			return fmt.Errorf("%s: %w; name a new file", e.File, err)
		}
		out, from = f, max(from, last+1)
		if last > 0 {
			fmt.Fprintf(c.Err, "goes on after event %d\n", last)
		}
	}
	query := url.Values{
		"from": {strconv.FormatUint(from, 10)}, "to": {strconv.FormatUint(e.To, 10)}, "page": e.Page, "type": e.Type,
	}
	resp, err := cl.send(c.ctx, http.MethodGet, "/api/v1/export", query, nil, "application/x-ndjson")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	n, err := io.Copy(out, resp.Body)
	if err != nil {
		return fmt.Errorf("broken off after %d bytes: %w; type the same again to go on", n, err)
	}
	if f, ok := out.(*os.File); ok && e.File != "" {
		return f.Sync()
	}
	return nil
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
	return c.offline(func(ctx context.Context, p *Program) error {
		if _, err := p.ensureStream(ctx); err != nil {
			return err
		}
		out, err := export.Read(ctx, export.ImportOptions{JS: p.js, Stream: streams.Name, Progress: func(seq uint64) {
			if isTerminal(c.Err) {
				fmt.Fprintf(c.Err, "\r\x1b[Kevent %d", seq)
			}
		}}, f)
		clearLine(c)
		if err != nil {
			return err
		}
		return c.Print(out, func() {
			fmt.Fprintf(c.Out, "%d events to sequence %d; %d sequences between them are in no event\n", out.Events, out.Last, out.Gaps)
		})
	})
}

// Export writes events, a line each.
func (a *actions) Export(ctx context.Context, r api.ExportRequest, w io.Writer) error {
	_, err := export.Write(ctx, export.Options{JS: a.p.js, Stream: streams.Name, From: r.From, To: r.To, Pages: r.Pages, Types: r.Types}, w)
	return err
}
