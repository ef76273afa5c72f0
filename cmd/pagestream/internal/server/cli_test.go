package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/dev"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/loadgen"
)

// run runs a command line in process.
//
//nolint:revive // t is the first parameter of helpers
func run(t *testing.T, ctx context.Context, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	code = cli.Main(ctx, args, nil, &out, &errOut)
	return code, out.String(), errOut.String()
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "none.yaml")
	for _, c := range []struct {
		name   string
		args   []string
		code   int
		output string // in stdout if the exit code is 0, otherwise in stderr
	}{
		{"no arguments", nil, cli.ExitOK, "dev"},
		{"help", []string{"--help"}, cli.ExitOK, "serve"},
		{"help of a command", []string{"load", "--help"}, cli.ExitOK, "--duplicates"},
		{"version", []string{"version"}, cli.ExitOK, "pagestream"},
		{"version as JSON", []string{"version", "--json"}, cli.ExitOK, `"go"`},
		{"example", []string{"config", "example"}, cli.ExitOK, "apps:"},
		{"print", []string{"config", "print"}, cli.ExitOK, "max_body: 8MiB"},
		{"unknown command", []string{"sevre"}, cli.ExitUsage, "Try: pagestream"},
		{"unknown flag", []string{"serve", "--prot", "1"}, cli.ExitUsage, "Try: pagestream serve --help"},
		{"missing argument", []string{"events", "show"}, cli.ExitUsage, "Try: pagestream events show --help"},
		{"no such file", []string{"-c", missing, "config", "check"}, cli.ExitFailed, "none.yaml"},
		{"no app", []string{"config", "check"}, cli.ExitFailed, "apps"},
		{"connect without a token", []string{"pages", "connect", "1"}, cli.ExitUsage, "PAGESTREAM_PAGE_TOKEN"},
		{"bench of an unknown section", []string{"bench", "--only", "none"}, cli.ExitUsage, "Try: pagestream bench --help"},
		{"bench with a bad expression", []string{"bench", "--only", "("}, cli.ExitUsage, "--only"},
		{"bench with two sizes", []string{"bench", "--events", "1000", "--growth", "1000"}, cli.ExitUsage, "--growth"},
		{"bench of too few events", []string{"bench", "--growth", "1"}, cli.ExitUsage, "--growth"},
		{"comparison with a missing program", []string{"bench", "--against", missing}, cli.ExitUsage, "none.yaml"},
		{"comparison with a flag of the bench", []string{"bench", "--against", missing, "--cell", "1s"}, cli.ExitUsage, "--cell"},
		{"comparison of an unknown cell", []string{"bench", "--against", missing, "--only", "7c"}, cli.ExitUsage, "--only"},
		{"rounds without a comparison", []string{"bench", "--rounds", "3"}, cli.ExitUsage, "--against"},
		{"bench with a missing report", []string{"bench", "--check", missing}, cli.ExitFailed, "none.yaml"},
		{
			"no server",
			[]string{"--server", "http://127.0.0.1:1", "--token-file", tokenFile(t), "status"},
			cli.ExitFailed, "pagestream serve",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, stdout, stderr := run(t, t.Context(), c.args...)
			got := stdout
			if c.code != cli.ExitOK {
				got = stderr
			}
			require.Equal(t, c.code, code, "stdout: %s\nstderr: %s", stdout, stderr)
			require.Contains(t, got, c.output, "stdout: %s\nstderr: %s", stdout, stderr)
		})
	}
}

func tokenFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(path, bytes.Repeat([]byte("a"), 64), 0o600))
	return path
}

