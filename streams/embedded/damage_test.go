package embedded_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/streams/embedded"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// TestMend changes a byte anywhere in a block that is not the last one: it is found while the server runs, and after Mend
// the server starts from the blocks alone, with all messages but a few.
func TestMend(t *testing.T) {
	t.Parallel()
	for how, most := range map[jetstream.StoreCompression]int{
		jetstream.NoCompression: 1,
		jetstream.S2Compression: 2200, // a chunk has 1 MiB, and one can end in the next
	} {
		t.Run(how.String(), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s, _, _ := written(t, dir, 10_000, how)
			if how == jetstream.S2Compression {
				waitCompressed(t, dir, 1)
			}
			c := checkpoints(t, dir)
			damaged, err := c.Damaged(t.Context())
			require.NoError(t, err)
			require.Empty(t, damaged)
			msgs := filepath.Join(dir, "jetstream", "$G", "streams", "S", "msgs")
			block := filepath.Join(msgs, "1.blk")
			before, err := os.ReadFile(block)
			require.NoError(t, err)
			random := rand.New(rand.NewPCG(1, 2))
			places := []int{0, 3, 20, len(before) - 1}
			for range streamstest.Volume(8, 1) {
				places = append(places, random.IntN(len(before)))
			}
			for i, at := range places {
				changed := slices.Clone(before)
				changed[at] ^= 0x55
				require.NoError(t, os.WriteFile(block, changed, 0o600))
				damaged, err := c.Damaged(t.Context())
				require.NoError(t, err)
				require.Equal(t, []uint64{1}, damaged, "byte %d", at)
				if i == 0 {
					require.NoError(t, s.Shutdown(deadline(t)))
				}
				mended, err := c.Mend()
				require.NoError(t, err)
				require.Equal(t, []uint64{1}, mended)
				kept, err := os.ReadFile(filepath.Join(msgs, "..", "damaged", "1.blk"))
				require.NoError(t, err)
				require.Equal(t, changed, kept)
				require.NoError(t, os.RemoveAll(filepath.Join(msgs, "..", "damaged")))
				damaged, err = c.Damaged(t.Context())
				require.NoError(t, err)
				require.Empty(t, damaged)
				s, js := startAgain(t, dir)
				st, err := js.Stream(deadline(t), "S")
				require.NoError(t, err)
				info, err := st.Info(deadline(t), jetstream.WithDeletedDetails(true))
				require.NoError(t, err)
				require.Equal(t, uint64(10_000), info.State.LastSeq)
				lost := 10_000 - int(info.State.Msgs)
				t.Logf("byte %d of %d: %d messages are lost", at, len(before), lost)
				require.LessOrEqual(t, lost, most, "byte %d", at)
				m, err := st.GetMsg(deadline(t), 9999)
				require.NoError(t, err)
				require.Contains(t, string(m.Data), fmt.Sprintf("%9d ", 9998))
				require.NoError(t, s.Shutdown(deadline(t)))
			}
		})
	}
}

