package server_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/backup"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/datadir"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/hooks"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/server"
	"github.com/pagestream/pagestream/config"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/projectionstest"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/embedded"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// receiver is an endpoint of outgoing webhooks that refuses everything until it is up.
type receiver struct {
	*httptest.Server
	mu  sync.Mutex
	up  bool
	got []string
}

func newReceiver(t *testing.T, up bool) *receiver {
	t.Helper()
	e := &receiver{up: up}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.mu.Lock()
		defer e.mu.Unlock()
		if !e.up {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		e.got = append(e.got, r.Header.Get("webhook-id"))
	}))
	t.Cleanup(e.Close)
	return e
}

// received returns the ids of what was received, after up was set.
func (e *receiver) received(up bool) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.up = up
	return slices.Clone(e.got)
}

// raw returns the answer to a request as it is.
func (r *running) raw(t *testing.T, path string) string {
	t.Helper()
	var out json.RawMessage
	require.NoError(t, r.do(t.Context(), http.MethodGet, path, nil, nil, &out), path)
	return string(out)
}

// answers are what both installations answer.
func (r *running) answers(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, path := range []string{
		"pages/7000/conversations", "conversations/7000/310001/messages", "deadletters", "losses", "companies", "keys",
		"comments/7000", "erasures", "events?limit=40", "hooks/down/deadletters",
	} {
		out[path] = r.raw(t, "/api/v1/"+path)
	}
	for _, model := range r.Models() {
		s := model.Status()
		out[s.Name] = fmt.Sprint(s.Seq, s.Dropped, s.Parked, s.Discarded)
	}
	return out
}

// into returns the configuration of the new installation with these servers.
func into(t *testing.T, was config.Config, c *streamstest.Cluster) config.Config {
	t.Helper()
	cfg := testConfig(t.TempDir())
	cfg.Apps, cfg.Hooks = was.Apps, was.Hooks
	cfg.NATS.URL, cfg.NATS.Replicas, cfg.NATS.AcceptLoss = config.Servers(c.URL()), min(3, len(c.Servers)), true
	return cfg
}

