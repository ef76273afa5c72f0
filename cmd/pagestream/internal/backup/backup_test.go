package backup

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/projections/projectionstest"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/embedded"
	"github.com/pagestream/pagestream/streams/streamstest"
)

func event(i int64) domain.Event {
	return domain.Event{ID: fmt.Sprint("e", i), Type: domain.MessageReceived, Page: "100", Contact: "31"}
}

// TestBackupContainsWhatWasAcknowledgedBefore checks that a backup of a running
// server contains everything that was acknowledged before it began, and that a
// restore gives every event its old sequence and time.
func TestBackupContainsWhatWasAcknowledgedBefore(t *testing.T) {
	r := projectionstest.NewRig(t, deliveries.New())
	var n atomic.Int64
	stop := make(chan struct{})
	var writing sync.WaitGroup
	for range 4 {
		writing.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				_, err := r.Publisher.Publish(context.Background(), []domain.Event{event(n.Add(1))})
				if !assert.NoError(t, err) {
					return
				}
			}
		})
	}
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if n.Load() < 500 {
			return fmt.Errorf("%d written", n.Load())
		}
		return nil
	})
	_, err := streams.Decide(t.Context(), r.JS, streams.Name, streams.Decision{Projection: "pages", After: 100})
	require.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "backup")
	keys := filepath.Join(t.TempDir(), "keys.json")
	require.NoError(t, os.WriteFile(keys, []byte("sealed"), 0o600))
	head, err := streams.Last(t.Context(), r.JS, streams.Name)
	require.NoError(t, err)
	var received atomic.Uint64
	o := Options{
		Conn: r.JS.Conn(), Streams: []string{streams.Name, streams.DecisionsOf(streams.Name), "ABSENT"}, Dir: dir,
		Files: map[string]string{"keys": keys, "config": ""}, Progress: func(_ string, n uint64) { received.Store(n) },
	}
	m, err := Take(t.Context(), o)
	require.NoError(t, err)
	close(stop)
	writing.Wait()
	assert.Len(t, m.Streams, 2)
	for name := range m.Sums {
		info, err := os.Stat(filepath.Join(dir, name))
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), info.Mode().Perm(), name)
	}
	assert.GreaterOrEqual(t, m.Streams[0].Head, head)
	assert.Positive(t, received.Load())
	_, err = Take(t.Context(), o)
	require.ErrorIs(t, err, ErrDirExists)

	other := streamstest.Run(t, func(o *embedded.Options) { o.Sync = embedded.SyncInterval })
	to := RestoreOptions{
		Conn: other.JS.Conn(), Dir: dir, Files: map[string]string{"keys": filepath.Join(t.TempDir(), "new", "keys.json")},
	}
	_, err = Restore(t.Context(), to)
	require.NoError(t, err)
	last, err := streams.Last(t.Context(), other.JS, streams.Name)
	require.NoError(t, err)
	assert.GreaterOrEqual(t, last, m.Streams[0].Head)
	seen := uint64(0)
	_, err = streams.Read(t.Context(), other.JS, streams.ReadOptions{}, func(e streams.Stored) error {
		seen++
		was, err := streams.Get(t.Context(), r.JS, streams.Name, e.Seq)
		require.NoError(t, err)
		if e.Seq != seen || was.ID != e.ID || !was.At.Equal(e.At) {
			return fmt.Errorf("event %d is %s of %s, was %s of %s", e.Seq, e.ID, e.At, was.ID, was.At)
		}
		return nil
	})
	require.NoError(t, err)
	assert.Equal(t, last, seen)
	decisions, err := streams.Decisions(t.Context(), other.JS, streams.Name, "pages")
	require.NoError(t, err)
	assert.Len(t, decisions, 1, "the decisions are restored with the events that they refer to")
	got, err := os.ReadFile(to.Files["keys"])
	require.NoError(t, err)
	assert.Equal(t, "sealed", string(got))
	_, err = Restore(t.Context(), to)
	require.ErrorIs(t, err, ErrStreamExists)
}

