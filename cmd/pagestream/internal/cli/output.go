package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"time"
	"unicode"

	"github.com/rivo/uniseg"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/pagestream/pagestream/config"
)

// Print writes v as one JSON document if --json was given, as lines if --ndjson was given, and calls plain otherwise.
func (c *CLI) Print(v any, plain func()) error {
	switch {
	case c.NDJSON:
		return c.printLines(v)
	case c.JSON:
		return c.printJSON(v)
	}
	plain()
	return nil
}

// machine reports whether the output is JSON.
func (c *CLI) machine() bool { return c.JSON || c.NDJSON }

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

// printLines writes each item of a list on a line, and anything else on one line.
func (c *CLI) printLines(v any) error {
	enc := json.NewEncoder(c.Out)
	enc.SetEscapeHTML(false)
	list := reflect.ValueOf(v)
	if list.Kind() != reflect.Slice {
		return enc.Encode(v)
	}
	for i := range list.Len() {
		if err := enc.Encode(list.Index(i).Interface()); err != nil {
			return err
		}
	}
	return nil
}

// documents writes items of JSON as they come: one document, a list, with --json, and otherwise one a line. The list
// is complete when end was called.
type documents struct {
	c      *CLI
	n      int
	failed bool // the output can't be written
}

// item writes an item, which has no line breaks.
func (d *documents) item(b []byte) error {
	line := make([]byte, 0, len(b)+3)
	switch {
	case d.c.NDJSON:
	case d.n == 0:
		line = append(line, "[\n"...)
	default:
		line = append(line, ",\n"...)
	}
	line = append(line, b...)
	if d.c.NDJSON {
		line = append(line, '\n')
	}
	d.n++
	_, err := d.c.Out.Write(line)
	d.failed = err != nil
	return err
}

// end ends the list.
func (d *documents) end() error {
	if d.c.NDJSON || !d.c.JSON {
		return nil
	}
	text := "\n]\n"
	if d.n == 0 {
		text = "[]\n"
	}
	_, err := io.WriteString(d.c.Out, text)
	return err
}

// endAfter is end, unless an error of the output or before the first item ended the list.
func (d *documents) endAfter(err error) error {
	if err != nil && d.n == 0 || d.failed {
		return nil
	}
	return d.end()
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
// separated by a comma and a space. A cell that is a toned text has its colour on a terminal.
func writeTable[T any](c *CLI, header string, items []T, row func(T) cells) {
	head := cells{}
	for name := range strings.SplitSeq(header, ", ") {
		head = append(head, toned{name, strong})
	}
	rows := append(make([]cells, 0, 1+len(items)), head)
	for _, item := range items {
		rows = append(rows, row(item))
	}
	widths := make([]int, len(head))
	for _, r := range rows {
		for i, cell := range r {
			widths[i] = max(widths[i], columns(fmt.Sprint(cell)))
		}
	}
	colour := c.coloured(c.Out)
	var out strings.Builder
	for _, r := range rows {
		for i, cell := range r {
			text := fmt.Sprint(cell)
			gap := strings.Repeat(" ", widths[i]-columns(text)+columnGap)
			if i == len(r)-1 {
				gap = ""
			}
			if t, ok := cell.(toned); ok && colour {
				text = t.colour.paint(text)
			}
			out.WriteString(text + gap)
		}
		out.WriteByte('\n')
	}
	_, _ = io.WriteString(c.Out, out.String())
}

// columnGap is how many spaces are between the columns of a table.
const columnGap = 2

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
// sequences to the terminal. These include the characters that start a line or turn the direction
// of the text around.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsControl(r), unicode.Is(unicode.Zl, r), unicode.Is(unicode.Zp, r), unicode.Is(unicode.Bidi_Control, r):
			return ' '
		}
		return r
	}, s)
}

// inLine returns printable text with single spaces, for a part of a line.
func inLine(s string) string { return strings.Join(strings.Fields(printable(s)), " ") }

// columns returns the width of a text on a terminal.
func columns(s string) int { return uniseg.StringWidth(s) }

// clip cuts a text to a width in columns, with an ellipsis in place of the rest.
func clip(s string, width int) string {
	if columns(s) <= width {
		return s
	}
	end, used := 0, 1 // the ellipsis
	for rest, state := s, -1; rest != ""; {
		var cluster string
		var w int
		cluster, rest, w, state = uniseg.FirstGraphemeClusterInString(rest, state)
		if used += w; used > width {
			break
		}
		end += len(cluster)
	}
	return s[:end] + "…"
}

// pad makes a text exactly that many columns wide.
func pad(s string, width int) string {
	s = clip(s, width)
	return s + strings.Repeat(" ", max(0, width-columns(s)))
}

// terminalWidth returns the columns of a terminal, or 0 if w is none.
func terminalWidth(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
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
