package datadir_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/datadir"
)

// writeFiles creates files in a directory; a name that ends in / is a directory.
func writeFiles(t *testing.T, dir string, files map[string]string) string {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if strings.HasSuffix(name, "/") {
			require.NoError(t, os.MkdirAll(path, 0o700))
			continue
		}
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	return dir
}

func format(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "FORMAT"))
	require.NoError(t, err)
	return string(b)
}

// names returns the names in a directory.
func names(t *testing.T, dir string) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestNewDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "var", "data")
	require.NoError(t, datadir.Check(dir))
	assert.Equal(t, "4\n", format(t, dir))
	assert.Equal(t, []string{"FORMAT"}, names(t, dir), "no temporary file is left")
	if runtime.GOOS != "windows" {
		info, err := os.Stat(dir)
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	}

	writeFiles(t, dir, map[string]string{"nats/": "", "projections/": ""})
	require.NoError(t, datadir.Check(dir), "the second start")
}

// TestOtherFilesDontMakeADirectoryOld checks that files which may exist before the
// first start, or that an interrupted write left, don't count as stored data.
func TestOtherFilesDontMakeADirectoryOld(t *testing.T) {
	for _, name := range []string{
		"keys.json", "admin.token", "read.token", "pagestream.yaml", "lost+found/", ".FORMAT-123",
	} {
		dir := writeFiles(t, t.TempDir(), map[string]string{name: ""})
		require.NoError(t, datadir.Check(dir), name)
		assert.Equal(t, "4\n", format(t, dir), name)
	}
	dir := t.TempDir()
	require.NoError(t, datadir.Check(dir), "empty, as after a crash before the write")
	assert.Equal(t, "4\n", format(t, dir))
}

func TestSameFormat(t *testing.T) {
	for _, text := range []string{"4\n", "4", "4\r\n"} {
		dir := writeFiles(t, t.TempDir(), map[string]string{"FORMAT": text, "nats/": ""})
		require.NoError(t, datadir.Check(dir), "%q", text)
		require.NoError(t, datadir.Convert(dir))
		assert.Equal(t, text, format(t, dir), "it is not written again")
	}
}

// TestConvert checks that a look at a directory of an earlier version leaves it to that version.
func TestConvert(t *testing.T) {
	dir := writeFiles(t, t.TempDir(), map[string]string{"FORMAT": "3\n", "nats/": ""})
	require.NoError(t, datadir.Check(dir))
	assert.Equal(t, "3\n", format(t, dir))
	require.NoError(t, datadir.Convert(dir))
	assert.Equal(t, "4\n", format(t, dir))
	require.NoError(t, datadir.Check(dir))
}

func TestOtherFormat(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		found int
		says  string
	}{
		"stream alone":  {map[string]string{"nats/": ""}, 0, "format 0 (from before formats were numbered)"},
		"read models":   {map[string]string{"projections/": "", "keys.json": ""}, 0, "format 0 ("},
		"older":         {map[string]string{"FORMAT": "1\n", "nats/": ""}, 1, "format 1, this"},
		"newer":         {map[string]string{"FORMAT": "5\n", "nats/": ""}, 5, "format 5 (of a newer pagestream)"},
		"newer, unused": {map[string]string{"FORMAT": "17\n"}, 17, "format 17"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := writeFiles(t, t.TempDir(), c.files)
			before := names(t, dir)
			err := datadir.Check(dir)
			var other *datadir.FormatError
			require.ErrorAs(t, err, &other)
			assert.Equal(t, datadir.FormatError{Dir: dir, Found: c.found, Want: datadir.Format}, *other)
			for _, text := range []string{
				dir, c.says, "works with format 4", "pagestream events export FILE", "set data.dir to a new directory",
				"pagestream events import FILE", "keys.file",
			} {
				require.ErrorContains(t, err, text)
			}
			assert.Equal(t, before, names(t, dir), "nothing was changed")
		})
	}
}