// TestMigrate moves an installation that has everything to a cluster, and interrupts it in each phase. Neither
// directory can be started until it has finished, and the old one not any more then. The new node serves what the old
// one served, and goes on where it was.
func TestMigrate(t *testing.T) {
	t.Parallel()
	ready, down := newReceiver(t, true), newReceiver(t, false)
	g, cfg := newFakeMeta(t, 3)
	cfg.Reconcile.Interval, cfg.Profiles.MaxAge = time.Hour, 0
	cfg.Hooks.File = filepath.Join(t.TempDir(), "hooks.yaml")
	var list strings.Builder
	for name, e := range map[string]*receiver{"ready": ready, "down": down} {
		fmt.Fprintf(&list, "- name: %s\n  url: %s/in\n  secrets: [%s]\n  pages: [\"7000\"]\n  from: 1\n", name, e.URL, hooks.NewSecret())
	}
	require.NoError(t, os.WriteFile(cfg.Hooks.File, []byte(list.String()), 0o600))
	p := &flaky{}
	p.failing.Store(true)
	r := start(t, cfg, p)
	r.connectAll(t, g) // of company acme
	for _, args := range [][]string{{"consumers", "add", "crm", "--all"}, {"tokens", "add", "ci", "--scope", "metrics"}} {
		code, _, stderr := r.command(t, args...)
		require.Equal(t, cli.ExitOK, code, stderr)
	}
	at := int64(1790000000000)
	write := func(r *running, contact, mid, text string) {
		t.Helper()
		at++
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), message("7000", contact, mid, text, at)))
	}
	for i := range 20 {
		write(r, fmt.Sprint(310000+i%4), fmt.Sprint("m_", i), "a text")
	}
	write(r, "310002", "m_p1", "poison")
	write(r, "310003", "m_p2", "poison")
	write(r, "310003", "m_p3", "waits")
	code, out, stderr := r.command(t, "erase", "7000", "310000", "--yes")
	require.Equal(t, cli.ExitOK, code, out+stderr)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if s := r.Model("flaky").Status(); s.Parked != 3 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	var letters api.List[projections.DeadLetter]
	require.NoError(t, json.Unmarshal([]byte(r.raw(t, "/api/v1/deadletters")), &letters))
	code, _, stderr = r.command(t, "deadletters", "discard", fmt.Sprint(letters.Items[0].Seq), "--reason", "no use")
	require.Equal(t, cli.ExitOK, code, stderr)
	// The consumer has read ten events, and has not acknowledged two of them.
	crm := r.consumers(t)[0]
	reader, err := r.JS().Consumer(t.Context(), crm.Stream, crm.Durable)
	require.NoError(t, err)
	batch, err := reader.Fetch(10, jetstream.FetchMaxWait(streamstest.Limit))
	require.NoError(t, err)
	read := map[string]bool{}
	for m := range batch.Messages() {
		if len(read) < 8 {
			require.NoError(t, m.DoubleAck(t.Context()))
			read[m.Headers().Get(streams.HeaderID)] = true
		}
	}
	require.Len(t, read, 8)
	// An event is lost, and the loss accepted.
	st, err := r.JS().Stream(t.Context(), streams.Name)
	require.NoError(t, err)
	require.NoError(t, st.DeleteMsg(t.Context(), lastSeq(t, r)-3))
	r.stop(t)
	r = start(t, cfg, p)
	code, _, stderr = r.command(t, "recover", "--accept-loss")
	require.Equal(t, cli.ExitOK, code, stderr)
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), message("7000", "310001", "m_1", "a text", 1790000000002)))
	want, before, had := r.digests(t), r.answers(t), r.consumers(t)[0]
	counts := status(t, r)
	require.NotEmpty(t, ready.received(true))
	require.Empty(t, down.received(false))
	sent := len(ready.received(true))
	r.stop(t)

	c := streamstest.RunCluster(t, 3)
	to := into(t, cfg, c)
	options := server.MigrateOptions{
		From: server.Options{Config: cfg, Projections: []projections.Projection{p}},
		To:   server.Options{Config: to, ConfigFile: "new.yaml", Projections: []projections.Projection{p}},
	}
	plan := options
	plan.Plan = true
	planned, err := server.Migrate(t.Context(), plan)
	require.NoError(t, err)
	require.Equal(t, streams.Name, planned.Streams[0].Name)
	require.NoDirExists(t, to.Data.Dir)

	refused := func(cfg config.Config, has string) {
		t.Helper()
		err := server.New(server.Options{Config: cfg}).Run(t.Context())
		require.ErrorContains(t, err, has)
	}
	for _, phase := range []string{
		server.MigrateBackup, server.MigrateRestore, server.MigrateFiles, server.MigrateVerify,
	} {
		ctx, cancel := context.WithCancel(t.Context())
		options.Progress = func(p server.MigrateProgress) {
			if p.Phase == phase {
				cancel()
			}
		}
		_, err := server.Migrate(ctx, options)
		require.ErrorIs(t, err, context.Canceled, phase)
		cancel()
		refused(cfg, "To go on, type: pagestream migrate --to")
		refused(to, "is incomplete")
	}
	other := into(t, cfg, c) // a second node of the new installation
	other.Keys.File = to.Keys.File
	refused(other, streams.ErrMigrating.Error())
	_, err = server.Migrate(t.Context(), server.MigrateOptions{
		From: options.From, To: server.Options{Config: other, ConfigFile: "other.yaml"},
	})
	require.ErrorIs(t, err, server.ErrMigrateOther)

	options.Progress = nil
	done, err := server.Migrate(t.Context(), options)
	require.NoError(t, err)
	assert.True(t, done.Resumed)
	assert.Equal(t, 2, done.Endpoints)
	assert.Len(t, done.Models, 6)
	for _, m := range done.Models {
		assert.Equal(t, want[m.Name], m.Digest, m.Name)
	}
	for _, s := range done.Streams {
		assert.Equal(t, 3, s.Replicas, s.Name)
		assert.Equal(t, 3, c.Replicas(t, s.Name))
	}
	assert.NoDirExists(t, filepath.Join(to.Data.Dir, "migration"))
	refused(cfg, "was migrated to the installation of")
	_, err = server.Migrate(t.Context(), options)
	var moved *datadir.MigrationError
	require.ErrorAs(t, err, &moved)

	r = start(t, to, p)
	require.Equal(t, want, r.digests(t))
	after := r.answers(t)
	for path := range before {
		assert.Equal(t, before[path], after[path], path)
	}
	is := status(t, r)
	assert.Equal(t, counts.Received, is.Received, "the counts of deliveries")
	assert.Nil(t, is.Stream.Lost)
	_, out, _ = r.command(t, "audit") // it finds what the loss and the dead letters have left in read models
	assert.Contains(t, out, "5 erased, 0 malformed, 1 missing, 0 duplicated")
	assert.NotContains(t, out, "are missing from the stream")
	assert.Contains(t, out, "0 were not counted by this webhook endpoint")
	// The consumer goes on where it was.
	has := r.consumers(t)[0]
	assert.Equal(t, had.Pending, has.Pending)
	assert.Equal(t, had.PublicKey, has.PublicKey)
	reader, err = r.JS().Consumer(t.Context(), crm.Stream, crm.Durable)
	require.NoError(t, err)
	write(r, "310001", "m_new", "after the migration")
	seen := map[string]int{}
	streamstest.Eventually(t, 2*streamstest.Limit, func() error {
		batch, err := reader.Fetch(100, jetstream.FetchMaxWait(100*time.Millisecond))
		require.NoError(t, err)
		for m := range batch.Messages() {
			seen[m.Headers().Get(streams.HeaderID)]++
			require.NoError(t, m.DoubleAck(t.Context()))
		}
		if seen["page:7000:msg:m_new"] == 0 || r.consumers(t)[0].Lag > 0 {
			return fmt.Errorf("%d events, %+v", len(seen), r.consumers(t)[0])
		}
		return nil
	})
	for id, n := range seen {
		assert.False(t, read[id], "%s was acknowledged before", id)
		assert.Equal(t, 1, n, id)
	}
	assert.Len(t, seen, int(had.Lag)+1)
	// Webhooks as well: one gets the new event only, the other all of them.
	down.received(true)
	code, _, stderr = r.command(t, "hooks", "enable", "down")
	require.Equal(t, cli.ExitOK, code, stderr)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		a, b := ready.received(true), down.received(true)
		if len(a) <= sent || !slices.Contains(b, "page:7000:msg:m_new") {
			return fmt.Errorf("%d and %d events", len(a), len(b))
		}
		return nil
	})
	assert.Len(t, ready.received(true), sent+1)
	assert.Len(t, down.received(true), sent+1-6, "without those that were erased or lost before it was up")
	// A delivery from before is known.
	last := lastSeq(t, r)
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), message("7000", "310001", "m_1", "a text", 1790000000002)))
	assert.Equal(t, last, lastSeq(t, r))
	code, out, stderr = r.command(t, "projections", "verify", "subscriptions")
	assert.Equal(t, cli.ExitOK, code, out+stderr)
	start(t, other, p) // more nodes can be started now
}

