package embedded_test

import (
	"bytes"
	"errors"
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
func written(t *testing.T, dir string, n uint64, compression jetstream.StoreCompression) (
	*embedded.Server, jetstream.JetStream, embedded.Mark,
) {
	t.Helper()
	s := start(t, embedded.Options{Dir: dir})
	_, js := open(t, s)
	_, err := js.CreateStream(deadline(t), streamConfig(compression))
	require.NoError(t, err)
	return s, js, fill(t, dir, js, n)
}

func streamConfig(compression jetstream.StoreCompression) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: "S", Subjects: []string{"s"}, PersistMode: jetstream.AsyncPersistMode, Compression: compression,
	}
}

// fill publishes n messages.
func fill(t *testing.T, dir string, js jetstream.JetStream, n uint64) embedded.Mark {
	t.Helper()
	return fillFrom(t, dir, js, 0, n)
}

// fillFrom publishes n messages, of which the first has a number in its data.
func fillFrom(t *testing.T, dir string, js jetstream.JetStream, first, n uint64) (m embedded.Mark) {
	t.Helper()
	var last jetstream.PubAckFuture
	for i := first; i < first+n; i++ {
		var err error
		last, err = js.PublishMsgAsync(&nats.Msg{
			Subject: "s", Header: nats.Header{"A": {"b"}}, Data: []byte(strings.Repeat(fmt.Sprintf("%9d ", i), 100)),
		}, jetstream.WithStallWait(streamstest.Limit))
		require.NoError(t, err)
	}
	var seq uint64
	select {
	case ack := <-last.Ok():
		seq = ack.Sequence
	case err := <-last.Err():
		require.NoError(t, err)
	case <-deadline(t).Done():
		require.Fail(t, "the last message is not stored")
	}
	streamstest.Eventually(t, streamstest.Limit, func() (err error) {
		if m, err = embedded.MarkOf(dir, "S", embedded.Mark{}); err == nil && m.Seq < seq {
			err = fmt.Errorf("message %d of %d is written", m.Seq, seq)
		}
		return err
	})
	return m
}

// waitCompressed waits until the server has compressed a block.
func waitCompressed(t *testing.T, dir string, block uint64) {
	t.Helper()
	streamstest.Eventually(t, streamstest.Limit, func() error {
		b, err := os.ReadFile(filepath.Join(dir, "jetstream", "$G", "streams", "S", "msgs", fmt.Sprint(block, ".blk")))
		if err == nil && !bytes.HasPrefix(b, []byte("cmp")) {
			err = fmt.Errorf("block %d is not compressed", block)
		}
		return err
	})
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
		s, js, mark := written(t, dir, 10, jetstream.S2Compression)
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
		if more > 100 {
			waitCompressed(t, dir, mark.Block)
		}
		require.NoError(t, s.Shutdown(deadline(t)))
		cut, err := embedded.Cut(dir, "S", mark)
		require.NoError(t, err)
		require.Equal(t, more > 0, cut)
		_, js = open(t, start(t, embedded.Options{Dir: dir}))
		last := lastOf(t, js)
		if more < 100 {
			require.Equal(t, uint64(10), last)
		} else { // the block that was the last one has been compressed since, and stays whole
			require.Greater(t, last, uint64(5000))
			require.Less(t, last, uint64(10_000))
		}
		ack, err := js.Publish(deadline(t), "s", []byte("next"))
		require.NoError(t, err)
		require.Equal(t, last+1, ack.Sequence)
	}
}

// TestALostCheckpoint checks that what the journal does not have any more stays, if an older checkpoint is found.
func TestALostCheckpoint(t *testing.T) {
	t.Parallel()
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "checkpoint")
	s, js, _ := written(t, dir, 10, jetstream.NoCompression)
	c, err := embedded.OpenCheckpoints(file, dir, "S")
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	_, err = c.Take()
	require.NoError(t, err)
	fill(t, dir, js, 20_000)
	require.NoError(t, s.Shutdown(deadline(t)))
	_, err = c.Cut(30_000, 29_999)
	require.NoError(t, err, "the stream ends before that, nothing is removed")
	cut, err := c.Cut(15_001, 20_010)
	require.NoError(t, err)
	require.True(t, cut)
	_, js = open(t, start(t, embedded.Options{Dir: dir}))
	require.Equal(t, uint64(15_000), lastOf(t, js))
}