func TestDamagedFormat(t *testing.T) {
	for text, says := range map[string]string{
		"":                        "FORMAT is empty",
		"\n":                      "FORMAT is empty",
		"one\n":                   `FORMAT has "one"`,
		"0\n":                     `FORMAT has "0"`,
		"-1\n":                    `FORMAT has "-1"`,
		"1 2\n":                   `FORMAT has "1 2"`,
		"99999999999\n":           `FORMAT has "99999999999"`,
		"\x00\x00":                `FORMAT has "\x00\x00"`,
		strings.Repeat("1", 4096): "FORMAT has ",
	} {
		dir := writeFiles(t, t.TempDir(), map[string]string{"FORMAT": text, "nats/": ""})
		err := datadir.Check(dir)
		require.ErrorIs(t, err, datadir.ErrDamaged, "%q", text)
		for _, part := range []string{filepath.Join(dir, "FORMAT"), says, "no trace of a crash", "write 4 into the file"} {
			require.ErrorContains(t, err, part)
		}
		assert.Less(t, len(err.Error()), 600+len(dir))
		assert.Equal(t, text, format(t, dir), "the file is not changed")

		writeFiles(t, dir, map[string]string{"FORMAT": "3\n"})
		require.NoError(t, datadir.Check(dir), "the remedy that the error names")
	}
}

func TestUnreadable(t *testing.T) {
	dir := writeFiles(t, t.TempDir(), map[string]string{"FORMAT/": ""})
	err := datadir.Check(dir)
	require.ErrorContains(t, err, "read format of data directory")
	require.ErrorContains(t, err, filepath.Join(dir, "FORMAT"))
	var other *datadir.FormatError
	assert.NotErrorAs(t, err, &other)

	occupied := writeFiles(t, t.TempDir(), map[string]string{"data": "a file"})
	assert.ErrorContains(t, datadir.Check(filepath.Join(occupied, "data")), "make data directory")
}

// TestConcurrentChecksOfANewDirectory checks that no process takes the directories
// that another one created after its Check for an old data directory.
func TestConcurrentChecksOfANewDirectory(t *testing.T) {
	for range 50 {
		dir := filepath.Join(t.TempDir(), "data")
		begin := make(chan struct{})
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				<-begin
				if !assert.NoError(t, datadir.Check(dir)) {
					return
				}
				assert.NoError(t, os.MkdirAll(filepath.Join(dir, "nats"), 0o700))
			})
		}
		close(begin)
		wg.Wait()
		require.Equal(t, []string{"FORMAT", "nats"}, names(t, dir))
		require.Equal(t, "4\n", format(t, dir))
	}
}

// TestMigratedDirectoryIsRefused checks that a directory with a record of a migration can be used by that migration
// only, and that each message says what to type.
func TestMigratedDirectoryIsRefused(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, datadir.Check(dir))
	for _, c := range []struct {
		datadir.Migration
		has []string
	}{
		{
			datadir.Migration{Other: "/new", Config: "/new.yaml"},
			[]string{"pagestream migrate --to /new.yaml", "remove " + filepath.Join(dir, "MIGRATION")},
		},
		{
			datadir.Migration{Other: "/new", Config: "/new.yaml", Done: time.Now()},
			[]string{"pagestream --config /new.yaml serve", "remove " + filepath.Join(dir, "MIGRATION")},
		},
		{
			datadir.Migration{Other: "/old", Config: "/new.yaml", Into: true},
			[]string{"the migration of /old into it was interrupted", "pagestream migrate --to /new.yaml"},
		},
	} {
		c.ID = "mine"
		require.NoError(t, datadir.WriteMigration(dir, c.Migration))
		var found *datadir.MigrationError
		require.ErrorAs(t, datadir.Check(dir), &found)
		require.ErrorAs(t, datadir.CheckMigrating(dir, "another"), &found)
		require.NoError(t, datadir.CheckMigrating(dir, "mine"))
		for _, text := range c.has {
			assert.Contains(t, found.Error(), text)
		}
	}
	require.NoError(t, datadir.EndMigration(dir))
	require.NoError(t, datadir.EndMigration(dir))
	require.NoError(t, datadir.Check(dir))
	writeFiles(t, dir, map[string]string{"MIGRATION": "{"})
	require.Error(t, datadir.Check(dir))
}