// TestCommandsAgainstServer runs each command with text output and, if it only reads, with --json.
func TestCommandsAgainstServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := testConfig(dir)
	g := fakeGraph(t, &cfg)
	r := start(t, cfg)
	cfg.HTTP.Public, cfg.HTTP.Private = r.PublicAddr(), r.PrivateAddr()
	file, err := dev.WriteConfig(dir, cfg)
	require.NoError(t, err)
	post(t, r.PublicAddr(), message("701", "31", "m_1", "the text of a message", 1790000000000))
	lastSeen := lastSeq(t, r)
	get[json.RawMessage](t, r, "/api/v1/pages/701/conversations")
	get[json.RawMessage](t, r, "/api/v1/pages/701")

	token, err := g.PageToken("900", "901", "701")
	require.NoError(t, err)
	page := filepath.Join(t.TempDir(), "page.token")
	require.NoError(t, os.WriteFile(page, []byte(token+"\n"), 0o600))
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"status"}, "PAGESTREAM: 1 events"},
		{[]string{"projections", "list"}, "conversations"},
		{[]string{"pages", "list"}, "701"},
		{[]string{"pages", "show", "701"}, "not connected but sending"},
		{[]string{"events", "list"}, "message.received"},
		{[]string{"events", "show", "1"}, `"m_1"`},
		{[]string{"events", "tail", "--after", "0", "--count", "1"}, "message.received"},
		{[]string{"conversations", "list"}, "31"},
		{[]string{"conversations", "list", "701"}, "31"},
		{[]string{"conversations", "show", "701", "31"}, "the text of a message"},
		{[]string{"pages", "connect", "701", "--page-token-file", page}, "confirmed"},
		{[]string{"pages", "check", "701"}, "confirmed"},
		{[]string{"pages", "resubscribe", "701"}, "confirmed"},
		{[]string{"pages", "disconnect", "701"}, "701"},
	} {
		t.Run(strings.Join(c.args[:min(2, len(c.args))], " "), func(t *testing.T) {
			code, stdout, stderr := run(t, t.Context(), append([]string{"-c", file}, c.args...)...)
			require.Equal(t, cli.ExitOK, code, "stdout: %s\nstderr: %s", stdout, stderr)
			require.Contains(t, stdout, c.want, "stdout: %s\nstderr: %s", stdout, stderr)
			require.NotContains(t, stdout+stderr, token, "the page token is shown")
			if c.args[0] == "pages" && c.args[1] != "list" && c.args[1] != "show" {
				return // commands that change something run only once
			}
			code, stdout, stderr = run(t, t.Context(), append([]string{"-c", file, "--json"}, c.args...)...)
			require.Equal(t, cli.ExitOK, code, "--json\nstdout: %s\nstderr: %s", stdout, stderr)
			require.True(t, json.Valid([]byte(strings.TrimSpace(stdout))),
				"--json\nstdout: %s\nstderr: %s", stdout, stderr)
		})
	}
	require.Greater(t, lastSeq(t, r), lastSeen, "connecting left no event")
}

func TestLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := testConfig(dir)
	r := start(t, cfg)
	cfg.HTTP.Public, cfg.HTTP.Private = r.PublicAddr(), r.PrivateAddr()
	file, err := dev.WriteConfig(dir, cfg)
	require.NoError(t, err)
	code, stdout, stderr := run(t, t.Context(), "-c", file, "--json", "load",
		"--duration", "2s", "--duplicates", "20", "--concurrency", "16", "--items", "3")
	var report loadgen.Report
	err = json.Unmarshal([]byte(stdout), &report)
	require.NoError(t, err, "%s%s", stdout, stderr)
	require.Equal(t, cli.ExitOK, code, "%s%s", stdout, stderr)
	require.NotZero(t, report.Acked, "%s%s", stdout, stderr)
	require.True(t, report.OK(), "%s%s", stdout, stderr)

	// It leaves nothing behind but events, also for a read model that is built again.
	require.Equal(t, uint64(10), report.Forgotten)
	code, stdout, stderr = run(t, t.Context(), "-c", file, "--json", "pages", "list")
	require.Equal(t, cli.ExitOK, code, stderr)
	require.JSONEq(t, "[]", stdout)
	for _, model := range []string{"pages", "conversations", "comments", "subscriptions"} {
		code, stdout, stderr = run(t, t.Context(), "-c", file, "projections", "verify", model)
		require.Equal(t, cli.ExitOK, code, "%s%s", stdout, stderr)
	}
	code, stdout, stderr = run(t, t.Context(), "-c", file, "audit", "--full")
	require.Equal(t, cli.ExitOK, code, "%s%s", stdout, stderr)
}
