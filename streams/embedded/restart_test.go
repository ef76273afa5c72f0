package embedded_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/streams/embedded"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// storedOf returns the messages of stream S, in order.
func storedOf(t *testing.T, js jetstream.JetStream) (out []string) {
	t.Helper()
	st, err := js.Stream(deadline(t), "S")
	require.NoError(t, err)
	info, err := st.Info(deadline(t))
	require.NoError(t, err)
	for seq := uint64(1); seq <= info.State.LastSeq; seq++ {
		m, err := st.GetMsg(deadline(t), seq)
		require.NoError(t, err)
		out = append(out, string(m.Data))
	}
	return out
}

// TestRestartUnderLoad restarts the server several times while messages are published one after the other:
// each message is stored once, in order, and the connections go on.
func TestRestartUnderLoad(t *testing.T) {
	s := start(t, embedded.Options{Dir: t.TempDir()})
	_, js := open(t, s)
	_, err := js.CreateStream(deadline(t), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}})
	require.NoError(t, err)
	stop := make(chan struct{})
	var publishing sync.WaitGroup
	var sent atomic.Int64 // messages that were acknowledged
	publishing.Go(func() {
		for ended := time.Now().Add(2 * streamstest.Limit); ; {
			select {
			case <-stop:
				return
			default:
			}
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			next := strconv.FormatInt(sent.Load(), 10)
			_, err := js.Publish(ctx, "s", []byte(next), jetstream.WithMsgID(next))
			cancel()
			if err == nil {
				sent.Add(1)
			} else if !assert.True(t, time.Now().Before(ended), err) {
				return
			}
		}
	})
	for range 3 {
		require.NoError(t, s.Restart(deadline(t)))
		require.NoError(t, s.Healthy())
		before := sent.Load()
		streamstest.Eventually(t, streamstest.Limit, func() error {
			if n := sent.Load() - before; n < 50 {
				return fmt.Errorf("%d messages were acknowledged since the restart", n)
			}
			return nil
		})
	}
	close(stop)
	publishing.Wait()
	got := storedOf(t, js)
	for i, text := range got {
		require.Equal(t, strconv.Itoa(i), text)
	}
	require.GreaterOrEqual(t, len(got), int(sent.Load()))
}

// TestRestartKeepsUsers checks that a user's client, which knows nothing of the restart, reads on at the same
// address, and that a removed user stays removed.
func TestRestartKeepsUsers(t *testing.T) {
	s := start(t, embedded.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	_, js := open(t, s)
	st, err := js.CreateStream(deadline(t), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}})
	require.NoError(t, err)
	_, err = st.CreateConsumer(deadline(t), jetstream.ConsumerConfig{Durable: "c", AckPolicy: jetstream.AckExplicitPolicy})
	require.NoError(t, err)
	public, login := newUser(t)
	require.NoError(t, s.SetUser(embedded.User{Name: "a", PublicKey: public, Stream: "S", Consumer: "c"}))
	other, otherLogin := newUser(t)
	require.NoError(t, s.SetUser(embedded.User{Name: "b", PublicKey: other, Stream: "S", Consumer: "c"}))
	s.RemoveUser("b")
	nc, err := nats.Connect("nats://"+s.Addr(), login, nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
	require.NoError(t, err)
	defer nc.Close()
	userJS, err := jetstream.New(nc)
	require.NoError(t, err)
	addr := s.Addr()
	for i := range 3 {
		streamstest.Eventually(t, streamstest.Limit, func() error {
			_, err := js.Publish(deadline(t), "s", []byte(strconv.Itoa(i)), jetstream.WithMsgID(strconv.Itoa(i)))
			return err
		})
		streamstest.Eventually(t, streamstest.Limit, func() error {
			c, err := userJS.Consumer(t.Context(), "S", "c")
			if err != nil {
				return err
			}
			m, err := c.Next(jetstream.FetchMaxWait(time.Second))
			if err != nil {
				return err
			}
			require.Equal(t, strconv.Itoa(i), string(m.Data()))
			return m.DoubleAck(t.Context())
		})
		require.NoError(t, s.Restart(deadline(t)))
		require.Equal(t, addr, s.Addr())
		_, err := nats.Connect("nats://"+addr, otherLogin, nats.NoReconnect())
		require.Error(t, err)
	}
}

func TestRestartAfterShutdownFails(t *testing.T) {
	s := start(t, embedded.Options{Dir: t.TempDir()})
	stop(t, s)
	require.ErrorIs(t, s.Restart(deadline(t)), embedded.ErrNotReady)
}

