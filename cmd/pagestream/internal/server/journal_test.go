package server_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/server"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// TestAnOlderJournal puts older copies of the journal's files beside the stream. No event may be removed: the program
// does not start, unless the stream has all that was answered.
func TestAnOlderJournal(t *testing.T) {
	t.Parallel()
	const before, all = 10, 25
	cfg := testConfig(t.TempDir())
	journal, older := filepath.Join(cfg.Data.Dir, "journal"), t.TempDir()
	r := start(t, cfg)
	r.postAll(t, 1, before)
	r.stop(t)
	require.NoError(t, os.CopyFS(older, os.DirFS(journal)))
	r = start(t, cfg)
	r.postAll(t, before+1, all)
	r.stop(t)
	data := cfg.Data.Dir
	for name, c := range map[string]struct {
		older  string // pattern of the files that are replaced
		starts bool
	}{
		"all":                 {"*", false},
		"only the records":    {"*.journal", true},
		"only the checkpoint": {"checkpoint", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := cfg
			cfg.Data.Dir = filepath.Join(t.TempDir(), "data")
			require.NoError(t, os.CopyFS(cfg.Data.Dir, os.DirFS(data)))
			journal := filepath.Join(cfg.Data.Dir, "journal")
			for _, dir := range []string{journal, older} {
				files, err := filepath.Glob(filepath.Join(dir, c.older))
				require.NoError(t, err)
				require.NotEmpty(t, files)
				for _, file := range files {
					b, err := os.ReadFile(file)
					require.NoError(t, err)
					require.NoError(t, os.RemoveAll(filepath.Join(journal, filepath.Base(file))))
					if dir == older {
						require.NoError(t, os.WriteFile(filepath.Join(journal, filepath.Base(file)), b, 0o600))
					}
				}
			}
			if !c.starts {
				p := server.New(server.Options{Config: cfg})
				err := p.Run(t.Context())
				require.ErrorContains(t, err, fmt.Sprintf("event %d, and those after %d ", all, before))
				require.ErrorContains(t, err, "move "+journal+" away")
				require.NoError(t, os.Rename(journal, journal+".old"))
			}
			for _, last := range []int{all, all + 5} { // what was stored stays, also when the journal is of the stream again
				r := start(t, cfg)
				require.EqualValues(t, last, lastSeq(t, r))
				r.postAll(t, last+1, last+5)
				r.postAll(t, 1, all) // Meta sends them again
				require.EqualValues(t, last+5, lastSeq(t, r))
				code, out, stderr := r.command(t, "audit")
				require.Equal(t, cli.ExitOK, code, out+stderr)
				r.stop(t)
			}
		})
	}
}

// TestAKilledImport copies the files while an import stores events, which are not in the journal, as they are found after
// the process was killed: the import can be repeated, and then has all.
func TestAKilledImport(t *testing.T) {
	t.Parallel()
	const events = 3000
	r := start(t, testConfig(t.TempDir()))
	for n := range 3 {
		var items []string
		for i := range events / 3 {
			items = append(items, fmt.Sprintf(`{"sender":{"id":"31"},"recipient":{"id":"700"},"timestamp":%d,`+
				`"message":{"mid":"m_%d_%d","text":"x"}}`, 1790000000000+i, n, i))
		}
		body := []byte(`{"object":"page","entry":[{"id":"700","time":1,"messaging":[` + strings.Join(items, ",") + `]}]}`)
		streamstest.Eventually(t, streamstest.Limit, func() error {
			if status := post(t, r.PublicAddr(), body); status != http.StatusOK {
				return fmt.Errorf("answered %d", status)
			}
			return nil
		})
	}
	want := r.digests(t)
	dir := t.TempDir()
	part, whole := filepath.Join(dir, "part.ndjson"), filepath.Join(dir, "whole.ndjson")
	code, _, stderr := r.command(t, "events", "export", part, "--to", "500")
	require.Equal(t, cli.ExitOK, code, stderr)
	code, _, stderr = r.command(t, "events", "export", whole)
	require.Equal(t, cli.ExitOK, code, stderr)

	for _, first := range []string{"", part} { // the installation has no event, or the first ones
		cfg, killed := testConfig(t.TempDir()), testConfig(t.TempDir())
		if first != "" {
			code, _, stderr := offline(t, cfg, "events", "import", first)
			require.Equal(t, cli.ExitOK, code, stderr)
		}
		f, err := os.Open(whole)
		require.NoError(t, err)
		require.NoError(t, server.Offline(t.Context(), server.Options{Config: cfg}, func(o *operate.Offline) error {
			_, err := o.Import(t.Context(), f, 0, func(seq uint64) {
				if seq != 2048 {
					return
				}
				streamstest.Eventually(t, streamstest.Limit, func() error { // a file may be replaced meanwhile
					return errors.Join(os.RemoveAll(killed.Data.Dir), os.CopyFS(killed.Data.Dir, os.DirFS(cfg.Data.Dir)))
				})
			})
			return err
		}))
		require.NoError(t, f.Close())
		code, out, stderr := offline(t, killed, "events", "import", whole)
		require.Equal(t, cli.ExitOK, code, stderr)
		require.Contains(t, out, "imported 3000 events to sequence 3000")
		again := start(t, killed)
		require.Equal(t, want, again.digests(t))
		again.stop(t)
	}
}
