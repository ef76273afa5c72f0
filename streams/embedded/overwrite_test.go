package embedded_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/streams/embedded"
)

// deleteAll deletes messages without overwriting them.
func deleteAll(t *testing.T, js jetstream.JetStream, seqs []uint64) {
	t.Helper()
	st, err := js.Stream(deadline(t), "S")
	require.NoError(t, err)
	for _, seq := range seqs {
		require.NoError(t, st.DeleteMsg(deadline(t), seq))
	}
}

// has reports whether a file of the server has the data of a message that fill published.
func has(t *testing.T, dir string, seq uint64) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "*", "*", "*", "*"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	data := []byte(strings.Repeat(fmt.Sprintf("%9d ", seq-1), 2))
	return slices.ContainsFunc(files, func(file string) bool {
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		return bytes.Contains(b, data)
	})
}

// TestOverwrite overwrites deleted messages while the server runs: the bytes of these are in no file, those of the others
// are, and the server has the others after a start from its blocks alone.
func TestOverwrite(t *testing.T) {
	t.Parallel()
	const events = 12_000 // in two blocks
	dir := t.TempDir()
	s, js, mark := written(t, dir, events)
	require.Equal(t, uint64(2), mark.Block)
	c, err := embedded.OpenCheckpoints(filepath.Join(t.TempDir(), "checkpoint"), dir, "S")
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	deleted := []uint64{1, 2, 500, 501, 3000, 11_000, 11_002, events}
	deleteAll(t, js, deleted)
	require.True(t, has(t, dir, 500))
	created, err := embedded.Created(dir, "S")
	require.NoError(t, err)
	require.ErrorIs(t, c.Overwrite(deadline(t), created.Add(1), deleted), embedded.ErrOther)
	require.True(t, has(t, dir, 500))
	require.NoError(t, c.Overwrite(deadline(t), created, append(deleted, events+5))) // the last one does not exist
	for _, seq := range deleted {
		require.False(t, has(t, dir, seq), "message %d", seq)
		for _, other := range []uint64{seq - 1, seq + 1} {
			if other > 0 && other < events && !slices.Contains(deleted, other) {
				require.True(t, has(t, dir, other), "message %d", other)
			}
		}
	}
	require.NoError(t, c.Overwrite(deadline(t), created, deleted), "again")
	fill(t, dir, js, 10)
	require.NoError(t, s.Shutdown(deadline(t)))
	require.NoError(t, os.Remove(filepath.Join(dir, "jetstream", "$G", "streams", "S", "msgs", "index.db")))
	_, js = open(t, start(t, embedded.Options{Dir: dir}))
	st, err := js.Stream(deadline(t), "S")
	require.NoError(t, err)
	info, err := st.Info(deadline(t), jetstream.WithDeletedDetails(true))
	require.NoError(t, err)
	require.Equal(t, uint64(events+10), info.State.LastSeq)
	require.Equal(t, uint64(3), info.State.FirstSeq)
	require.Equal(t, deleted[2:], info.State.Deleted)
	require.Equal(t, uint64(events+10-len(deleted)), info.State.Msgs)
	m, err := st.GetMsg(deadline(t), 502)
	require.NoError(t, err)
	require.Contains(t, string(m.Data), "501 ")
}

// TestAPowerCutDuringOverwrite leaves any sectors of the overwritten records as they were: the next start overwrites
// them all, before the server reads the block.
func TestAPowerCutDuringOverwrite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, js, mark := written(t, dir, 40)
	c, err := embedded.OpenCheckpoints(filepath.Join(t.TempDir(), "journal", "checkpoint"), dir, "S")
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	deleted := []uint64{1, 7, 8, 20, 40}
	deleteAll(t, js, deleted)
	require.NoError(t, s.Shutdown(deadline(t)))
	_, err = c.Take()
	require.NoError(t, err)
	block := filepath.Join(dir, "jetstream", "$G", "streams", "S", "msgs", fmt.Sprint(mark.Block, ".blk"))
	before, err := os.ReadFile(block)
	require.NoError(t, err)
	created, err := embedded.Created(dir, "S")
	require.NoError(t, err)
	require.NoError(t, c.Overwrite(deadline(t), created, deleted))
	after, err := os.ReadFile(block)
	require.NoError(t, err)
	require.NotEqual(t, before, after)
	for seed := range uint64(50) {
		require.NoError(t, os.WriteFile(block, before, 0o600))
		require.NoError(t, c.BeginOverwrite(mark.Block, deleted))
		mixed, random := slices.Clone(after), rand.New(rand.NewPCG(seed, 0))
		for at := 0; at < len(mixed); at += 512 {
			if random.IntN(2) == 0 {
				end := min(at+512, len(mixed))
				copy(mixed[at:end], before[at:end])
			}
		}
		require.NoError(t, os.WriteFile(block, mixed, 0o600))
		cut, err := c.Cut(41)
		require.NoError(t, err)
		require.False(t, cut)
		now, err := os.ReadFile(block)
		require.NoError(t, err)
		require.Equal(t, after, now, "seed %d", seed)
	}
	// What is in a place of another message by now stays.
	require.NoError(t, os.WriteFile(block, before, 0o600))
	require.NoError(t, c.BeginOverwrite(mark.Block, deleted))
	other := slices.Clone(before)
	other[len(other)/2-100]++
	copy(other[:mark.Offset], slices.Concat(other[1000:mark.Offset], other[:1000]))
	require.NoError(t, os.WriteFile(block, other, 0o600))
	_, err = c.Cut(41)
	require.NoError(t, err)
	now, err := os.ReadFile(block)
	require.NoError(t, err)
	require.Equal(t, other, now)
}