// TestMigrateIsKilled kills the command at different times until it ends by itself.
func TestMigrateIsKilled(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	r := start(t, cfg)
	r.makeStreams(t)
	r.fill(t, 3000)
	want := r.digests(t)
	r.stop(t)
	c := streamstest.RunCluster(t, 3)
	to := into(t, cfg, c)
	var files []string
	for i, cfg := range []config.Config{cfg, to} {
		text := fmt.Sprintf("data: {dir: %q}\nkeys: {file: %q}\nhttp: {token_file: %q}\nnats: {url: %q, replicas: %d}\n",
			cfg.Data.Dir, cfg.Keys.File, cfg.HTTP.TokenFile, string(cfg.NATS.URL), cfg.NATS.Replicas)
		files = append(files, filepath.Join(t.TempDir(), fmt.Sprintf("%d.yaml", i)))
		require.NoError(t, os.WriteFile(files[i], []byte(text), 0o600))
	}
	migrate := []string{"-c", files[0], "migrate", "--to", files[1]}
	byItself := false // on a busy machine it is killed each time
	for wait := 600 * time.Millisecond; wait < 2*time.Second; wait = wait * 8 / 5 {
		child := spawn(t, migrate...)
		ended := make(chan struct{})
		go func() { _ = child.cmd.Wait(); close(ended) }()
		select {
		case <-ended:
			wait, byItself = time.Hour, true
		case <-time.After(wait):
			require.NoError(t, child.cmd.Process.Kill())
			<-ended
		}
	}
	var out struct {
		Downtime time.Duration `json:"downtime_ns"`
	}
	if _, found, err := datadir.ReadMigration(to.Data.Dir); found || err != nil || !byItself {
		code, stdout, stderr := run(t, t.Context(), append([]string{"--json"}, migrate...)...)
		if found || err != nil || code == cli.ExitOK { // otherwise it was killed at its very end
			require.Equal(t, cli.ExitOK, code, stderr)
			require.NoError(t, json.Unmarshal([]byte(stdout), &out))
			assert.Positive(t, out.Downtime)
		}
	}
	code, _, stderr := run(t, t.Context(), migrate...)
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, stderr, "was migrated")
	for name, n := range start(t, to).replicas(t) {
		assert.Equal(t, 3, n, name)
	}
	require.Equal(t, want, start(t, into(t, cfg, c)).digests(t), "what another node builds from the cluster")
}

