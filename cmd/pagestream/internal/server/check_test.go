package server_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/hooks"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/server"
	"github.com/pagestream/pagestream/config"
	"github.com/pagestream/pagestream/domain/seal"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// TestConfigCheckReadsWhatServeReads checks that config check finds what is wrong with each file that
// serve reads, that serve does not start then, and that dangerous settings are warnings.
func TestConfigCheckReadsWhatServeReads(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), mode))
		require.NoError(t, os.Chmod(path, mode)) // whatever the umask is
		return path
	}
	const apps = "apps:\n- {name: main, secrets: [%s], verify_token: %s}\n"
	file := func(more string) string {
		return write("pagestream.yaml", fmt.Sprintf(
			"data: {dir: %[1]s/data}\nkeys: {file: %[1]s/keys.json}\n%s"+apps, dir, more, testSecret, testVerifyToken), 0o600)
	}
	http := fmt.Sprintf("http: {public: 127.0.0.1:0, private: 127.0.0.1:0, token_file: %s/admin.token}\n", dir)
	wd, err := os.Getwd()
	require.NoError(t, err)
	relative, err := filepath.Rel(wd, dir)
	require.NoError(t, err)
	endpoint := "- {name: crm, url: https://crm.example/in, all: true, secrets: [" + hooks.NewSecret() + "]}\n"

	code, stdout, stderr := run(t, t.Context(), "-c", file(http), "--json", "config", "check")
	require.Equal(t, cli.ExitOK, code, stderr)
	require.JSONEq(t, `{"ok": true, "apps": 1, "warnings": []}`, stdout)
	require.Empty(t, stderr)
	require.NoDirExists(t, filepath.Join(dir, "data"), "the check creates nothing")

	for name, c := range map[string]struct {
		more, file, text string
		mode             os.FileMode
		want             string
	}{
		"a missing hooks file":        {"hooks: {file: " + dir + "/none.yaml}\n", "", "", 0, "hooks.file"},
		"a hooks file with no secret": {"hooks: {file: " + dir + "/h}\n", "h", "- {name: crm, url: http://a, all: true}\n", 0o600, `endpoint "crm": no secret`},
		"the example's hooks secret": {
			"hooks: {file: " + dir + "/h}\n", "h",
			"- {name: crm, url: http://a, all: true, secrets: [whsec_...]}\n", 0o600, `endpoint "crm": secret 1`,
		},
		"two endpoints of one name": {"hooks: {file: " + dir + "/h}\n", "h", endpoint + endpoint, 0o600, `two endpoints "crm"`},
		"a key file for all":        {"", "keys.json", "{}", 0o644, "keys.file"},
		"no key file":               {"", "keys.json", "{}", 0o600, "keys.file"},
		"a token file for all":      {"", "admin.token", testSecret + testSecret, 0o640, "readable by others"},
		"a short token":             {"", "admin.token", "short", 0o600, "http.token_file"},
		"a short read-only token":   {"", "read.token", "short", 0o600, "http.read_token_file"},
		"no certificate": {
			"nats: {listen: 127.0.0.1:0, cert_file: " + dir + "/c, key_file: " + dir + "/c}\n", "c", "", 0o600, "nats.cert_file",
		},
		"erasures in the data": {
			"erasures: {file: " + relative + "/data/e.log}\n", "", "", 0, `erasures.file: "` + relative + `/data/e.log" is in data.dir`,
		},
		"another format": {"", "data/FORMAT", "1\n", 0o600, "format 1"},
	} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "data"), 0o700))
		var bad string
		if c.file != "" {
			bad = write(c.file, c.text, c.mode)
		}
		path := file(http + c.more)
		for _, command := range [][]string{{"config", "check"}, {"serve"}} {
			code, _, stderr := run(t, t.Context(), append([]string{"-c", path}, command...)...)
			assert.Equal(t, cli.ExitFailed, code, "%s: %s", name, command)
			if command[0] == "config" {
				assert.Contains(t, stderr, c.want, name)
			}
			assert.NotContains(t, stderr, testSecret, name)
		}
		require.NoError(t, os.RemoveAll(filepath.Join(dir, "data")))
		for _, made := range []string{bad, filepath.Join(dir, "keys.json"), filepath.Join(dir, "admin.token")} {
			_ = os.Remove(made) // serve may have made some of them before it failed
		}
	}

	hooksFile, secret := write("h", endpoint, 0o644), write("secret", testSecret, 0o604)
	path := write("pagestream.yaml", fmt.Sprintf("keys: {file: %[1]s/keys.json}\nhooks: {file: %[2]s}\n"+
		"http: {private: \":8081\", base_url: http://pages.example, token_file: %[1]s/admin.token}\n"+
		"apps:\n- {name: main, secret_files: [%[3]s], verify_token: %[4]s, graph_url: http://graph.example}\n",
		dir, hooksFile, secret, testVerifyToken), 0o644)
	code, stdout, stderr = run(t, t.Context(), "-c", path, "--json", "config", "check")
	require.Equal(t, cli.ExitOK, code, stderr)
	var answer struct{ Warnings []string }
	require.NoError(t, json.Unmarshal([]byte(stdout), &answer))
	require.Len(t, answer.Warnings, 6, answer.Warnings)
	for i, want := range []string{
		"http.private", "http.base_url", "apps[0].graph_url",
		hooksFile + " has secrets and mode 0644", path + " has secrets and mode 0644", secret + " has secrets and mode 0604",
	} {
		assert.Contains(t, answer.Warnings[i], want)
		assert.Contains(t, stderr, want)
	}

	// Files that only a group of this process can read, as those of the packages, are no warning.
	warnings := func(mode os.FileMode) int {
		for _, name := range []string{hooksFile, secret, path} {
			require.NoError(t, os.Chmod(name, mode))
		}
		code, stdout, stderr := run(t, t.Context(), "-c", path, "--json", "config", "check")
		require.Equal(t, cli.ExitOK, code, stderr)
		require.NoError(t, json.Unmarshal([]byte(stdout), &answer))
		return len(answer.Warnings) - 3
	}
	assert.Zero(t, warnings(0o640))
	assert.Equal(t, 3, warnings(0o660), "a group that can write")
	assert.Equal(t, 3, warnings(0o644))
	if os.Geteuid() == 0 {
		const other = 54321 // an id that the process does not have
		require.NoError(t, os.Chown(secret, 0, other))
		assert.Zero(t, warnings(0o640), "root has chosen the group")
		require.NoError(t, os.Chown(secret, other, other))
		assert.Equal(t, 1, warnings(0o640), "a group of somebody else")
	}
}

