package server_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/consumers"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/datadir"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/config"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/streams/streamstest"
)

var updateUpgrade = flag.String("upgrade", "",
	"write the installation of TestUpgrade as testdata/upgrade/VERSION.tar.gz; needed once for each released format")

// upgradeLimit bounds a fixture, in bytes.
const upgradeLimit = 300_000

// upgradeTime is the time of the messages in a fixture, in milliseconds.
const upgradeTime = 1790000000000

// historyAge is less than the age of the entries that the history drops.
const historyAge = 390 * 24 * time.Hour

// upgradeSeed is the file of a fixture with the answer of consumers add, which has the consumer's seed.
const upgradeSeed = "consumer.json"

// TestUpgrade opens the installation of each released version, which a test of that version has written,
// and checks that everything in it is found. A version that changes a format either reads the old one,
// or converts it at its start; it never changes a fixture.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	if *updateUpgrade != "" {
		writeUpgrade(t, filepath.Join("testdata", "upgrade", *updateUpgrade+".tar.gz"))
	}
	files, err := filepath.Glob(filepath.Join("testdata", "upgrade", "*.tar.gz"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".tar.gz"), func(t *testing.T) {
			t.Parallel()
			info, err := os.Stat(file)
			require.NoError(t, err)
			assert.Less(t, info.Size(), int64(upgradeLimit))
			dir := t.TempDir()
			unpack(t, file, dir)
			checkUpgraded(t, dir)
		})
	}
}

// upgradeConfig returns the configuration of an installation in dir, with a fake Meta whose tokens are
// the same in each process.
func upgradeConfig(t *testing.T, dir string) (*fakegraph.Graph, config.Config) {
	t.Helper()
	g, cfg := newFakeMeta(t, 2, func(o *fakegraph.Options) { o.Seed = 7 })
	graph := cfg.Apps[0].GraphURL
	cfg = testConfig(dir)
	cfg.Apps[0].GraphURL, cfg.Apps[0].LoginURL = graph, graph
	cfg.NATS.Listen = "127.0.0.1:0"
	cfg.Reconcile.Interval, cfg.Profiles.MaxAge = 0, 0
	_, err := g.PageToken(testAppID, testUser, "7000") // so that the fake knows it, as Meta does
	require.NoError(t, err)
	return g, cfg
}

// writeUpgrade runs an installation, stops it and packs its files. It does not replace a fixture.
func writeUpgrade(t *testing.T, file string) {
	t.Helper()
	dir := t.TempDir()
	g, cfg := upgradeConfig(t, dir)
	r := start(t, cfg)
	ok := func(args ...string) string {
		t.Helper()
		code, out, stderr := r.command(t, args...)
		require.Equal(t, cli.ExitOK, code, "%v: %s", args, out+stderr)
		return out
	}
	r.connectPage(t, g, "7000")
	r.connectPage(t, g, "7001")
	for _, name := range []string{
		"every_kind", "every_array_in_one_entry", "changes", "instagram", "instagram_changes", "three_pages_in_one_delivery",
		"numeric_ids_and_odd_times", "dashboard_test_button",
	} {
		body, err := os.ReadFile(filepath.Join("..", "..", "..", "..", "domain", "messenger", "testdata", name+".json"))
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), body), name)
	}
	r.sendThread(t)
	send := func(page, contact, mid, text string, at int64) {
		t.Helper()
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), message(page, contact, mid, text, at)))
	}
	send("7000", "310001", "m_upgrade_1", "is this kept?", upgradeTime)
	send("7000", "310001", "m_upgrade_2", "and this, é ✓", upgradeTime+1000)
	send("7000", "310002", "m_upgrade_3", "to be erased", upgradeTime+2000)
	send("7001", "310001", "m_upgrade_4", "of another page", upgradeTime+3000)
	added := ok("--json", "consumers", "add", "crm", "--pages", "7000", "--types", "message.received")
	var a consumers.Added
	require.NoError(t, json.Unmarshal([]byte(added), &a))
	require.NoError(t, os.WriteFile(filepath.Join(dir, upgradeSeed), []byte(added), 0o600))
	ok("companies", "rename", "acme", "Acme Ltd")
	ok("tokens", "add", "ci", "--scope", "metrics")
	ok("erase", "7000", "310002", "--yes")
	ok("keys", "rotate")
	ok("pages", "disconnect", "7001")
	require.NoError(t, r.Model("conversations").WaitFor(t.Context(), lastSeq(t, r)))
	r.stop(t)

	var out bytes.Buffer
	zipped, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	require.NoError(t, err)
	packed := tar.NewWriter(zipped)
	root := os.DirFS(dir)
	require.NoError(t, fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(root, path)
		if err != nil {
			return err
		}
		h := &tar.Header{Name: path, Mode: 0o600, Size: int64(len(b)), ModTime: time.Now()}
		if err := packed.WriteHeader(h); err != nil {
			return err
		}
		_, err = packed.Write(b)
		return err
	}))
	require.NoError(t, packed.Close())
	require.NoError(t, zipped.Close())
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	require.NoError(t, err, "a fixture is written once, by the version that it is of")
	_, err = f.Write(out.Bytes())
	require.NoError(t, errors.Join(err, f.Close()))
}

