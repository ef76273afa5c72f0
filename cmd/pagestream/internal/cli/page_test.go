package cli

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the page of all commands")

// helpOf returns the help of a command as it is printed.
func helpOf(t *testing.T, command ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	require.Equal(t, ExitOK, Main(t.Context(), append(command, "--help"), nil, &out, &errs), "%s", errs.String())
	return out.String()
}

// withoutGlobal returns a command's help without the flags that every command has.
func withoutGlobal(help string) string {
	before, flags, ok := strings.Cut(help, "Flags:\n")
	if !ok {
		return help
	}
	global, own, _ := strings.Cut(flags, "\n\n")
	if !strings.Contains(global, "--config") {
		return help
	}
	if own = strings.TrimRight(own, "\n"); own == "" {
		return before
	}
	return before + "Flags:\n" + own + "\n"
}

// commandsPage returns the page of all commands, made from their help.
func commandsPage(t *testing.T) string {
	var b strings.Builder
	b.WriteString("# Commands\n\n<!-- `task gen:docs` writes this page from the help of the commands. -->\n\n" +
		"`--json` prints JSON. The environment variable of a flag is in brackets. Exit codes: 0 success, 1 failed,\n" +
		"2 wrong usage. Each command has the flags of the first block; its own are below its name.\n\n" +
		"```text\n" + helpOf(t) + "```\n")
	parser, err := kong.New(&CLI{})
	require.NoError(t, err)
	leaves := parser.Model.Leaves(true)
	require.Greater(t, len(leaves), 50)
	for _, leaf := range leaves {
		name := leaf.Path() // without arguments
		help := withoutGlobal(helpOf(t, strings.Fields(name)...))
		fmt.Fprintf(&b, "\n## %s\n\n```text\n%s\n```\n", name, strings.TrimRight(help, "\n"))
	}
	return b.String()
}

// TestCommandsPage compares the page of all commands with their help. Write it with -update.
func TestCommandsPage(t *testing.T) {
	name := filepath.Join("..", "..", "docs", "commands.md")
	want := commandsPage(t)
	if *update {
		require.NoError(t, os.WriteFile(name, []byte(want), 0o644))
		return
	}
	got, err := os.ReadFile(name)
	require.NoError(t, err)
	require.Equal(t, want, string(got), "the page is old: task gen:docs")
}