// TestConfigCheckMissesTheKeyFile checks that a missing key file is a problem if something is sealed with its keys, and
// only then.
func TestConfigCheckMissesTheKeyFile(t *testing.T) {
	t.Parallel()
	g, cfg := newFakeMeta(t, 1)
	o := server.Options{Config: cfg}
	require.NoError(t, server.Check(o), "before the first start")
	r := start(t, cfg)
	r.connectAll(t, g)
	r.stop(t)
	require.NoError(t, server.Check(o))
	moved := cfg.Keys.File + ".moved"
	require.NoError(t, os.Rename(cfg.Keys.File, moved))
	require.ErrorIs(t, server.Check(o), seal.ErrKeyMissing)
	require.ErrorIs(t, server.New(o).Run(t.Context()), seal.ErrKeyMissing)
	require.NoFileExists(t, cfg.Keys.File)

	require.NoError(t, os.Rename(moved, cfg.Keys.File))
	r = start(t, cfg)
	require.NoError(t, r.do(t.Context(), http.MethodPost, "/api/v1/pages/7000/disconnect", nil, nil, nil))
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if empty, err := r.Secrets().Empty(t.Context()); err != nil || empty {
			return err
		}
		return errors.New("the tokens are not erased yet")
	})
	r.stop(t)
	require.NoError(t, os.Remove(cfg.Keys.File))
	require.NoError(t, server.Check(o), "nothing is sealed any more")
	require.Empty(t, server.Warnings(o))

	// What an external server has is not known without a connection.
	o.Config.NATS.URL = "nats://127.0.0.1:1"
	require.NoError(t, server.Check(o))
	warnings := server.Warnings(o)
	require.Len(t, warnings, 1)
	require.Contains(t, warnings[0], "keys.file: "+cfg.Keys.File)
}

// TestExampleSecretSignsNothing checks that serve does not start with the secrets of the example.
func TestExampleSecretSignsNothing(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	for _, command := range [][]string{{"serve"}, {"config", "check"}} {
		file := filepath.Join(t.TempDir(), "pagestream.yaml")
		require.NoError(t, os.WriteFile(file, []byte("apps:\n- name: main\n"+
			"  secrets: [\"write the app secret here\"]\n  verify_token: \"write the verify token here\"\n"), 0o600))
		code, _, stderr := run(t, t.Context(), append([]string{"-c", file}, command...)...)
		require.Equal(t, cli.ExitFailed, code)
		require.Contains(t, stderr, "apps[0].secrets[0]: is a placeholder from documentation")
		require.Contains(t, stderr, "apps[0].verify_token: is a placeholder from documentation")
	}
}

// TestDedupWindowCoversRetries checks that the shortest window that the configuration allows is twice
// the time for which the publisher sends events again.
func TestDedupWindowCoversRetries(t *testing.T) {
	t.Parallel()
	require.Equal(t, streams.DefaultRetryFor, config.PublishRetry)
}

// TestPasswordInNATSURL checks that a configuration file that others can read is a warning if nats.url has a user in it,
// and that the warning does not show it.
func TestPasswordInNATSURL(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	file := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(file, []byte(testSecret), 0o600))
	cfg.Apps[0].SecretFiles, cfg.Apps[0].VerifyTokenFile = []string{file}, file
	path := filepath.Join(t.TempDir(), "pagestream.yaml")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	require.NoError(t, os.Chmod(path, 0o644)) // whatever the umask is
	for servers, want := range map[config.Servers]int{
		"nats://a:4222, nats://b:4222": 0, "nats://a:4222,nats://user:hunter2@b:4222": 1, "nats://hunter2@a:4222": 1,
	} {
		cfg.NATS.URL = servers
		warnings := server.Warnings(server.Options{Config: cfg, ConfigFile: path})
		require.Len(t, warnings, want, servers)
		for _, w := range warnings {
			require.Contains(t, w, path+" has secrets and mode 0644")
			require.NotContains(t, w, "hunter2")
		}
	}
}
