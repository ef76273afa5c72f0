package cli

import (
	"io"
	"strings"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
)

// colour is how a text is shown on a terminal: the parameter of the control sequence SGR.
type colour string

const (
	plain  colour = ""
	strong colour = "1"
	red    colour = "31"
	green  colour = "32"
	yellow colour = "33"
)

// paint returns the text between the sequences that begin and end the colour.
func (k colour) paint(text string) string {
	if k == plain || text == "" {
		return text
	}
	return "\x1b[" + string(k) + "m" + text + "\x1b[0m"
}

// toned is a text with its colour, for a cell of a table.
type toned struct {
	text   string
	colour colour
}

// String returns the text without the colour.
func (t toned) String() string { return t.text }

// ofSeverity returns the colour of a severity.
func ofSeverity(s meta.Severity) colour {
	switch s {
	case meta.Wrong:
		return red
	case meta.Warning:
		return yellow
	case meta.Fine:
		return green
	}
	return plain
}

// coloured reports whether colours are written to w: to a terminal only, and not with --no-color, with NO_COLOR
// (https://no-color.org) or on one that has none.
func (c *CLI) coloured(w io.Writer) bool {
	if c.NoColor || !isTerminal(w) {
		return false
	}
	for _, v := range c.Env {
		name, value, _ := strings.Cut(v, "=")
		if name == "NO_COLOR" && value != "" || name == "TERM" && value == "dumb" {
			return false
		}
	}
	return true
}

// paint returns the text in a colour if it goes to a terminal that has colours.
func (c *CLI) paint(k colour, text string) string {
	if !c.coloured(c.Out) {
		return text
	}
	return k.paint(text)
}