// TestCheckpointsAfterMend removes a damaged message before the checkpoint, whose place in the block changes by that: the
// next checkpoint has what was stored since, and what was stored after one is cut there.
func TestCheckpointsAfterMend(t *testing.T) {
	t.Parallel()
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "checkpoint")
	s, _, _ := written(t, dir, 10, jetstream.NoCompression)
	c, err := embedded.OpenCheckpoints(file, dir, "S")
	require.NoError(t, err)
	take := func(want uint64) {
		t.Helper()
		streamstest.Eventually(t, limit, func() error { // the server writes a moment later
			if seq, err := c.Take(); err != nil || seq != want {
				return fmt.Errorf("the checkpoint is at %d: %w", seq, err)
			}
			return nil
		})
	}
	take(10)
	require.NoError(t, s.Shutdown(deadline(t)))
	block := filepath.Join(dir, "jetstream", "$G", "streams", "S", "msgs", "1.blk")
	b, err := os.ReadFile(block)
	require.NoError(t, err)
	b[len(b)/3] ^= 0x55
	require.NoError(t, os.WriteFile(block, b, 0o600))
	mended, err := c.Mend()
	require.NoError(t, err)
	require.Equal(t, []uint64{1}, mended)

	s, js := startAgain(t, dir)
	fillFrom(t, dir, js, 10, 5)
	require.NoError(t, s.Shutdown(deadline(t)))
	require.NoError(t, c.Close())
	c, err = embedded.OpenCheckpoints(file, dir, "S") // as after a crash
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	cut, err := c.Cut(11, 15)
	require.NoError(t, err)
	require.True(t, cut)
	s, js = startAgain(t, dir)
	require.Equal(t, uint64(10), lastOf(t, js))
	fillFrom(t, dir, js, 10, 6)
	take(16)
	require.NoError(t, s.Shutdown(deadline(t)))
}

func startAgain(t *testing.T, dir string) (*embedded.Server, jetstream.JetStream) {
	t.Helper()
	s := start(t, embedded.Options{Dir: dir})
	_, js := open(t, s)
	return s, js
}

// TestDamagedWhileTheServerWrites takes nothing that is being written, erased or compressed for damage.
func TestDamagedWhileTheServerWrites(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, js, _ := written(t, dir, 10, jetstream.S2Compression)
	c := checkpoints(t, dir)
	created, err := embedded.Created(dir, "S")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	var reading sync.WaitGroup
	reading.Go(func() {
		for n := 0; ctx.Err() == nil || n < 3; n++ {
			damaged, err := c.Damaged(t.Context())
			assert.True(t, err == nil && len(damaged) == 0, "%v %v", damaged, err)
		}
	})
	for round := range uint64(streamstest.Volume(6, 3)) {
		fillFrom(t, dir, js, 10+round*3000, 3000)
		deleted := []uint64{round*3000 + 20, round*3000 + 3000}
		deleteAll(t, js, deleted)
		overwriteAll(t, js, c, created, deleted)
	}
	stop()
	reading.Wait()
}

// FuzzBlock reads any bytes as a block: what is read of them is a whole block itself, compressed or not.
func FuzzBlock(f *testing.F) {
	dir := f.TempDir()
	s, err := embedded.Start(f.Context(), embedded.Options{Dir: dir})
	require.NoError(f, err)
	nc, err := s.Connect("fuzz")
	require.NoError(f, err)
	js, err := jetstream.New(nc)
	require.NoError(f, err)
	_, err = js.CreateStream(f.Context(), streamConfig(jetstream.S2Compression))
	require.NoError(f, err)
	for i := range 5 {
		_, err := js.Publish(f.Context(), "s", bytes.Repeat([]byte{byte(i)}, 40*i))
		require.NoError(f, err)
	}
	nc.Close()
	require.NoError(f, s.Shutdown(f.Context()))
	block, err := os.ReadFile(filepath.Join(dir, "jetstream", "$G", "streams", "S", "msgs", "1.blk"))
	require.NoError(f, err)
	compressed, err := embedded.Compress(block)
	require.NoError(f, err)
	for _, b := range [][]byte{block, compressed} {
		records, whole, err := embedded.Readable("S", 1, b, false)
		require.NoError(f, err)
		require.True(f, whole)
		require.Equal(f, block, records)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		records, _, err := embedded.Readable("S", 1, b, true)
		require.NoError(t, err)
		again, whole, err := embedded.Readable("S", 1, records, false)
		require.NoError(t, err)
		require.True(t, whole)
		require.Equal(t, records, again)
		if len(records) == 0 {
			return
		}
		compressed, err := embedded.Compress(records)
		require.NoError(t, err)
		again, whole, err = embedded.Readable("S", 1, compressed, false)
		require.NoError(t, err)
		require.True(t, whole)
		require.Equal(t, records, again)
	})
}
