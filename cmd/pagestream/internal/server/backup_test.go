package server_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/config"
	"github.com/pagestream/pagestream/domain/seal"
)

// fillConversations stores some conversations and erases one of them.
func fillConversations(t *testing.T, r *running) {
	t.Helper()
	for i := range 30 {
		body := message(fmt.Sprint("70", i%3), fmt.Sprint("3", i%4), fmt.Sprint("m_", i), "hi", 1790000000000+int64(i))
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), body))
	}
	code, out, stderr := r.command(t, "erase", "700", "30", "--yes")
	require.Equal(t, cli.ExitOK, code, out+stderr)
}

// environ returns the environment with which a command works on the stopped installation of cfg.
func environ(cfg config.Config) []string {
	return []string{
		"PAGESTREAM_DATA_DIR=" + cfg.Data.Dir, "PAGESTREAM_KEYS_FILE=" + cfg.Keys.File,
		"PAGESTREAM_HTTP_TOKEN_FILE=" + cfg.HTTP.TokenFile, "PAGESTREAM_NATS_URL=" + string(cfg.NATS.URL),
		"PAGESTREAM_NATS_REPLICAS=" + fmt.Sprint(cfg.NATS.Replicas),
	}
}

// offline runs a command on the stopped installation of cfg.
func offline(t *testing.T, cfg config.Config, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs strings.Builder
	code = cli.Main(t.Context(), args, environ(cfg), &out, &errs)
	return code, out.String(), errs.String()
}

// TestBackupRestore checks that an installation restored from a backup has the same read models
// and keys, and passes the audit.
func TestBackupRestore(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t.TempDir()))
	fillConversations(t, r)
	dir := filepath.Join(t.TempDir(), "backup")
	code, out, stderr := r.command(t, "backup", dir)
	require.Equal(t, cli.ExitOK, code, stderr)
	assert.Contains(t, out, "backed up: stream PAGESTREAM to event 31")
	code, _, stderr = r.command(t, "backup", dir)
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, stderr, "name a new one")
	want := r.digests(t)

	cfg := testConfig(t.TempDir())
	code, out, stderr = offline(t, cfg, "restore", dir, "--erasures", "none")
	require.Equal(t, cli.ExitOK, code, stderr)
	assert.Contains(t, out, "restored: stream PAGESTREAM to event 31")
	code, _, stderr = offline(t, cfg, "restore", dir, "--erasures", "none")
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, stderr, "the stream exists already")
	was, _, err := seal.LoadOrCreate(r.cfg.Keys.File, true)
	require.NoError(t, err)
	is, _, err := seal.LoadOrCreate(cfg.Keys.File, true)
	require.NoError(t, err)
	assert.Equal(t, was.KeyIDs(), is.KeyIDs())
	again := start(t, cfg)
	assert.Equal(t, want, again.digests(t))
	code, out, _ = again.command(t, "audit")
	assert.Equal(t, cli.ExitOK, code, out)
	// A redelivery after the restore is a duplicate.
	require.Equal(t, http.StatusOK, post(t, again.PublicAddr(), message("701", "31", "m_1", "hi", 1790000000001)))
	assert.Equal(t, want, again.digests(t))
}

// TestExportImport checks the same for an export to a file that was truncated and continued.
func TestExportImport(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t.TempDir()))
	fillConversations(t, r)
	want := r.digests(t)
	file := filepath.Join(t.TempDir(), "events.ndjson")
	code, _, stderr := r.command(t, "events", "export", file, "--to", "10")
	require.Equal(t, cli.ExitOK, code, stderr)
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, b[:len(b)-20], 0o600))
	code, _, stderr = r.command(t, "events", "export", file)
	require.Equal(t, cli.ExitOK, code, stderr)
	assert.Contains(t, stderr, "continuing after event 9")
	code, out, stderr := r.command(t, "events", "export", "--page", "701", "--type", "message.received")
	require.Equal(t, cli.ExitOK, code, stderr)
	assert.Equal(t, 10, strings.Count(out, "\n"))
	code, _, stderr = r.command(t, "events", "export", "--type", "message.lost")
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, stderr, "not an event type")

	cfg := testConfig(t.TempDir())
	code, out, stderr = offline(t, cfg, "events", "import", file)
	require.Equal(t, cli.ExitOK, code, stderr)
	assert.Contains(t, out, "28 events to sequence 31; 3 sequences")
	again := start(t, cfg)
	assert.Equal(t, want, again.digests(t))
	code, out, _ = again.command(t, "audit")
	assert.Equal(t, cli.ExitOK, code, out)
}
