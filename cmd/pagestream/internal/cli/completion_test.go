package cli

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// completed returns what may follow the words.
func completed(t *testing.T, words ...string) (out []string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	require.Equal(t, ExitOK, Main(t.Context(), append([]string{completeWord}, words...), nil, &stdout, &stderr))
	require.Empty(t, stderr.String())
	for line := range strings.Lines(stdout.String()) {
		value, _, found := strings.Cut(line, "\t")
		require.True(t, found, line)
		out = append(out, value)
	}
	return out
}

func TestComplete(t *testing.T) {
	assert.Equal(t, []string{"pages"}, completed(t, "pag"))
	assert.Contains(t, completed(t, ""), "conversations")
	assert.NotContains(t, completed(t, ""), "check-file", "hidden commands stay hidden")
	assert.Equal(t, []string{"list", "login"}, completed(t, "pages", "l"))
	assert.Equal(t, []string{"list", "login"}, completed(t, "-c", "f.yaml", "--json", "pages", "l"))
	assert.Equal(t, []string{"--tests"}, completed(t, "pages", "forget", "--te"))
	assert.Contains(t, completed(t, "pages", "forget", "--"), "--json", "flags of all commands above")
	assert.Contains(t, completed(t, "events", "list", "--type", "page."), "page.forgotten")
	assert.Equal(t, []string{"bash", "zsh", "fish"}, completed(t, "completion", ""))
	assert.Empty(t, completed(t, "backup", ""), "a file")
	assert.Empty(t, completed(t, "events", "list", "--since", ""), "a text")
	assert.Empty(t, completed(t, "--server", "127.0.0.1:1", "--token-file", "none", "pages", "show", ""), "no server")
}

// TestCompletePages checks that pages are completed by asking the server that the flags name.
func TestCompletePages(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"items":[{"id":"7000","name":"Corner Bakery"},{"id":"8000","name":"x"},{"id":"7$(id)"}]}`)
	}))
	defer srv.Close()
	token := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(token, bytes.Repeat([]byte("a"), 64), 0o600))
	flags := []string{"--server", srv.URL, "--token-file=" + token}
	for _, words := range [][]string{
		{"pages", "show", "7"}, {"pages", "check", "8000", "7"}, {"events", "list", "--page", "7"}, {"conversations", "show", "7"},
	} {
		assert.Equal(t, []string{"7000"}, completed(t, append(flags, words...)...), "%q", words)
	}
	assert.Empty(t, completed(t, append(flags, "conversations", "show", "7000", "7")...), "a contact")
}

// TestCompletionScripts checks the syntax of each script, and that bash and fish ask the program for the words that
// were typed.
func TestCompletionScripts(t *testing.T) {
	dir := t.TempDir()
	// The program answers with the words that it was asked for.
	program := filepath.Join(dir, "pagestream")
	require.NoError(t, os.WriteFile(program, []byte("#!/bin/sh\nprintf '%s|' \"$@\"\nprintf '\\tdescription\\n'\n"), 0o700))
	for shell, c := range map[string]struct {
		check []string
		ask   string
	}{
		"bash": {[]string{"-n"}, `source %s; COMP_WORDS=(pagestream pages show ""); COMP_CWORD=3; _pagestream %s; echo "$COMPREPLY"`},
		"zsh":  {[]string{"-n"}, ""},
		"fish": {[]string{"--no-execute"}, `source %s; complete -C "%s pages show "`},
	} {
		var script, errs bytes.Buffer
		require.Equal(t, ExitOK, Main(t.Context(), []string{"completion", shell}, nil, &script, &errs), errs.String())
		path := filepath.Join(dir, shell)
		require.NoError(t, os.WriteFile(path, script.Bytes(), 0o600))
		if _, err := exec.LookPath(shell); err != nil {
			t.Logf("%s is not installed", shell)
			continue
		}
		out, err := exec.CommandContext(t.Context(), shell, append(c.check, path)...).CombinedOutput()
		require.NoError(t, err, "%s: %s", shell, out)
		if c.ask == "" {
			continue
		}
		out, err = exec.CommandContext(t.Context(), shell, "-c", fmt.Sprintf(c.ask, path, program)).CombinedOutput()
		require.NoError(t, err, "%s: %s", shell, out)
		assert.Contains(t, string(out), completeWord+"|pages|show||", shell)
	}
	zshAutoload(t, dir)
	assert.Equal(t, ExitUsage, Main(t.Context(), []string{"completion", "cmd"}, nil, &bytes.Buffer{}, &bytes.Buffer{}))
}

// zshAutoload checks that the script completes as soon as it is loaded as a packaged one is: by the first use of the
// function.
func zshAutoload(t *testing.T, dir string) {
	if _, err := exec.LookPath("zsh"); err != nil {
		t.Log("zsh is not installed")
		return
	}
	script, err := os.ReadFile(filepath.Join(dir, "zsh"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "_pagestream"), script, 0o600))
	const use = `fpath=(%[1]s $fpath); compdef() { print defined; }; _describe() { print -l "found ${found[@]}"; }
		autoload -Uz _pagestream; words=(%[1]s/pagestream pages ""); CURRENT=3; _pagestream`
	out, err := exec.CommandContext(t.Context(), "zsh", "-f", "-c", fmt.Sprintf(use, dir)).CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Contains(t, string(out), "found "+completeWord+"|pages||", "the first use completes")
	assert.NotContains(t, string(out), "defined", "compinit has done that")
	out, err = exec.CommandContext(t.Context(), "zsh", "-f", "-c",
		"compdef() { print defined; }; source "+filepath.Join(dir, "zsh")).CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Equal(t, "defined\n", string(out), "a script that is sourced does not complete at once")
}
