package server_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/erasures"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/server"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// erasedSince returns an installation, a backup of it, and the erasures file with what was erased after the backup: a
// contact who had been erased before and has written again, and the admin of three pages. It returns the text of the
// contact's messages.
func erasedSince(t *testing.T) (r *running, dir, text string) {
	t.Helper()
	g, cfg := newFakeMeta(t, 3)
	r = start(t, cfg)
	r.connectAll(t, g)
	write := func(contact, mid, text string) {
		body := message("7000", contact, mid, text, time.Now().UnixMilli())
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), body))
	}
	erase := func(contact string) {
		code, out, stderr := r.command(t, "erase", "7000", contact, "--yes")
		require.Equal(t, cli.ExitOK, code, out+stderr)
	}
	write("310001", "m_1", "the first word")
	write("310002", "m_2", "somebody else's word")
	write("310003", "m_3", "an old word")
	erase("310003") // in the backup; what they write afterwards is not erased
	write("310003", "m_4", "a new word")
	dir = filepath.Join(t.TempDir(), "backup")
	code, out, stderr := r.command(t, "backup", dir)
	require.Equal(t, cli.ExitOK, code, out+stderr)
	assert.Contains(t, out, dir+".erasures")
	erase("310001")
	code, body := r.callback(t, "/meta/data-deletion", testUser)
	require.Equal(t, http.StatusOK, code, body)
	return r, dir, "the first word"
}

// TestRestoreErasesAgain checks that what was erased since a backup is in no file of a restored installation, that the
// rest is there, and that nothing is erased again with none.
func TestRestoreErasesAgain(t *testing.T) {
	t.Parallel()
	r, dir, text := erasedSince(t)
	cfg := testConfig(t.TempDir())
	code, _, stderr := offline(t, cfg, "restore", dir)
	assert.Equal(t, cli.ExitUsage, code)
	assert.Contains(t, stderr, "--erasures none")
	code, _, stderr = offline(t, cfg, "restore", dir, "--erasures", cfg.Keys.File+".absent")
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, stderr, "read erasures file")

	code, out, stderr := offline(t, cfg, "restore", dir, "--erasures", r.cfg.ErasuresFile())
	require.Equal(t, cli.ExitOK, code, out+stderr)
	assert.Contains(t, out, "erased again: 4 events of 1 contacts and 1 admins")
	for _, gone := range []string{text, `"admin":"` + testUser + `"`, `"token":"v1.`} {
		assert.Empty(t, filesWith(t, cfg.Data.Dir, gone), gone)
	}
	assert.NotEmpty(t, filesWith(t, cfg.Data.Dir, "somebody else's word"))
	assert.NotEmpty(t, filesWith(t, cfg.Data.Dir, "a new word"), "written after an erasure that the backup has")
	cfg.Apps[0].GraphURL = r.cfg.Apps[0].GraphURL
	again := start(t, cfg)
	assert.Equal(t, pages.Disconnected, get[pages.Page](t, again, "/api/v1/pages/7001").State)
	assert.Equal(t, domain.ErasedAdmin, get[pages.Page](t, again, "/api/v1/pages/7001").Admin)
	code, out, stderr = again.command(t, "projections", "verify")
	assert.Equal(t, cli.ExitOK, code, out+stderr)
	code, out, _ = again.command(t, "audit")
	assert.Equal(t, cli.ExitOK, code, out)
	// The new installation knows of the erasures, for the next restore of an older backup.
	was, err := os.ReadFile(r.cfg.ErasuresFile())
	require.NoError(t, err)
	is, err := os.ReadFile(cfg.ErasuresFile())
	require.NoError(t, err)
	assert.Equal(t, string(was), string(is))
	assert.NotContains(t, string(was), "310001")

	none := testConfig(t.TempDir())
	code, out, stderr = offline(t, none, "restore", dir, "--erasures", "none")
	require.Equal(t, cli.ExitOK, code, stderr)
	assert.Contains(t, out, "Nothing was erased again")
	assert.NotEmpty(t, filesWith(t, none.Data.Dir, text))
	assert.NotEmpty(t, filesWith(t, none.Data.Dir, `"admin":"`+testUser+`"`))
}