// TestARestoredStreamIsMarked checks that a restore with an id marks the stream of events, so that nothing else uses it
// until the mark is removed, and that a backup of the stream does not hand it on.
func TestARestoredStreamIsMarked(t *testing.T) {
	r := projectionstest.NewRig(t)
	restore := func(from *streamstest.Server, id string) *streamstest.Server {
		t.Helper()
		dir := filepath.Join(t.TempDir(), "backup")
		_, err := Take(t.Context(), Options{Conn: from.JS.Conn(), Streams: []string{streams.Name}, Dir: dir})
		require.NoError(t, err)
		to := streamstest.Run(t)
		_, err = Restore(t.Context(), RestoreOptions{Conn: to.JS.Conn(), Dir: dir, ID: id})
		require.NoError(t, err)
		return to
	}
	ensure := func(s *streamstest.Server, id string) error {
		_, err := streams.Ensure(t.Context(), s.JS, streams.Spec{Restore: id})
		return err
	}
	marked := restore(r.Server, "one")
	require.NoError(t, ensure(marked, "one"))
	require.ErrorIs(t, ensure(marked, ""), streams.ErrRestoring)
	require.ErrorIs(t, ensure(marked, "two"), streams.ErrRestoring)
	require.NoError(t, ensure(restore(marked, ""), ""))
	for range 2 {
		info, err := streams.Info(t.Context(), marked.JS, streams.Name)
		require.NoError(t, err)
		require.NoError(t, streams.Unmark(t.Context(), marked.JS, info, streams.RestoringKey))
		require.NoError(t, ensure(marked, ""))
	}
}

// TestDamagedBackupIsRefused checks that a damaged or incomplete backup is refused
// before anything is written, and that a restore overwrites no file.
func TestDamagedBackupIsRefused(t *testing.T) {
	r := projectionstest.NewRig(t, deliveries.New())
	r.Publish(t, event(1))
	keys := filepath.Join(t.TempDir(), "keys.json")
	require.NoError(t, os.WriteFile(keys, []byte("sealed"), 0o600))
	take := func(dir string) {
		_, err := Take(t.Context(), Options{
			Conn: r.JS.Conn(), Streams: []string{streams.Name}, Dir: dir, Files: map[string]string{"keys": keys},
		})
		require.NoError(t, err)
	}
	for name, damage := range map[string]func(dir string) error{
		"changed file": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "keys.json"), []byte("sealer"), 0o600)
		},
		"missing file":   func(dir string) error { return os.Remove(filepath.Join(dir, "keys.json")) },
		"missing stream": func(dir string) error { return os.RemoveAll(filepath.Join(dir, streams.Name)) },
		"no manifest":    func(dir string) error { return os.Remove(filepath.Join(dir, manifestFile)) },
		"cut manifest": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, manifestFile), []byte(`{"format":`), 0o600)
		},
		"older format": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, manifestFile), []byte(`{"format":1}`), 0o600)
		},
		"newer format": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, manifestFile), []byte(`{"format":9}`), 0o600)
		},
	} {
		dir := filepath.Join(t.TempDir(), "backup")
		take(dir)
		_, err := Check(dir)
		require.NoError(t, err)
		require.NoError(t, damage(dir))
		other := streamstest.Run(t)
		to := filepath.Join(t.TempDir(), "keys.json")
		_, err = Restore(t.Context(), RestoreOptions{Conn: other.JS.Conn(), Dir: dir, Files: map[string]string{"keys": to}})
		require.Error(t, err, name)
		_, err = streams.Last(t.Context(), other.JS, streams.Name)
		require.Error(t, err, "%s: no stream was created", name)
		_, err = os.Stat(to)
		require.ErrorIs(t, err, os.ErrNotExist, name)
	}
	// An existing file with other contents is not overwritten.
	dir := filepath.Join(t.TempDir(), "backup")
	take(dir)
	to := filepath.Join(t.TempDir(), "keys.json")
	require.NoError(t, os.WriteFile(to, []byte("mine"), 0o600))
	_, err := Restore(t.Context(), RestoreOptions{
		Conn: streamstest.Run(t).JS.Conn(), Dir: dir, Files: map[string]string{"keys": to},
	})
	require.ErrorIs(t, err, ErrFileExists)
}