// migrateEvents is the number of events to migrate: with -migrate.events 1000000 -rebuild.events 1000000 -v the test
// shows for how long the installation is closed.
var migrateEvents = flag.Int("migrate.events", 300, "events in the stream of TestMigrateDowntime")

// TestMigrateDowntime moves many events to three servers that sync each write.
func TestMigrateDowntime(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	old := streamstest.Run(t, func(o *embedded.Options) {
		o.Dir, o.Sync = filepath.Join(cfg.Data.Dir, "nats"), embedded.SyncInterval
	})
	old.Stream(t, streams.Spec{Journal: true})
	for done, seed := 0, uint64(7); done < *migrateEvents; seed++ {
		for _, e := range projectionstest.Events(seed, min(5000, *migrateEvents-done)) {
			e.ID = fmt.Sprintf("%s-%d", e.ID, done)
			m, err := streams.Encode(e.Event)
			require.NoError(t, err)
			_, err = old.JS.PublishMsgAsync(m, jetstream.WithStallWait(streamstest.Limit))
			require.NoError(t, err)
			done++
		}
	}
	<-old.JS.PublishAsyncComplete()
	old.Halt(t)
	require.NoError(t, os.WriteFile(filepath.Join(cfg.Data.Dir, "FORMAT"), fmt.Appendln(nil, datadir.Format), 0o600))
	r := start(t, cfg)
	want := r.digests(t)
	r.stop(t)
	c := streamstest.RunCluster(t, 3, func(o *natsserver.Options) { o.SyncAlways = true })
	to := into(t, cfg, c)
	out, err := server.Migrate(t.Context(), server.MigrateOptions{
		From: server.Options{Config: cfg}, To: server.Options{Config: to, ConfigFile: "new.yaml"},
	})
	require.NoError(t, err)
	for _, m := range out.Models {
		assert.Equal(t, want[m.Name], m.Digest, m.Name)
	}
	require.Equal(t, uint64(*migrateEvents), out.Streams[0].Messages)
	t.Logf("%d events: closed for %s, %v", *migrateEvents, out.Downtime, out.Took)
}

