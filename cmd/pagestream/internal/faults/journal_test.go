//go:build linux

package faults

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// journal returns the files of the journal, in order.
func (s *site) journal() []string {
	names, _ := filepath.Glob(filepath.Join(s.data, "journal", "*.journal"))
	return names
}

// streamTorn damages what the stream's files have after the last checkpoint, as a power cut may: the ends of several
// files at once, with later files that are whole.
func streamTorn(t *testing.T, f *trial) {
	s := f.site(t, "")
	s.load.padding = strings.Repeat("x", 20_000) // so that there are several files between two checkpoints
	s.startLoaded(t)
	torn := 0
	for range f.rounds {
		s.awaitAcks(t, 300)
		s.kill()
		n, err := s.tear()
		require.NoError(t, err)
		torn += n
		s.fault(t, time.Now())
		s.start(t)
		require.NoError(t, s.recovers(startLimit))
		s.check(t)
		f.done++
	}
	f.tell("%d files were damaged", torn)
}

// tear damages the files of the stream after the checkpoint, and returns how many.
func (s *site) tear() (torn int, err error) {
	var checkpoint struct{ Block, Offset int }
	b, err := os.ReadFile(filepath.Join(s.data, "journal", "checkpoint"))
	if err == nil {
		err = json.Unmarshal(b, &checkpoint)
	}
	if err != nil {
		return 0, fmt.Errorf("read checkpoint: %w", err)
	}
	for _, path := range s.blocks() {
		var n, from int
		if _, err := fmt.Sscanf(filepath.Base(path), "%d.blk", &n); err != nil {
			return torn, fmt.Errorf("name of a block: %w", err)
		}
		if n < checkpoint.Block {
			continue
		}
		if n == checkpoint.Block {
			from = checkpoint.Offset
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return torn, fmt.Errorf("read block: %w", err)
		}
		if bytes.HasPrefix(b, []byte("cmp")) { // the server syncs a compressed block before it puts it in place
			continue
		}
		if len(b) <= from || rand.IntN(4) == 0 {
			continue
		}
		at := from + rand.IntN(len(b)-from)
		if rand.IntN(2) == 0 {
			b = b[:at]
		} else {
			clear(b[at:min(len(b), at+4096)])
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			return torn, fmt.Errorf("damage block: %w", err)
		}
		torn++
	}
	return torn, nil
}

// startFails starts the program, which must end with an error, and returns its log.
func (s *site) startFails(t *testing.T, on string) string {
	t.Helper()
	s.unsupervised = true
	defer func() { s.unsupervised = false }()
	require.NoError(t, os.Truncate(s.log(), 0))
	s.start(t)
	code, ended := s.ended(startLimit)
	require.True(t, ended, "it runs %s", on)
	assert.NotZero(t, code)
	text, err := os.ReadFile(s.log())
	require.NoError(t, err)
	return string(text)
}

// journalDamaged changes a bit of the journal: the program must not start with what is left of it. Then the bit is
// changed back.
func journalDamaged(t *testing.T, f *trial) {
	s := f.running(t, "")
	for range f.rounds {
		s.awaitAcks(t, 200)
		s.load.stop(startLimit)
		s.kill()
		began := time.Now()
		names := s.journal()
		require.NotEmpty(t, names)
		path := names[len(names)-1]
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		used := len(bytes.TrimRight(b, "\x00"))
		require.Positive(t, used)
		at := rand.IntN(used)
		flip := func() {
			b[at] ^= 1 << (at % 8)
			require.NoError(t, os.WriteFile(path, b, 0o600))
		}
		flip()
		text := s.startFails(t, fmt.Sprintf("with byte %d of %d changed", at, used))
		assert.Contains(t, text, "the journal is damaged")
		assert.Contains(t, text, path)
		flip()
		s.fault(t, began)
		s.startLoaded(t)
		require.NoError(t, s.recovers(startLimit))
		s.check(t)
		f.done++
	}
}

// journalReplaced puts an older copy of the stream below a journal that has more: what the journal lacks can't be
// filled, so the program does not start. With the newer stream it does.
func journalReplaced(t *testing.T, f *trial) {
	s := f.running(t, "")
	for range f.rounds {
		s.awaitAcks(t, 100)
		s.load.stop(startLimit)
		s.terminate(t)
		stream := filepath.Join(s.data, "nats")
		older, newer := filepath.Join(s.dir, "older"), filepath.Join(s.dir, "newer")
		require.NoError(t, os.CopyFS(older, os.DirFS(stream)))
		s.startLoaded(t)
		s.awaitAcks(t, 100)
		s.terminate(t) // the stream has all of the journal
		s.startLoaded(t)
		s.awaitAcks(t, 100)
		s.load.stop(startLimit)
		s.kill() // and now it may not
		began := time.Now()
		require.NoError(t, os.Rename(stream, newer))
		require.NoError(t, os.Rename(older, stream))
		text := s.startFails(t, "on an older stream without the events of the journal")
		assert.Contains(t, text, "the journal has acknowledged events")
		require.NoError(t, errors.Join(os.RemoveAll(stream), os.Rename(newer, stream)))
		s.fault(t, began)
		s.startLoaded(t)
		require.NoError(t, s.recovers(startLimit))
		s.check(t)
		f.done++
	}
}