// TestInterruptedRestore checks that a server that is started after a crash of a restore erases before it serves
// anything, and that it is not started if the streams are not complete.
func TestInterruptedRestore(t *testing.T) {
	t.Parallel()
	r, dir, text := erasedSince(t)
	cfg := testConfig(t.TempDir())
	code, out, stderr := offline(t, cfg, "restore", dir, "--erasures", "none")
	require.Equal(t, cli.ExitOK, code, out+stderr)
	list, err := os.ReadFile(r.cfg.ErasuresFile())
	require.NoError(t, err)
	lines := strings.ReplaceAll(strings.TrimSpace(string(list)), "\n", ",")
	state := filepath.Join(cfg.Data.Dir, "RESTORE")
	write := func(copied bool) {
		require.NoError(t, os.WriteFile(state, fmt.Appendf(nil, `{"copied":%v,"erasures":[%s]}`, copied, lines), 0o600))
	}
	write(false)
	p := server.New(server.Options{Config: cfg})
	require.ErrorIs(t, p.Run(t.Context()), server.ErrRestore)
	require.ErrorIs(t, server.Check(server.Options{Config: cfg}), server.ErrRestore)
	assert.NotEmpty(t, filesWith(t, cfg.Data.Dir, text), "nothing is touched")

	write(true)
	require.NoError(t, server.Check(server.Options{Config: cfg}))
	start(t, cfg)
	assert.Empty(t, filesWith(t, cfg.Data.Dir, text))
	_, err = os.Stat(state)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// TestBackupWithoutKeys checks the choices for keys and configuration, and that nothing beside the target is
// overwritten.
func TestBackupWithoutKeys(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t.TempDir()))
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), message("700", "31", "m_1", "hi", 1790000000000)))
	dir := filepath.Join(t.TempDir(), "backup")
	require.NoError(t, os.WriteFile(dir+".erasures", []byte("mine"), 0o600))
	code, _, stderr := r.command(t, "backup", dir)
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, stderr, dir+".erasures")
	require.NoError(t, os.Remove(dir+".erasures"))
	code, _, stderr = r.command(t, "backup", dir, "--encrypt-to", "age1wrong")
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, stderr, "age-keygen")
	code, out, stderr := r.command(t, "backup", dir, "--without-keys", "--without-config")
	require.Equal(t, cli.ExitOK, code, stderr)
	assert.NotContains(t, out, "keys.json")
	_, err := os.Stat(filepath.Join(dir, "keys.json"))
	require.ErrorIs(t, err, os.ErrNotExist)
	cfg := testConfig(t.TempDir())
	code, _, stderr = offline(t, cfg, "restore", dir, "--erasures", dir+".erasures")
	require.Equal(t, cli.ExitOK, code, stderr)
	_, err = os.Stat(cfg.Keys.File)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// TestRecordedErasureIsFinished checks that an erasure which the restored stream has a record of is carried out, though