// unpack unpacks a fixture.
func unpack(t *testing.T, file, dir string) {
	t.Helper()
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	zipped, err := gzip.NewReader(f)
	require.NoError(t, err)
	packed := tar.NewReader(zipped)
	root, err := os.OpenRoot(dir)
	require.NoError(t, err)
	defer root.Close()
	for {
		h, err := packed.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		require.NoError(t, err)
		require.NoError(t, root.MkdirAll(filepath.Dir(h.Name), 0o700))
		b, err := io.ReadAll(packed)
		require.NoError(t, err)
		require.NoError(t, root.WriteFile(h.Name, b, 0o600))
		require.NoError(t, root.Chtimes(h.Name, h.ModTime, h.ModTime))
	}
}

// checkUpgraded starts the installation of a fixture and finds everything that [writeUpgrade] left.
func checkUpgraded(t *testing.T, dir string) {
	t.Helper()
	g, cfg := upgradeConfig(t, dir)
	r := start(t, cfg)
	for _, m := range r.Models() {
		require.NoError(t, m.WaitFor(t.Context(), lastSeq(t, r)))
		assert.Zero(t, m.Status().Parked, m.Status().Name)
	}

	require.NoError(t, datadir.Check(cfg.Data.Dir))
	number, err := os.ReadFile(filepath.Join(cfg.Data.Dir, "FORMAT"))
	require.NoError(t, err)
	assert.Equal(t, fmt.Sprintln(datadir.Format), string(number), "an older version must not work with it any more")
	design, err := os.ReadFile(filepath.Join("..", "..", "DESIGN.md"))
	require.NoError(t, err)
	assert.Regexp(t, fmt.Sprintf(`\| data directory \|[^|]*\| %d \|`, datadir.Format), string(design))
	for _, m := range r.Models() {
		s := m.Status()
		assert.Regexp(t, fmt.Sprintf(`\| read model of %s \|[^|]*\| %d \|`, s.Name, s.Version), string(design))
	}

	// Pages, their company and their tokens: Graph accepts the one that is opened with the key file.
	page := get[operate.Page](t, r, "/api/v1/pages/7000")
	assert.Equal(t, pages.Connected, page.State)
	assert.Equal(t, pages.TokenValid, page.Token)
	assert.Equal(t, "Page 00", page.Name)
	assert.Equal(t, "acme", page.Company)
	assert.Equal(t, pages.Disconnected, get[operate.Page](t, r, "/api/v1/pages/7001").State)
	ok := func(args ...string) string {
		t.Helper()
		code, out, stderr := r.command(t, args...)
		require.Equal(t, cli.ExitOK, code, "%v: %s", args, out+stderr)
		return out
	}
	ok("pages", "resubscribe", "7000")
	fields, _ := g.SubscribedFields(testAppID, "7000")
	assert.Contains(t, fields, "standby")
	assert.Equal(t, http.StatusOK, r.handshake(t, "of-page-7000"), "the page's own verify token")
	assert.Contains(t, ok("companies", "list"), "Acme Ltd")
	assert.Contains(t, ok("tokens", "list"), "ci")
	var keys operate.Keys
	require.NoError(t, r.do(t.Context(), http.MethodGet, "/api/v1/keys", nil, nil, &keys))
	assert.Len(t, keys.Items, 2)

	// Events and conversations; what was erased stays so.
	texts := func(page, contact string) (out []string) {
		for _, m := range r.messages(t, page, contact) {
			out = append(out, m.Text)
		}
		return out
	}
	assert.ElementsMatch(t, []string{"is this kept?", "and this, é ✓"}, texts("7000", "310001"))
	assert.Equal(t, []string{"of another page"}, texts("7001", "310001"))
	assert.Empty(t, filesWith(t, dir, "to be erased"))
	assert.Contains(t, ok("erasures", "list"), "7000")
	assert.Contains(t, ok("posts", "show", "700", "700_1"), "which days?")
	for _, kind := range []domain.Type{
		domain.MessageReceived, domain.MessageRead, domain.ReactionAdded, domain.PageConnected, domain.SubscriptionConfirmed,
		domain.ContactErased,
	} {
		assert.Contains(t, ok("--json", "events", "list", "--type", string(kind), "--limit", "1"), string(kind))
	}

	// The consumer goes on where it was, with its old seed.
	b, err := os.ReadFile(filepath.Join(dir, upgradeSeed))
	require.NoError(t, err)
	var a consumers.Added
	require.NoError(t, json.Unmarshal(b, &a))
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if a.URL = r.Consumers().URL(); a.URL == "" {
			return errors.New("no listener for consumers yet")
		}
		return nil
	})
	got := ""
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if got += r.consume(t, a); !strings.Contains(got, "and this, é ✓") {
			return fmt.Errorf("the consumer has not got its events yet: %s", got)
		}
		return nil
	})
	assert.Contains(t, got, "is this kept?")

	// The history, which is kept for 400 days; then the two checks of everything: the stream against its
	// ledger, and the read models.
	if info, err := os.Stat(filepath.Join(dir, upgradeSeed)); assert.NoError(t, err) && time.Since(info.ModTime()) < historyAge {
		entries := ok("history")
		for _, verb := range []string{"erase", "keys_rotate", "consumers_add", "tokens_add", "pages_connect"} {
			assert.Contains(t, entries, verb)
		}
	}
	ok("audit", "--full")
	ok("projections", "verify")

	// New deliveries are stored, and old ones are still known.
	before := lastSeq(t, r)
	old := message("7000", "310001", "m_upgrade_1", "is this kept?", upgradeTime)
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), old))
	assert.Equal(t, before, lastSeq(t, r), "it is a duplicate")
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), message("7000", "310001", "m_new", "new", upgradeTime+5000)))
	assert.Greater(t, lastSeq(t, r), before)
}