// TestFullDiskBreaksTheStreamUntilRestart shows what the server does on a full disk, and that a restart
// inside of the process mends it, without the loss of an acknowledged message.
func TestFullDiskBreaksTheStreamUntilRestart(t *testing.T) {
	dir := streamstest.Disk(t, 64<<20)
	s := start(t, embedded.Options{Dir: dir, MaxStore: 1 << 30})
	_, js := open(t, s)
	_, err := js.CreateStream(deadline(t), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}})
	require.NoError(t, err)
	require.Empty(t, s.WriteErrors())
	filler := streamstest.Fill(t, dir, 1<<20)
	publish := func(text string) error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := js.Publish(ctx, "s", []byte(text))
		return err
	}
	acknowledged := []string{}
	body := string(make([]byte, 64<<10))
	for err == nil {
		text := strconv.Itoa(len(acknowledged)) + body
		if err = publish(text); err == nil {
			acknowledged = append(acknowledged, text)
		}
	}
	require.NotEmpty(t, acknowledged)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if s.Healthy() == nil && s.WriteErrors()["S"] == nil {
			return fmt.Errorf("the server has not noticed")
		}
		return nil
	})
	require.NoError(t, os.Remove(filler))
	require.Error(t, publish("x"), "the server writes again by itself: nothing is to be mended")
	require.NoError(t, s.Restart(deadline(t)))
	require.NoError(t, s.Healthy())
	require.Empty(t, s.WriteErrors())
	streamstest.Eventually(t, streamstest.Limit, func() error { return publish("after") })
	got := storedOf(t, js)
	require.Equal(t, acknowledged, got[:len(acknowledged)])
	require.Equal(t, "after", got[len(got)-1])
}

// TestDefaultLimitLeavesRoom checks that the default of MaxStore leaves a third to read models on the same disk, and
// grows with the disk's room at a restart.
func TestDefaultLimitLeavesRoom(t *testing.T) {
	disk := streamstest.Disk(t, 64<<20)
	models := filepath.Join(disk, "models") // it does not exist yet
	limit := func(o embedded.Options) int64 {
		s := start(t, o)
		defer stop(t, s)
		return s.MaxStore()
	}
	alone := limit(embedded.Options{Dir: filepath.Join(disk, "a")})
	require.InDelta(t, 28<<20, alone, 4<<20, "half of a small disk is the reserve")
	shared := limit(embedded.Options{Dir: filepath.Join(disk, "a"), ReadModels: models})
	require.InDelta(t, float64(alone)*2/3, shared, 1<<20)
	elsewhere := limit(embedded.Options{Dir: filepath.Join(disk, "a"), ReadModels: t.TempDir()})
	require.InDelta(t, alone, elsewhere, 1<<20)
	require.Equal(t, int64(7<<20), limit(embedded.Options{Dir: filepath.Join(disk, "a"), MaxStore: 7 << 20, ReadModels: models}))

	filler := streamstest.Fill(t, disk, 8<<20)
	s := start(t, embedded.Options{Dir: filepath.Join(disk, "a")})
	require.InDelta(t, 4<<20, s.MaxStore(), 1<<20)
	require.NoError(t, s.Outgrown())
	require.NoError(t, os.Remove(filler))
	require.ErrorIs(t, s.Outgrown(), embedded.ErrOutgrown)
	require.NoError(t, s.Restart(deadline(t)))
	require.InDelta(t, alone, s.MaxStore(), 1<<20)
	require.NoError(t, s.Outgrown())
}

// TestDefaultLimitGrowsWithCompression fills the store with what is small when it is compressed: there is room for more
// than the disk has, and a restart knows it.
func TestDefaultLimitGrowsWithCompression(t *testing.T) {
	s := start(t, embedded.Options{Dir: filepath.Join(streamstest.Disk(t, 64<<20), "a")})
	_, js := open(t, s)
	_, err := js.CreateStream(deadline(t), streamConfig(jetstream.S2Compression))
	require.NoError(t, err)
	data := bytes.Repeat([]byte("the same again "), 35_000)
	fill := func() (stored int64) {
		for {
			if _, err := js.Publish(deadline(t), "s", data); err != nil {
				require.ErrorContains(t, err, "insufficient resources")
				return stored
			}
			stored += int64(len(data))
		}
	}
	first := fill()
	require.InDelta(t, 28<<20, first, 4<<20)
	for range 2 {
		streamstest.Eventually(t, streamstest.Limit, func() error { // the server compresses a block some time after it is full
			if s.Outgrown() == nil {
				return errors.New("there is no room for more")
			}
			return nil
		})
		require.NoError(t, s.Restart(deadline(t)))
		streamstest.Eventually(t, streamstest.Limit, func() error {
			_, err := js.Publish(deadline(t), "s", data)
			return err
		})
		require.Greater(t, fill(), first/3)
	}
}