// the events are still there: the backup or the crash was between the two. What has no page and the copies for consumers
// are removed too, and all of it if the stream has only a part of the record.
func TestRecordedErasureIsFinished(t *testing.T) {
	t.Parallel()
	const person = "310001"
	r := start(t, testConfig(t.TempDir()))
	code, _, stderr := r.command(t, "consumers", "add", "crm", "--all", "--types", "message.received")
	require.Equal(t, cli.ExitOK, code, stderr)
	for i := range 4 {
		body := message("7000", person, fmt.Sprint("m_", i), fmt.Sprint("privateword", i), 1790000000000)
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), body))
	}
	cut := `{"object":"page","entry":[{"sender":{"id":"` + person + `"},"message":{"text":"cutoffword"`
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), []byte(cut)))
	require.Len(t, outboxOf(t, r, "crm", 4), 4)
	dir := filepath.Join(t.TempDir(), "backup")
	code, out, stderr := r.command(t, "backup", dir)
	require.Equal(t, cli.ExitOK, code, out+stderr)

	hash := domain.ContactHash(person)
	for name, c := range map[string]struct {
		own, parts int // how many events of the person the first of the parts lists
		want       operate.Applied
	}{
		"whole":  {4, 1, operate.Applied{}},
		"a part": {2, 2, operate.Applied{Contacts: 1, Events: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t.TempDir())
			code, out, stderr := offline(t, cfg, "restore", dir, "--erasures", "none")
			require.Equal(t, cli.ExitOK, code, out+stderr)
			at := time.Now().UTC()
			within := func(f func(*operate.Offline) error) {
				require.NoError(t, server.Offline(t.Context(), server.Options{Config: cfg}, f))
			}
			within(func(o *operate.Offline) error {
				listed := map[domain.PageID][]domain.Tombstone{}
				_, err := streams.Read(t.Context(), o.JS, streams.ReadOptions{}, func(e streams.Stored) error {
					listed[e.Page] = append(listed[e.Page], domain.NewTombstone(e.Event, e.Seq, e.At))
					return nil
				})
				require.NoError(t, err)
				require.Len(t, listed["7000"], 4)
				require.Len(t, listed[domain.NoPage], 1)
				for page, d := range map[domain.PageID]domain.Erasure{
					domain.NoPage: {Contact: hash, Part: 1, Parts: 1, Events: listed[domain.NoPage]},
					"7000":        {Contact: hash, Part: 1, Parts: c.parts, Events: listed["7000"][:c.own]},
				} {
					m, err := streams.Encode(domain.Event{
						ID: "recorded:" + string(page), Type: domain.ContactErased, Page: page, Time: at, Data: domain.Data{Erasure: &d},
					})
					require.NoError(t, err)
					_, err = o.JS.PublishMsg(t.Context(), m)
					require.NoError(t, err)
				}
				return nil
			})
			within(func(o *operate.Offline) error { // the journal has nothing of what it did not store
				require.NoError(t, o.Begin("", []meta.Erasure{{Time: at, Page: "7000", Contact: hash}}))
				require.NoError(t, o.Copied())
				applied, err := o.Finish(t.Context())
				assert.Equal(t, c.want, applied)
				return err
			})
			assert.Empty(t, filesWith(t, cfg.Data.Dir, "privateword"))
			assert.Empty(t, filesWith(t, cfg.Data.Dir, "Y3V0b2Zmd29y", "N1dG9mZndvc", "jdXRvZmZ3b3"), "cutoffword in base64")
		})
	}
}

// TestARestoreLeavesNoReadModels checks that the read models that a restore needs are gone before it counts as finished,
// since nothing would erase from them, and that a start removes what was left of them.
func TestARestoreLeavesNoReadModels(t *testing.T) {
	t.Parallel()
	r, dir, _ := erasedSince(t)
	list, err := erasures.Read(r.cfg.ErasuresFile())
	require.NoError(t, err)
	cfg := testConfig(t.TempDir())
	models := filepath.Join(cfg.Data.Dir, "restore")
	require.NoError(t, server.Offline(t.Context(), server.Options{Config: cfg}, func(o *operate.Offline) error {
		out, err := o.Restore(t.Context(), operate.RestoreRequest{Dir: dir, Erasures: list}, func(operate.CopyProgress) {})
		assert.Equal(t, 1, out.Applied.Contacts)
		assert.NoDirExists(t, models, "the process may be killed now")
		return err
	}))
	require.NoError(t, os.Mkdir(models, 0o700))
	start(t, cfg)
	assert.NoDirExists(t, models)
}