// TestMigrateRefuses checks what is not migrated, and that nothing is changed then.
func TestMigrateRefuses(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	r := start(t, cfg)
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), message("700", "31", "m_1", "x", 1790000000000)))
	c := streamstest.RunCluster(t, 1)
	to := into(t, cfg, c)
	migrate := func(from, to config.Config) error {
		_, err := server.Migrate(t.Context(), server.MigrateOptions{
			From: server.Options{Config: from}, To: server.Options{Config: to, ConfigFile: "new.yaml"},
		})
		return err
	}
	require.ErrorContains(t, migrate(cfg, to), "in use by another pagestream")
	r.stop(t)
	require.ErrorIs(t, migrate(to, cfg), server.ErrMigrateFrom)
	require.ErrorIs(t, migrate(cfg, cfg), server.ErrMigrateTo)
	same := to
	same.Data.Dir = filepath.Join(cfg.Data.Dir, "new")
	require.ErrorIs(t, migrate(cfg, same), server.ErrMigrateTo)
	absent := cfg
	absent.Data.Dir = filepath.Join(t.TempDir(), "absent")
	require.ErrorIs(t, migrate(absent, to), server.ErrMigrateFrom)

	to.Keys.File = cfg.Keys.File
	start(t, to).stop(t) // a new installation
	require.ErrorIs(t, migrate(cfg, to), server.ErrMigrateTo)
	unused := into(t, cfg, c)
	require.ErrorIs(t, migrate(cfg, unused), backup.ErrStreamExists)
	require.NoError(t, os.WriteFile(unused.Keys.File, []byte("another"), 0o600))
	require.ErrorIs(t, migrate(cfg, unused), backup.ErrFileExists)
	require.NoError(t, datadir.Check(cfg.Data.Dir), "nothing is marked")

	small := streamstest.RunCluster(t, 1)
	few := into(t, cfg, small)
	few.NATS.Replicas = 3
	require.NoError(t, migrate(cfg, few), "a server that is alone keeps one copy")
	require.Error(t, datadir.Check(cfg.Data.Dir))
	require.NoError(t, os.Remove(filepath.Join(cfg.Data.Dir, "MIGRATION")), "as the message says")
	start(t, cfg)
}

// TestMigrateNoticesADifference changes the copy of the stream, or of a read model, before it is compared.
func TestMigrateNoticesADifference(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	r := start(t, cfg)
	fillConversations(t, r)
	r.stop(t)
	c := streamstest.RunCluster(t, 1)
	to := into(t, cfg, c)
	options := server.MigrateOptions{From: server.Options{Config: cfg}, To: server.Options{Config: to, ConfigFile: "new.yaml"}}
	for _, test := range []struct {
		name, phase string
		change      func()
	}{
		{"an event is missing", server.MigrateFiles, func() {
			st, err := c.JS.Stream(t.Context(), streams.Name)
			require.NoError(t, err)
			require.NoError(t, st.DeleteMsg(t.Context(), 3))
		}},
		{"a row is another one", server.MigrateVerify, func() {
			s, err := store.Open(filepath.Join(to.ProjectionsDir(), "pages.db"), store.Options{})
			require.NoError(t, err)
			require.NoError(t, s.Update(func(tx *store.Tx) error { return tx.Bucket("pages").Put([]byte("x"), []byte("y")) }))
			require.NoError(t, s.Close())
		}},
	} {
		var once sync.Once
		options.Progress = func(p server.MigrateProgress) {
			if p.Phase == test.phase {
				once.Do(test.change)
			}
		}
		_, err := server.Migrate(t.Context(), options)
		require.ErrorIs(t, err, server.ErrMigrateDiffers, test.name)
	}
	options.Progress = nil
	out, err := server.Migrate(t.Context(), options)
	require.NoError(t, err)
	assert.False(t, out.Resumed, "everything was copied again")
}
