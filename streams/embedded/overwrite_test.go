package embedded_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/streams/embedded"
	"github.com/pagestream/pagestream/streams/streamstest"
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
	data := strings.Repeat(fmt.Sprintf("%9d ", seq-1), 2)
	return len(streamstest.FilesWith(t, streamstest.Has(data), filepath.Join(dir, "jetstream"))) > 0
}

// checkpoints opens the checkpoints of stream S until the test ends.
func checkpoints(t *testing.T, dir string) *embedded.Checkpoints {
	t.Helper()
	c, err := embedded.OpenCheckpoints(filepath.Join(t.TempDir(), "journal", "checkpoint"), dir, "S")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// mix returns before with any of its sectors as they are after.
func mix(before, after []byte, seed uint64) []byte {
	mixed, random := slices.Clone(before), rand.New(rand.NewPCG(seed, 0))
	for at := 0; at < len(mixed); at += 512 {
		if random.IntN(2) == 0 {
			end := min(at+512, len(mixed))
			copy(mixed[at:end], after[at:end])
		}
	}
	return mixed
}

// overwriteAll overwrites messages as [streams.Journal] does.
func overwriteAll(t *testing.T, js jetstream.JetStream, c *embedded.Checkpoints, created time.Time, deleted []uint64) {
	t.Helper()
	st, err := js.Stream(deadline(t), "S")
	require.NoError(t, err)
	for range 3 {
		busy, err := c.Overwrite(deadline(t), created, deleted)
		require.NoError(t, err)
		if len(busy) == 0 {
			return
		}
		for _, seq := range busy {
			if _, err := st.GetMsg(deadline(t), seq); err != nil {
				require.ErrorIs(t, err, jetstream.ErrMsgNotFound)
			}
		}
	}
	require.Fail(t, "blocks are busy after three calls")
}

// TestOverwrite overwrites deleted messages while the server runs: the bytes of these are in no file, those of the others
// are, and the server has the others after a start from its blocks alone.
func TestOverwrite(t *testing.T) {
	t.Parallel()
	for name, how := range map[string][2]jetstream.StoreCompression{
		"uncompressed":     {jetstream.NoCompression, jetstream.NoCompression},
		"compressed":       {jetstream.S2Compression, jetstream.S2Compression},
		"compressed later": {jetstream.NoCompression, jetstream.S2Compression},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testOverwrite(t, how[0], how[1])
		})
	}
}

// testOverwrite has a stream of three blocks, of which the first two are compressed or not.
func testOverwrite(t *testing.T, first, second jetstream.StoreCompression) {
	t.Helper()
	const events = 18_000
	dir := t.TempDir()
	s, js, mark := written(t, dir, 10_000, first)
	require.Equal(t, uint64(2), mark.Block)
	if first != second { // the server compresses blocks from its next start on
		_, err := js.UpdateStream(deadline(t), streamConfig(second))
		require.NoError(t, err)
		require.NoError(t, s.Shutdown(deadline(t)))
		s = start(t, embedded.Options{Dir: dir})
		_, js = open(t, s)
	}
	mark = fillFrom(t, dir, js, 10_000, events-10_000)
	require.Equal(t, uint64(3), mark.Block)
	if second == jetstream.S2Compression {
		waitCompressed(t, dir, 2)
	}
	if first == jetstream.S2Compression {
		waitCompressed(t, dir, 1)
	}
	c := checkpoints(t, dir)
	deleted := []uint64{1, 2, 500, 501, 3000, 11_000, 11_002, events}
	deleteAll(t, js, deleted)
	require.True(t, has(t, dir, 500))
	created, err := embedded.Created(dir, "S")
	require.NoError(t, err)
	_, err = c.Overwrite(deadline(t), created.Add(1), deleted)
	require.ErrorIs(t, err, embedded.ErrOther)
	require.True(t, has(t, dir, 500))
	overwriteAll(t, js, c, created, append(deleted, events+5)) // the last one does not exist
	for _, seq := range deleted {
		require.False(t, has(t, dir, seq), "message %d", seq)
		for _, other := range []uint64{seq - 1, seq + 1} {
			if other > 0 && other < events && !slices.Contains(deleted, other) {
				require.True(t, has(t, dir, other), "message %d", other)
			}
		}
	}
	busy, err := c.Overwrite(deadline(t), created, deleted)
	require.NoError(t, err)
	require.Empty(t, busy, "again")
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

// TestOverwriteWhileBlocksAreCompressed overwrites messages again and again while the server fills blocks and compresses
// them: nothing comes back with a block that was read before.
func TestOverwriteWhileBlocksAreCompressed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, js, _ := written(t, dir, 10, jetstream.S2Compression)
	c := checkpoints(t, dir)
	created, err := embedded.Created(dir, "S")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	var publishing sync.WaitGroup
	publishing.Go(func() {
		data := make([]byte, 64<<10) // a block has 128
		for ctx.Err() == nil {
			_, err := js.Publish(ctx, "s", data)
			assert.True(t, err == nil || ctx.Err() != nil, err)
		}
	})
	var all []uint64
	for round := range streamstest.Volume(12, 6) {
		ack, err := js.Publish(deadline(t), "s", []byte(strings.Repeat(fmt.Sprintf("%9d ", 1000+round), 5)))
		require.NoError(t, err)
		streamstest.Eventually(t, streamstest.Limit, func() error {
			m, err := embedded.MarkOf(dir, "S", embedded.Mark{})
			if err == nil && m.Seq < ack.Sequence {
				err = fmt.Errorf("message %d of %d is written", m.Seq, ack.Sequence)
			}
			return err
		})
		deleteAll(t, js, []uint64{ack.Sequence})
		overwriteAll(t, js, c, created, []uint64{ack.Sequence})
		all = append(all, ack.Sequence)
	}
	stop()
	publishing.Wait()
	streamstest.Eventually(t, streamstest.Limit, func() error { // what is compressed now could bring back what it has read
		left, err := filepath.Glob(filepath.Join(dir, "jetstream", "$G", "streams", "S", "msgs", "*.tmp"))
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("%s is being written", left[0])
		}
		return err
	})
	for round := range all {
		require.False(t, has(t, dir, 1001+uint64(round)), "message %d", all[round])
	}
	last := lastOf(t, js)
	require.NoError(t, s.Shutdown(deadline(t)))
	require.NoError(t, os.Remove(filepath.Join(dir, "jetstream", "$G", "streams", "S", "msgs", "index.db")))
	_, js = open(t, start(t, embedded.Options{Dir: dir}))
	st, err := js.Stream(deadline(t), "S")
	require.NoError(t, err)
	info, err := st.Info(deadline(t), jetstream.WithDeletedDetails(true))
	require.NoError(t, err)
	require.Equal(t, last, info.State.LastSeq)
	require.Equal(t, all, info.State.Deleted)
}

