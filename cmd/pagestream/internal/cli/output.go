package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/pagestream/pagestream/config"
)

// Print writes v as JSON where --json was given, else what plain writes.
func (c *CLI) Print(v any, plain func()) error {
	if c.JSON {
		return c.printJSON(v)
	}
	plain()
	return nil
}

// answer prints what came of a request as Print does, or returns why nothing did.
func (c *CLI) answer(v any, err error, plain func()) error {
	if err != nil {
		return err
	}
	return c.Print(v, plain)
}

func (c *CLI) printJSON(v any) error {
	enc := json.NewEncoder(c.Out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// logger returns the process's logger. Log lines go to stderr, so that
// stdout stays what a command was asked for.
func (c *CLI) logger(cfg config.Log) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Level)); err != nil {
		return nil, fmt.Errorf("log.level %q: write debug, info, warn or error", cfg.Level)
	}
	opts := &slog.HandlerOptions{Level: level}
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(c.Err, opts)), nil
	}
	return slog.New(slog.NewTextHandler(c.Err, opts)), nil
}

// cells are a row of a table.
type cells []any

// writeTable writes a row of each item, in columns under a header: names with commas
// between them.
func writeTable[T any](w io.Writer, header string, items []T, row func(T) cells) {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, strings.ReplaceAll(header, ", ", "\t"))
	for _, item := range items {
		c := row(item)
		fmt.Fprintf(t, strings.Repeat("%v\t", len(c)-1)+"%v\n", c...)
	}
	_ = t.Flush()
}

// dash stands for what is not there.
func dash[S ~string](s S) S { return cmp.Or(s, "-") }

// ago says how long something is past, in one unit.
func ago(at time.Time) string {
	if at.IsZero() {
		return "never"
	}
	d := time.Since(at)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds ago", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", int(d.Hours()))
	}
	return fmt.Sprintf("%dd ago", int(d.Hours()/24))
}

// printable keeps what a stranger wrote from moving the reader's cursor.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}

// isTerminal reports whether w is a terminal, where a line may be redrawn.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// redraw replaces the line that progress stands on, on a terminal; elsewhere nothing
// is written. Without a format it removes the line.
func (c *CLI) redraw(format string, args ...any) {
	if isTerminal(c.Err) {
		fmt.Fprintf(c.Err, "\r\x1b[K"+format, args...)
	}
}

// bar returns a progress bar of total steps, nil where stderr is no terminal. A nil
// bar can be used like any other.
func (c *CLI) bar(total int64, more ...progressbar.Option) *bar {
	if !isTerminal(c.Err) {
		return nil
	}
	return &bar{progressbar.NewOptions64(max(total, 1), append([]progressbar.Option{
		progressbar.OptionSetWriter(c.Err), progressbar.OptionClearOnFinish(), progressbar.OptionSetPredictTime(false),
	}, more...)...)}
}

type bar struct{ *progressbar.ProgressBar }

// show sets how far it is, and what is being done.
func (b *bar) show(done, total uint64, format string, args ...any) {
	if b == nil {
		return
	}
	b.ChangeMax64(int64(max(total, 1)))
	b.Describe(fmt.Sprintf(format, args...))
	_ = b.Set64(int64(min(done, total)))
}

// end removes the bar.
func (b *bar) end() {
	if b != nil {
		_ = b.Finish()
	}
}