// TestARestoreIsServedByNoOtherNode restores a backup below a node that runs and is killed before it has erased: the node
// stops, and does not start until the restore is finished by a start of the node that it ran on.
func TestARestoreIsServedByNoOtherNode(t *testing.T) {
	t.Parallel()
	const page, person, text = "7000", "310001", "privateword"
	x := startExternal(t)
	require.Equal(t, http.StatusOK, post(t, x.PublicAddr(), message(page, person, "m_1", text, 1790000000000)))
	dir := filepath.Join(t.TempDir(), "backup")
	code, out, stderr := x.command(t, "backup", dir)
	require.Equal(t, cli.ExitOK, code, out+stderr)
	code, out, stderr = x.command(t, "erase", page, person, "--yes")
	require.Equal(t, cli.ExitOK, code, out+stderr)
	list, err := erasures.Read(x.cfg.ErasuresFile())
	require.NoError(t, err)
	names, err := streams.Names(t.Context(), x.JS(), streams.Name)
	require.NoError(t, err)
	// Without any, nats-server would delete the account's directory while others are made.
	_, err = x.JS().CreateStream(t.Context(), jetstream.StreamConfig{Name: "stays", Subjects: []string{"stays"}})
	require.NoError(t, err)
	for _, name := range names {
		require.NoError(t, x.JS().DeleteStream(t.Context(), name))
	}

	cfg := x.cfg
	cfg.Data.Dir = filepath.Join(t.TempDir(), "data")
	killed := errors.New("killed")
	require.ErrorIs(t, server.Offline(t.Context(), server.Options{Config: cfg}, func(o *operate.Offline) error {
		o.Finish = func(context.Context) (operate.Applied, error) { return operate.Applied{}, killed }
		_, err := o.Restore(t.Context(), operate.RestoreRequest{Dir: dir, Erasures: list}, func(operate.CopyProgress) {})
		return err
	}), killed)
	select {
	case err := <-x.Failed():
		require.ErrorIs(t, err, streams.ErrRestoring)
	case <-time.After(streamstest.Limit):
		require.Fail(t, "the node goes on")
	}
	x.stop(t)
	require.ErrorIs(t, server.New(server.Options{Config: x.cfg}).Run(t.Context()), streams.ErrRestoring)

	start(t, cfg)
	again := start(t, x.cfg)
	_, err = streams.Read(t.Context(), again.JS(), streams.ReadOptions{}, func(e streams.Stored) error {
		assert.NotEqual(t, domain.ContactID(person), e.Contact)
		return nil
	})
	require.NoError(t, err)
	info, err := streams.Info(t.Context(), again.JS(), streams.Name)
	require.NoError(t, err)
	assert.NotContains(t, info.Config.Metadata, streams.RestoringKey)
	_, out, stderr = again.command(t, "conversations", "show", page, person)
	assert.NotContains(t, out+stderr, text)
}

// TestBackupHasTheErasuresOfOtherNodes checks that the list beside a backup has what another node has erased of contacts,
// once, also where that was in events of no page only.
func TestBackupHasTheErasuresOfOtherNodes(t *testing.T) {
	t.Parallel()
	x := startExternal(t)
	for contact, text := range map[string]string{"310001": "privateword", "310002": "ownword"} {
		require.Equal(t, http.StatusOK, post(t, x.PublicAddr(), message("7000", contact, "m_"+contact, text, 1790000000000)))
	}
	cut := `{"object":"page","entry":[{"sender":{"id":"310003"},"message":{"text":"cutoffword"`
	require.Equal(t, http.StatusOK, post(t, x.PublicAddr(), []byte(cut)))
	root := t.TempDir()
	backup := func(name string) (dir string) {
		t.Helper()
		dir = filepath.Join(root, name)
		code, out, stderr := x.command(t, "backup", dir)
		require.Equal(t, cli.ExitOK, code, out+stderr)
		return dir
	}
	before := backup("before")
	other := x.cfg
	other.Data.Dir, other.Erasures.File = filepath.Join(root, "other"), filepath.Join(root, "other.erasures")
	y := start(t, other)
	for contact, node := range map[string]*running{"310001": y, "310002": x.running, "310003": y} {
		code, out, stderr := node.command(t, "erase", "7000", contact, "--yes")
		require.Equal(t, cli.ExitOK, code, out+stderr)
	}
	listed, err := erasures.Read(backup("after") + ".erasures")
	require.NoError(t, err)
	assert.Len(t, listed, 3)
	again, err := erasures.Read(backup("again") + ".erasures")
	require.NoError(t, err)
	assert.Equal(t, listed, again)

	cfg := testConfig(t.TempDir())
	code, out, stderr := offline(t, cfg, "restore", before, "--erasures", filepath.Join(root, "after.erasures"))
	require.Equal(t, cli.ExitOK, code, out+stderr)
	assert.Contains(t, out, "erased again: 3 events of 3 contacts")
	assert.Empty(t, filesWith(t, cfg.Data.Dir, "privateword", "ownword", "Y3V0b2Zmd29y", "N1dG9mZndvc", "jdXRvZmZ3b3"))
}
