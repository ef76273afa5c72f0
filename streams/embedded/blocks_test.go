package embedded_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/streams/embedded"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// written starts a server with n messages of a kilobyte in stream S, and waits until they are in its files.
func written(t *testing.T, dir string, n uint64) (*embedded.Server, jetstream.JetStream, embedded.Mark) {
	t.Helper()
	s := start(t, embedded.Options{Dir: dir})
	_, js := open(t, s)
	_, err := js.CreateOrUpdateStream(deadline(t), jetstream.StreamConfig{
		Name: "S", Subjects: []string{"s"}, PersistMode: jetstream.AsyncPersistMode,
	})
	require.NoError(t, err)
	return s, js, fill(t, dir, js, n)
}

// fill publishes n messages.
func fill(t *testing.T, dir string, js jetstream.JetStream, n uint64) (m embedded.Mark) {
	t.Helper()
	var seq uint64
	for i := range n {
		ack, err := js.PublishMsg(deadline(t), &nats.Msg{
			Subject: "s", Header: nats.Header{"A": {"b"}}, Data: []byte(strings.Repeat(fmt.Sprintf("%9d ", i), 100)),
		})
		require.NoError(t, err)
		seq = ack.Sequence
	}
	streamstest.Eventually(t, streamstest.Limit, func() (err error) {
		if m, err = embedded.MarkOf(dir, "S", embedded.Mark{}); err == nil && m.Seq < seq {
			err = fmt.Errorf("message %d of %d is written", m.Seq, seq)
		}
		return err
	})
	return m
}

func lastOf(t *testing.T, js jetstream.JetStream) uint64 {
	t.Helper()
	st, err := js.Stream(deadline(t), "S")
	require.NoError(t, err)
	return st.CachedInfo().State.LastSeq
}

func TestCutRemovesWhatFollowsAMark(t *testing.T) {
	t.Parallel()
	for _, more := range []uint64{0, 3, 20_000} { // within the block, and two blocks more
		dir := t.TempDir()
		s, js, mark := written(t, dir, 10)
		require.Equal(t, uint64(10), mark.Seq)
		created, err := embedded.Created(dir, "S")
		require.NoError(t, err)
		st, err := js.Stream(deadline(t), "S")
		require.NoError(t, err)
		require.Equal(t, st.CachedInfo().Created, created)
		again, err := embedded.MarkOf(dir, "S", mark)
		require.NoError(t, err)
		require.Equal(t, mark, again)
		if more > 0 {
			end := fill(t, dir, js, more)
			require.Equal(t, 10+more, end.Seq)
			step, err := embedded.MarkOf(dir, "S", mark)
			require.NoError(t, err)
			require.Equal(t, end, step)
			require.Equal(t, more > 100, end.Block > mark.Block)
		}
		require.NoError(t, s.Shutdown(deadline(t)))
		cut, err := embedded.Cut(dir, "S", mark)
		require.NoError(t, err)
		require.Equal(t, more > 0, cut)
		_, js = open(t, start(t, embedded.Options{Dir: dir}))
		require.Equal(t, uint64(10), lastOf(t, js))
		ack, err := js.Publish(deadline(t), "s", []byte("next"))
		require.NoError(t, err)
		require.Equal(t, uint64(11), ack.Sequence)
	}
}

// TestALostCheckpoint checks that what the journal does not have any more stays, if an older checkpoint is found.
func TestALostCheckpoint(t *testing.T) {
	t.Parallel()
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "checkpoint")
	s, js, _ := written(t, dir, 10)
	c, err := embedded.OpenCheckpoints(file, dir, "S")
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	_, err = c.Take()
	require.NoError(t, err)
	fill(t, dir, js, 20_000)
	require.NoError(t, s.Shutdown(deadline(t)))
	_, err = c.Cut(30_000)
	require.NoError(t, err, "the stream ends before that, nothing is removed")
	cut, err := c.Cut(15_001)
	require.NoError(t, err)
	require.True(t, cut)
	_, js = open(t, start(t, embedded.Options{Dir: dir}))
	require.Equal(t, uint64(15_000), lastOf(t, js))
}

// TestCutKeepsErasures erases messages before a mark and after it.
func TestCutKeepsErasures(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, js, _ := written(t, dir, 10)
	st, err := js.Stream(deadline(t), "S")
	require.NoError(t, err)
	require.NoError(t, st.SecureDeleteMsg(deadline(t), 10))
	mark, err := embedded.MarkOf(dir, "S", embedded.Mark{})
	require.NoError(t, err)
	require.Equal(t, uint64(10), mark.Seq)
	fill(t, dir, js, 5)
	require.NoError(t, st.SecureDeleteMsg(deadline(t), 4))
	require.NoError(t, st.SecureDeleteMsg(deadline(t), 12))
	require.NoError(t, s.Shutdown(deadline(t)))
	cut, err := embedded.Cut(dir, "S", mark)
	require.NoError(t, err)
	require.True(t, cut)
	_, js = open(t, start(t, embedded.Options{Dir: dir}))
	st, err = js.Stream(deadline(t), "S")
	require.NoError(t, err)
	info, err := st.Info(deadline(t), jetstream.WithDeletedDetails(true))
	require.NoError(t, err)
	require.Equal(t, uint64(10), info.State.LastSeq)
	require.Equal(t, []uint64{4, 10}, info.State.Deleted)
}

func TestFilesOlderThanAMarkStay(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, err := embedded.Created(dir, "S")
	require.ErrorIs(t, err, fs.ErrNotExist)
	s, _, mark := written(t, dir, 10)
	require.NoError(t, s.Shutdown(deadline(t)))
	for _, later := range []embedded.Mark{
		{Block: mark.Block, Offset: mark.Offset + 1, Seq: 11}, {Block: mark.Block + 1, Offset: 5, Seq: 11},
	} {
		_, err := embedded.Cut(dir, "S", later)
		require.ErrorIs(t, err, embedded.ErrOlder)
		_, err = embedded.MarkOf(dir, "S", later)
		require.NoError(t, err)
	}
	info, err := os.Stat(filepath.Join(dir, "jetstream", "$G", "streams", "S", "msgs", "1.blk"))
	require.NoError(t, err)
	require.Equal(t, mark.Offset, info.Size())
}
