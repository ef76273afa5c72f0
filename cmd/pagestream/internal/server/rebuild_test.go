package server_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/dev"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/projectionstest"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// fill stores n events, waits until every read model has applied them, and returns the digests.
func (r *running) fill(t *testing.T, n int) map[string]string {
	t.Helper()
	for done, seed := 0, uint64(7); done < n; seed++ {
		var events []domain.Event
		for i, e := range projectionstest.Events(seed, min(5000, n-done)) {
			e.ID = fmt.Sprintf("%s-%d", e.ID, done+i)
			events = append(events, e.Event)
		}
		done += len(events)
		for len(events) > 0 {
			k := min(500, len(events))
			_, err := r.Publisher().Publish(t.Context(), events[:k])
			require.NoError(t, err)
			events = events[k:]
		}
	}
	return r.digests(t)
}

// digests waits until every read model has applied the stream and returns their digests by name.
func (r *running) digests(t *testing.T) map[string]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), streamstest.Limit+time.Duration(*rebuildEvents)*time.Millisecond)
	defer cancel()
	out := map[string]string{}
	for _, m := range r.Models() {
		require.NoError(t, m.WaitFor(ctx, lastSeq(t, r)))
		digest, _, err := m.Digest()
		require.NoError(t, err)
		out[m.Name()] = digest
	}
	return out
}

// rebuildEvents is the number of events to rebuild from: -rebuild.events 1000000 takes some minutes.
var rebuildEvents = flag.Int("rebuild.events", 3000, "events in the stream of TestRebuildUnderTraffic")

// TestRebuildUnderTraffic rebuilds everything during deliveries and reads. It checks that no read
// fails and that the digests are equal.
func TestRebuildUnderTraffic(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t.TempDir()))
	r.fill(t, *rebuildEvents)
	var busy sync.WaitGroup
	stop := make(chan struct{})
	var reads, posts atomic.Int64
	repeat := func(f func(i int)) {
		busy.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					f(i)
				}
			}
		})
	}
	repeat(func(i int) {
		body := message("700", fmt.Sprint(30+i%9), fmt.Sprint("m_", i), "x", 1790000000000+int64(i))
		status := post(t, r.PublicAddr(), body)
		for status == http.StatusServiceUnavailable && t.Context().Err() == nil { // on a busy machine; Meta sends it again too
			status = post(t, r.PublicAddr(), body)
		}
		assert.Equal(t, http.StatusOK, status)
		posts.Add(1)
	})
	for _, path := range []string{"/api/v1/pages", "/api/v1/pages/700/conversations", "/api/v1/projections"} {
		repeat(func(int) {
			var out json.RawMessage
			if !assert.NoError(t, r.do(t.Context(), http.MethodGet, path, nil, nil, &out)) {
				return
			}
			reads.Add(1)
		})
	}
	for range 2 {
		code, out, stderr := r.command(t, "--json", "projections", "rebuild", "--all")
		require.Equal(t, cli.ExitOK, code, stderr)
		var list []projections.Rebuilt
		require.NoError(t, json.Unmarshal([]byte(out), &list))
		require.Len(t, list, 5)
		for _, one := range list {
			assert.True(t, one.Equal, "%+v", one)
			t.Logf("%s: %d events, %.0f events/s, %s", one.Name, one.Seq, one.Rate, one.Took)
		}
	}
	close(stop)
	busy.Wait()
	t.Logf("%d reads and %d deliveries meanwhile", reads.Load(), posts.Load())
	before := r.digests(t)
	_, out, _ := r.command(t, "projections", "rebuild", "pages")
	assert.Contains(t, out, "the same as before")
	code, _, stderr := r.command(t, "projections", "rebuild", "nothing")
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, stderr, "nothing of that name")

	// Rebuild on the data of the stopped server.
	r.stop(t)
	file := writeConfig(t, t.TempDir(), r.cfg)
	code, out, stderr = run(t, t.Context(), "-c", file,
		"projections", "rebuild", "conversations", "deliveries", "--offline")
	require.Equal(t, cli.ExitOK, code, stderr)
	assert.Equal(t, 2, strings.Count(out, "the same as before"), out)
	assert.Equal(t, before, start(t, r.cfg).digests(t))
}

// TestKillDuringRebuild kills the real binary at random moments of a rebuild. It checks that the next
// start always serves the live read model and never builds it again.
func TestKillDuringRebuild(t *testing.T) {
	t.Parallel()
	const killEvents = 3000
	dir := t.TempDir()
	cfg := testConfig(dir)
	cfg.HTTP.Public, cfg.HTTP.Private = streamstest.FreeAddr(t), streamstest.FreeAddr(t)
	file, err := dev.WriteConfig(dir, cfg)
	require.NoError(t, err)
	r := start(t, cfg)
	want := r.fill(t, killEvents)
	r.stop(t)
	kills := 20 // of rebuilds that take less than the longest wait
	if testing.Short() {
		kills = 4
	}
	random := rand.New(rand.NewPCG(3, 4))
	building := 0
	for range kills {
		server := spawn(t, "-c", file, "serve")
		awaitServer(t, cfg)
		cl, err := cli.NewClient("http://"+cfg.HTTP.Private, cfg.HTTP.TokenFile)
		require.NoError(t, err)
		var at api.List[projections.Status]
		require.NoError(t, cl.Do(t.Context(), http.MethodGet, "/api/v1/projections", nil, nil, &at))
		for _, s := range at.Items {
			require.Empty(t, s.Rebuilt, "%s was built again", s.Name)
			require.Equal(t, uint64(killEvents), s.Seq, s.Name)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var asking sync.WaitGroup
		asking.Go(func() {
			for ctx.Err() == nil { // until the server is killed
				noProgress := func(json.RawMessage) error { return nil }
				if _, err := cl.Run(ctx, "/api/v1/projections/conversations/rebuild", nil, noProgress); err != nil {
					return
				}
			}
		})
		select {
		case <-time.After(time.Duration(random.IntN(200)) * time.Millisecond): // a random moment for the kill
		case <-t.Context().Done():
		}
		server.kill()
		cancel()
		asking.Wait()
		http.DefaultClient.CloseIdleConnections()
		if _, err := os.Stat(filepath.Join(cfg.Data.Dir, "projections", "conversations.db.building")); err == nil {
			building++
		}
	}
	t.Logf("%d kills, %d of them with a half-built file", kills, building)
	assert.Positive(t, building)
	again := start(t, cfg)
	assert.Equal(t, want, again.digests(t))
	left, err := filepath.Glob(filepath.Join(cfg.ProjectionsDir(), "*.building"))
	require.NoError(t, err)
	assert.Empty(t, left)
}