// TestOverwriteABlockThatTheServerHasRead puts a block in place that the server has read before the messages were
// overwritten or meanwhile, and compressed afterwards.
func TestOverwriteABlockThatTheServerHasRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, js, mark := written(t, dir, 40, jetstream.S2Compression)
	c := checkpoints(t, dir)
	deleted := []uint64{1, 7, 8, 20, 39}
	deleteAll(t, js, deleted)
	require.NoError(t, s.Shutdown(deadline(t)))
	created, err := embedded.Created(dir, "S")
	require.NoError(t, err)
	block := filepath.Join(dir, "jetstream", "$G", "streams", "S", "msgs", fmt.Sprint(mark.Block, ".blk"))
	before, err := os.ReadFile(block)
	require.NoError(t, err)
	var after []byte
	for seed := range uint64(20) {
		require.NoError(t, os.WriteFile(block, before, 0o600))
		busy, err := c.Overwrite(deadline(t), created, deleted)
		require.NoError(t, err)
		require.Equal(t, []uint64{40}, busy)
		after, err = os.ReadFile(block)
		require.NoError(t, err)
		mixed := before
		if seed > 0 {
			mixed = mix(before, after, seed)
		}
		b := bytes.NewBuffer(binary.AppendUvarint([]byte("cmp\x01"), uint64(len(mixed))))
		w := s2.NewWriter(b)
		_, err = w.Write(mixed[:len(mixed)-8])
		require.NoError(t, errors.Join(err, w.Close()))
		b.Write(mixed[len(mixed)-8:])
		require.NoError(t, os.WriteFile(block, b.Bytes(), 0o600))
		busy, err = c.Overwrite(deadline(t), created, deleted)
		require.NoError(t, err)
		require.Empty(t, busy)
		now, err := streamstest.ReadBlock(block)
		require.NoError(t, err)
		require.Equal(t, after, now, "seed %d", seed)
	}
	// The server must be able to add to its last block.
	_, err = c.Take()
	require.NoError(t, err)
	cut, err := c.Cut(41, 40)
	require.NoError(t, err)
	require.True(t, cut)
	_, js = open(t, start(t, embedded.Options{Dir: dir}))
	fill(t, dir, js, 10)
	require.Equal(t, uint64(50), lastOf(t, js))
	now, err := os.ReadFile(block)
	require.NoError(t, err)
	require.Equal(t, after, now[:len(after)])
}

// TestAPowerCutDuringOverwrite leaves any sectors of the overwritten records as they were: the next start overwrites
// them all, before the server reads the block.
func TestAPowerCutDuringOverwrite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, js, mark := written(t, dir, 40, jetstream.S2Compression)
	c := checkpoints(t, dir)
	deleted := []uint64{1, 7, 8, 20, 40}
	deleteAll(t, js, deleted)
	require.NoError(t, s.Shutdown(deadline(t)))
	_, err := c.Take()
	require.NoError(t, err)
	block := filepath.Join(dir, "jetstream", "$G", "streams", "S", "msgs", fmt.Sprint(mark.Block, ".blk"))
	before, err := os.ReadFile(block)
	require.NoError(t, err)
	created, err := embedded.Created(dir, "S")
	require.NoError(t, err)
	_, err = c.Overwrite(deadline(t), created, deleted)
	require.NoError(t, err)
	after, err := os.ReadFile(block)
	require.NoError(t, err)
	require.NotEqual(t, before, after)
	for seed := range uint64(50) {
		require.NoError(t, os.WriteFile(block, before, 0o600))
		require.NoError(t, c.BeginOverwrite(mark.Block, deleted))
		mixed := mix(after, before, seed)
		require.NoError(t, os.WriteFile(block, mixed, 0o600))
		cut, err := c.Cut(41, 40)
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
	_, err = c.Cut(41, 40)
	require.NoError(t, err)
	now, err := os.ReadFile(block)
	require.NoError(t, err)
	require.Equal(t, other, now)
}
