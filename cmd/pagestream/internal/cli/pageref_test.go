package cli

import (
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestEveryPageIsAPageRef checks that no command takes a page without [CLI.resolve].
func TestEveryPageIsAPageRef(t *testing.T) {
	parser, err := kong.New(&CLI{})
	require.NoError(t, err)
	found := 0
	for _, node := range parser.Model.Leaves(false) {
		values := slices.Clone(node.Positional)
		for _, f := range node.Flags {
			values = append(values, f.Value)
		}
		for _, v := range values {
			// A page that is connected may be unknown; load's --pages is a number.
			known := node.Path() == "pages connect" || node.Path() == "load"
			if name := strings.ToLower(v.Name); known || name != "page" && name != "pages" {
				continue
			}
			found++
			switch v.Target.Interface().(type) {
			case PageRef, []PageRef:
			default:
				assert.Fail(t, "not a PageRef", "%s: %s is a %s", node.Path(), v.Name, v.Target.Type())
			}
		}
	}
	assert.Greater(t, found, 20)
}

func TestBuild(t *testing.T) {
	b := Build{Version: "v1.2.3", Commit: "abcdef0123456789", Date: "2026-11-26T00:00:00Z"}
	var out strings.Builder
	c := &CLI{Out: &out, build: b}
	require.NoError(t, VersionCommand{}.Run(c))
	assert.Regexp(t, `^pagestream v1\.2\.3 \(abcdef012345, 2026-11-26T00:00:00Z\) go1\.`, out.String())
	assert.Equal(t, "devel", Build{}.read().Version)
	for _, args := range [][]string{{"--version"}, {"version"}, {"--json", "--version"}} {
		var out, errs strings.Builder
		require.Equal(t, ExitOK, Main(t.Context(), args, nil, &out, &errs), errs.String())
		assert.Contains(t, out.String(), "devel")
	}
}
