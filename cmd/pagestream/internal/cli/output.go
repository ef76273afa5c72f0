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

// Print writes v as JSON if --json was given, and calls plain otherwise.
func (c *CLI) Print(v any, plain func()) error {
	if c.JSON {
		return c.printJSON(v)
	}
	plain()
	return nil
}

// answer prints the result of a request as Print does, or returns the error of the request.
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

// logger returns the process's logger. Log lines go to stderr, so that stdout has only the
// output of the command.
func (c *CLI) logger(cfg config.Log) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Level)); err != nil {
		return nil, fmt.Errorf("log.level %q: use debug, info, warn or error", cfg.Level)
	}
	opts := &slog.HandlerOptions{Level: level}
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(c.Err, opts)), nil
	}
	return slog.New(slog.NewTextHandler(c.Err, opts)), nil
}

// cells is a row of a table.
type cells []any

// writeTable writes one row per item in aligned columns. The header has the names of the columns,
// separated by a comma and a space.
func writeTable[T any](w io.Writer, header string, items []T, row func(T) cells) {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, strings.ReplaceAll(header, ", ", "\t"))
	for _, item := range items {
		c := row(item)
		fmt.Fprintf(t, strings.Repeat("%v\t", len(c)-1)+"%v\n", c...)
	}
	_ = t.Flush()
}

// dash returns s, or "-" if s is empty.
func dash[S ~string](s S) S { return cmp.Or(s, "-") }

// ago formats the time since a moment in one unit.
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

// printable replaces control characters with spaces, so that a message text can't send escape
// sequences to the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}

// isTerminal reports whether w is a terminal, on which a line can be redrawn.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// redraw replaces the progress line on stderr if that is a terminal, and writes nothing
// otherwise. An empty format removes the line.
func (c *CLI) redraw(format string, args ...any) {
	if isTerminal(c.Err) {
		fmt.Fprintf(c.Err, "\r\x1b[K"+format, args...)
	}
}

// bar returns a progress bar of total steps, or nil if stderr is not a terminal. The methods
// of a nil bar do nothing.
func (c *CLI) bar(total int64, more ...progressbar.Option) *bar {
	if !isTerminal(c.Err) {
		return nil
	}
	return &bar{progressbar.NewOptions64(max(total, 1), append([]progressbar.Option{
		progressbar.OptionSetWriter(c.Err), progressbar.OptionClearOnFinish(), progressbar.OptionSetPredictTime(false),
	}, more...)...)}
}

type bar struct{ *progressbar.ProgressBar }

// show sets the progress and the description of the current step.
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