// TestNothingIsCutThatTheJournalLacks checks that messages stay which nobody can store again, as when the journal, or a
// part of it, is an older copy than the stream. The stream may also have been damaged by a power cut.
func TestNothingIsCutThatTheJournalLacks(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		checkpoint, first, last uint64
		cut                     uint64 // where the stream ends then; 0 if nothing is cut
	}{
		"the journal has all":                    {100, 51, 300, 100},
		"the journal has more":                   {100, 101, 310, 100},
		"only the checkpoint is older":           {100, 201, 300, 200},
		"the checkpoint has all":                 {300, 51, 100, 300},
		"both are older":                         {100, 51, 200, 0},
		"both are older, and without an event":   {100, 101, 100, 0},
		"only the journal is older":              {200, 51, 100, 0},
		"the journal is gone":                    {200, 1, 0, 0},
		"the journal is older by a single event": {100, 51, 299, 0},
	} {
		for _, torn := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", torn: ", torn), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				s, js, _ := written(t, dir, c.checkpoint, jetstream.S2Compression)
				points := checkpoints(t, dir)
				at, err := points.Take()
				require.NoError(t, err)
				require.Equal(t, c.checkpoint, at)
				if c.checkpoint < 300 {
					fill(t, dir, js, 300-c.checkpoint)
				}
				require.NoError(t, s.Shutdown(deadline(t)))
				msgs := filepath.Join(dir, "jetstream", "$G", "streams", "S", "msgs")
				if torn { // the end of a message that was being written
					f, err := os.OpenFile(filepath.Join(msgs, "1.blk"), os.O_WRONLY|os.O_APPEND, 0)
					require.NoError(t, err)
					_, err = f.Write(bytes.Repeat([]byte{0, 1, 2, 3}, 500))
					require.NoError(t, errors.Join(err, f.Close()))
				}
				before, err := os.ReadFile(filepath.Join(msgs, "1.blk"))
				require.NoError(t, err)
				_, err = points.Cut(c.first, c.last)
				if c.cut == 0 {
					require.ErrorIs(t, err, embedded.ErrNewer)
					require.ErrorContains(t, err, "300")
					after, err := os.ReadFile(filepath.Join(msgs, "1.blk"))
					require.NoError(t, err)
					require.Equal(t, before, after)
					return
				}
				require.NoError(t, err)
				_, js = open(t, start(t, embedded.Options{Dir: dir}))
				require.Equal(t, c.cut, lastOf(t, js))
			})
		}
	}
}

// TestForget checks that nothing is cut without a checkpoint, also by the next process.
func TestForget(t *testing.T) {
	t.Parallel()
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "checkpoint")
	s, js, _ := written(t, dir, 10, jetstream.NoCompression)
	c, err := embedded.OpenCheckpoints(file, dir, "S")
	require.NoError(t, err)
	require.NoError(t, c.Forget(), "there is none")
	_, err = c.Take()
	require.NoError(t, err)
	require.NoError(t, c.Forget())
	require.Zero(t, c.Seq())
	fill(t, dir, js, 10)
	require.NoError(t, s.Shutdown(deadline(t)))
	require.NoError(t, c.Close())
	again, err := embedded.OpenCheckpoints(file, dir, "S")
	require.NoError(t, err)
	defer func() { require.NoError(t, again.Close()) }()
	cut, err := again.Cut(1, 0)
	require.NoError(t, err)
	require.False(t, cut)
}

// TestCutKeepsErasures erases messages before a mark and after it.
func TestCutKeepsErasures(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, js, _ := written(t, dir, 10, jetstream.S2Compression)
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
	s, _, mark := written(t, dir, 10, jetstream.S2Compression)
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

// TestHasFindsSubjects checks that the subjects of a stopped server's messages are found, compressed or not, and those
// of erased messages are not.
func TestHasFindsSubjects(t *testing.T) {
	is := func(subject string) func(string) bool { return func(s string) bool { return s == subject } }
	dir := t.TempDir()
	found, err := embedded.Has(dir, "S", is("s"))
	require.NoError(t, err)
	require.False(t, found, "there is no stream")
	s, js, _ := written(t, dir, 10_000, jetstream.S2Compression)
	waitCompressed(t, dir, 1)
	_, err = js.CreateStream(deadline(t), jetstream.StreamConfig{Name: "E", Subjects: []string{"e.*"}})
	require.NoError(t, err)
	_, err = js.Publish(deadline(t), "e.erased", nil)
	require.NoError(t, err)
	_, err = js.Publish(deadline(t), "e.kept", []byte("e.data"))
	require.NoError(t, err)
	erased, err := js.Stream(deadline(t), "E")
	require.NoError(t, err)
	require.NoError(t, erased.SecureDeleteMsg(deadline(t), 1))
	require.NoError(t, s.Shutdown(deadline(t)))
	for _, c := range []struct {
		stream, subject string
		want            bool
	}{{"S", "s", true}, {"S", "x", false}, {"E", "e.kept", true}, {"E", "e.erased", false}, {"E", "e.data", false}} {
		found, err := embedded.Has(dir, c.stream, is(c.subject))
		require.NoError(t, err)
		require.Equal(t, c.want, found, c)
	}
}
