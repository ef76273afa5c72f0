package config_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pagestream/pagestream/config"
)

// Secrets that nobody would guess.
const (
	newSecret   = "5c0d9a4be17f42863fa1c07d92e8b456"
	oldSecret   = "97b1f06ae2d84c3590ab7e61d3f5c428"
	verifyToken = "k9Vw-3xQz-71Ld-mB5c"
)

// writeFile writes a configuration file and returns its path.
func writeFile(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pagestream.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// load returns the result of Load and fails the test on an error.
func load(t testing.TB, o config.Options) config.Config {
	t.Helper()
	c, err := config.Load(o)
	require.NoError(t, err)
	return c
}

// defaults returns what Load must return if nothing is set.
func defaults() config.Config {
	c := config.Default()
	c.Projections.Dir = c.ProjectionsDir()
	return c
}

func TestDefaultsAreValid(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", "/home/someone/.config")
	got := load(t, config.Options{})
	require.Empty(t, cmp.Diff(defaults(), got), "Load without settings differs from Default (-want +got)")
	require.Equal(t, "/home/someone/.config/pagestream/keys.json", got.Keys.File)
	require.Equal(t, filepath.Join("data", "projections"), got.Projections.Dir)
}

func TestMissingUserDirectoryIsReported(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", "")
	t.Setenv("HOME", "")
	_, err := config.Load(config.Options{})
	wantProblems(t, err, "keys.file: empty", "http.token_file: empty")
	load(t, config.Options{Env: []string{"PAGESTREAM_KEYS_FILE=/k.json", "PAGESTREAM_HTTP_TOKEN_FILE=/t"}})
}

func TestPrecedence(t *testing.T) {
	path := writeFile(t, "http:\n  public: :1\n  private: :2\n  base_url: https://file.example\nwebhook: {timeout: 1s}\n")
	got := load(t, config.Options{
		File: path,
		Env:  []string{"PAGESTREAM_HTTP_PUBLIC=:11", "PAGESTREAM_HTTP_PRIVATE=:12", "PAGESTREAM_LOG_LEVEL=", "OTHER=x"},
		Flags: map[string]any{
			"http.public": ":21", "webhook.max_body": "1MiB", "streams.max_batch": 7,
			"webhook.idle_timeout": 3 * time.Second,
		},
	})
	want := defaults()
	want.HTTP.Public = ":21"                   // flag over environment over file
	want.HTTP.Private = ":12"                  // environment over file
	want.HTTP.BaseURL = "https://file.example" // file over default
	want.Webhook.Timeout = time.Second         // file over default
	want.Webhook.MaxBody = config.MiB          // flag as text
	want.Streams.MaxBatch = 7                  // flag of the setting's type
	want.Webhook.IdleTimeout = 3 * time.Second // flag of the setting's type
	// log.level: an empty variable is not set
	require.Empty(t, cmp.Diff(want, got))
}

// sample is a valid value for each setting that is not its default.
var sample = map[string]string{
	"data.dir": "/d", "keys.file": "/k.json", "erasures.file": "/e.log",
	"http.public": ":1", "http.private": ":2", "http.private_hosts": "box.internal", "http.token_file": "/t",
	"http.read_token_file": "/r",
	"http.base_url":        "https://x.example/p", "http.shutdown_timeout": "3s",
	"webhook.max_inflight": "70MiB", "webhook.max_connections": "100",
	"webhook.max_connections_per_address": "10", "webhook.max_body": "1MiB",
	"webhook.timeout": "1500ms", "webhook.read_timeout": "3s",
	"webhook.idle_timeout": "1m30s",
	"nats.url":             "nats://u:pw@a:4222,tls://b", "nats.creds": "/c", "nats.replicas": "3",
	"nats.name": "box", "nats.nkey_file": "/n", "nats.user_file": "/u", "nats.password_file": "/pw",
	"nats.ca_file": "/ca", "nats.client_cert_file": "/cc", "nats.client_key_file": "/ck", "nats.domain": "hub",
	"nats.monitor_urls": "http://a:8222", "nats.accept_loss": "true",
	"nats.listen": "127.0.0.1:4222", "nats.cert_file": "/cert", "nats.key_file": "/key",
	"hooks.file": "/hooks.yaml", "hooks.give_up_after": "3h",
	"streams.window":    "1m",
	"streams.max_bytes": "1GiB", "streams.max_store": "2GiB",
	"streams.batch_threshold": "8", "streams.max_batch": "500", "streams.queue_limit": "9",
	"projections.dir": "/p", "projections.max_batch": "5", "projections.max_lag": "1h",
	"reconcile.interval": "30s", "reconcile.token_interval": "1h", "profiles.max_age": "24h",
	"leads.retrieve": "false",
	"log.level":      "debug", "log.format": "json",
}

// settings lists the keys of all sections but apps, by reflection.
func settings() []string {
	var out []string
	top := reflect.TypeFor[config.Config]()
	for i := range top.NumField() {
		section := top.Field(i)
		if section.Type.Kind() != reflect.Struct {
			continue
		}
		for j := range section.Type.NumField() {
			out = append(out, section.Tag.Get("koanf")+"."+section.Type.Field(j).Tag.Get("koanf"))
		}
	}
	return out
}

// settingAt returns the value of a setting by its path.
func settingAt(t *testing.T, c config.Config, path string) any {
	t.Helper()
	v := reflect.ValueOf(c)
next:
	for name := range strings.SplitSeq(path, ".") {
		for i := range v.NumField() {
			if v.Type().Field(i).Tag.Get("koanf") == name {
				v = v.Field(i)
				continue next
			}
		}
		require.Fail(t, "there is no setting "+path)
	}
	return v.Interface()
}

func TestEverySettingFromEverySource(t *testing.T) {
	names := map[string]string{}
	var all []string
	for _, path := range settings() {
		text, ok := sample[path]
		require.True(t, ok, "no sample for %s: add one to this test", path)
		name := "PAGESTREAM_" + strings.ToUpper(strings.ReplaceAll(path, ".", "_"))
		other, found := names[name]
		require.False(t, found, "%s and %s have the same variable %s", path, other, name)
		names[name] = path
		all = append(all, name+"="+text)
	}
	fromEnv := load(t, config.Options{Env: all})
	flags := map[string]any{}
	var yaml strings.Builder
	section := ""
	for _, path := range settings() {
		require.NotEqual(t, settingAt(t, defaults(), path), settingAt(t, fromEnv, path),
			"%s was not set by its variable", path)
		flags[path] = sample[path]
		s, field, _ := strings.Cut(path, ".")
		if s != section {
			section = s
			fmt.Fprintf(&yaml, "%s:\n", s)
		}
		format := "  %s: %q\n"
		if reflect.TypeOf(settingAt(t, fromEnv, path)).Kind() == reflect.Slice {
			format = "  %s: [%q]\n"
		}
		fmt.Fprintf(&yaml, format, field, sample[path])
	}
	require.Empty(t, cmp.Diff(fromEnv, load(t, config.Options{Flags: flags})), "flags differ from environment")
	require.Empty(t, cmp.Diff(fromEnv, load(t, config.Options{File: writeFile(t, yaml.String())})),
		"file differs from environment")
}

func TestFirstAppFromEnvironment(t *testing.T) {
	env := []string{
		"PAGESTREAM_APP_ID=123", "PAGESTREAM_APP_SECRET=" + newSecret + ", " + oldSecret,
		"PAGESTREAM_APP_VERIFY_TOKEN=" + verifyToken,
	}
	app := config.App{
		Name: "main", ID: "123", Secrets: []config.Secret{newSecret, oldSecret}, VerifyToken: verifyToken,
		GraphVersion: config.DefaultGraphVersion, GraphURL: config.DefaultGraphURL, LoginURL: config.DefaultLoginURL,
	}
	got := load(t, config.Options{Env: env})
	require.Empty(t, cmp.Diff([]config.App{app}, got.Apps), "without a file (-want +got)")

	path := writeFile(t, "apps:\n- {name: one, secrets: ["+newSecret+"], verify_token: "+newSecret+", login_scopes: [a]}\n"+
		"- {name: two, id: '456', secrets: ["+newSecret+"], verify_token: "+newSecret+"}\n")
	got = load(t, config.Options{File: path, Env: append(env, "PAGESTREAM_APP_GRAPH_VERSION=v24.0",
		"PAGESTREAM_APP_GRAPH_URL=http://127.0.0.1:9", "PAGESTREAM_APP_LOGIN_SCOPES=b, c")})
	app.Name, app.GraphVersion, app.GraphURL, app.LoginScopes = "one", "v24.0", "http://127.0.0.1:9", []string{"b", "c"}
	require.Empty(t, cmp.Diff(app, got.Apps[0]), "with a file")
	require.Len(t, got.Apps, 2, "with a file")
	require.Equal(t, "two", got.Apps[1].Name, "with a file")
}

func TestSecretsFromFiles(t *testing.T) {
	secret, token := writeFile(t, oldSecret+"\n"), writeFile(t, " "+verifyToken+" ")
	path := writeFile(t, fmt.Sprintf("apps:\n- name: a\n  secrets: [%s]\n  secret_files: [%s]\n"+
		"  verify_token_file: %s\n", newSecret, secret, token))
	app := load(t, config.Options{File: path}).Apps[0]
	require.Equal(t, []config.Secret{newSecret, oldSecret}, app.Secrets)
	require.Equal(t, config.Secret(verifyToken), app.VerifyToken)
	// The secret file of the environment replaces the secrets of the configuration file.
	const third = "a3f1-another-72c9-0be4"
	other := writeFile(t, third)
	app = load(t, config.Options{File: path, Env: []string{
		"PAGESTREAM_APP_SECRET_FILES=", "PAGESTREAM_APP_SECRET_FILE=" + other, "PAGESTREAM_APP_NAME=b",
	}}).Apps[0]
	require.Equal(t, "b", app.Name)
	require.Len(t, app.Secrets, 1)
	require.Equal(t, config.Secret(third), app.Secrets[0])

	for text, want := range map[string]string{
		"secret_files: [/nowhere/at-all]":                                 "apps[0].secret_files[0]: open /nowhere/at-all",
		"secret_files: [" + writeFile(t, "\n") + "]":                      "is empty",
		"secret_files: [" + writeFile(t, strings.Repeat("a", 5000)) + "]": "larger than 4KiB",
		"verify_token: s3cr3t\n  verify_token_file: " + token:             "both verify_token and verify_token_file",
		"verify_token_file: /nowhere":                                     "apps[0].verify_token_file",
	} {
		_, err := config.Load(config.Options{File: writeFile(t, "apps:\n- name: a\n  "+text+"\n")})
		wantProblems(t, err, want)
	}
}

// TestSecretsAreNotNumbers checks that YAML's implicit types are not used: an app
// secret is 32 hex digits, and some of these would be numbers.
func TestSecretsAreNotNumbers(t *testing.T) {
	for _, secret := range []string{
		"00001234567890123456789012345678", "1e234567890123456789012345678901", "0x12ab34cd56ef7890",
		"1_000_020_003_004_005", "2024-01-01T00:00:00.123Z", "0o1234567123456712",
	} {
		c := load(t, config.Options{File: writeFile(t,
			"apps:\n- {name: a, id: 12345678901234567, secrets: ["+secret+"], verify_token: "+secret+"}\n")})
		require.Equal(t, secret, string(c.Apps[0].Secrets[0]), "read as another value")
		require.Equal(t, secret, string(c.Apps[0].VerifyToken), "read as another value")
		require.Equal(t, "12345678901234567", c.Apps[0].ID, "read as another value")
	}
	for _, text := range []string{"0x12", "1_000", "true", "2024-01-01", "0b1", "0o17"} { // too short for a secret
		c := load(t, config.Options{File: writeFile(t,
			"apps:\n- {name: "+text+", secrets: ["+newSecret+"], verify_token: "+verifyToken+"}\n")})
		require.Equal(t, text, c.Apps[0].Name, "read as another value")
	}
}

// wantProblems checks that err wraps ErrInvalid and contains each text.
func wantProblems(t *testing.T, err error, texts ...string) {
	t.Helper()
	require.ErrorIs(t, err, config.ErrInvalid, "problems %q", texts)
	for _, text := range texts {
		assert.ErrorContains(t, err, text)
	}
}

func TestFileProblems(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"unknown key":     {"http:\n  pubic: :1\n", "line 2: http.pubic is not a setting: did you mean http.public?"},
		"unknown section": {"\nhtpp:\n  public: :1\n", "line 2: htpp is not a setting: did you mean http?"},
		"flat key":        {"log_level: debug\n", "did you mean log.level?"},
		"nothing similar": {"zzzzzzzzzzzzzzz: 1\n", "zzzzzzzzzzzzzzz is not a setting: see pagestream config example"},
		"unknown app key": {
			"apps:\n- name: a\n  verifytoken: x\n",
			"line 3: verifytoken is not a setting: did you mean verify_token?",
		},
		"twice":             {"log:\n  level: info\n  level: warn\n", "line 3: level is set on line 2 already"},
		"section twice":     {"log: {level: info}\nlog: {level: warn}\n", "line 2: log is set on line 1 already"},
		"scalar section":    {"http: 8080\n", "line 1: http takes keys"},
		"section is list":   {"http: [8080]\n", "http takes keys"},
		"file is list":      {"- http\n", "the file takes keys"},
		"list value":        {"log:\n  level: [info]\n", "log.level takes one plain value"},
		"apps is map":       {"apps:\n  name: a\n", "apps is a list"},
		"app is scalar":     {"apps: [a]\n", "apps[0] takes keys"},
		"secrets is scalar": {"apps:\n- secrets: abc\n", "apps[0].secrets is a list"},
		"nested secrets":    {"apps:\n- secrets: [[abc]]\n", "apps[0].secrets takes plain values"},
		"bad duration": {
			"webhook:\n  timeout: 4\n",
			`line 2: webhook.timeout: "4" is not a duration: write a number and a unit, as in 4s`,
		},
		"bad size": {
			"webhook:\n  max_body: 8M\n",
			`webhook.max_body: "8M" is not a size: write a whole number and a unit, as in 8MiB`,
		},
		"bad switch":    {"leads:\n  retrieve: maybe\n", `leads.retrieve: "maybe" is not a switch: write true or false`},
		"bad number":    {"streams:\n  max_batch: many\n", `streams.max_batch: "many" is not a whole number`},
		"two documents": {"log: {level: info}\n---\nlog: {level: warn}\n", "more than one YAML document"},
		"syntax":        {"log: [\n", "yaml:"},
		"map key":       {"? [a]\n: b\n", "a key that is not a name"},
		"alias":         {"log: &a {level: info}\nhttp: *a\n", "http takes keys"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := config.Load(config.Options{File: writeFile(t, c.text)})
			wantProblems(t, err, c.want)
		})
	}
	_, err := config.Load(config.Options{File: "/nowhere/pagestream.yaml"})
	require.ErrorIs(t, err, os.ErrNotExist, "a missing file")
	_, err = config.Load(config.Options{File: writeFile(t, strings.Repeat("#", 2<<20))})
	require.Error(t, err, "a file of 2 MiB was read")
	for _, empty := range []string{"", "# nothing\n", "http:\n", "http:\n  public:\napps:\n", "log: ~\n"} {
		require.Empty(t, cmp.Diff(defaults(), load(t, config.Options{File: writeFile(t, empty)})),
			"%q set something", empty)
	}
}

func TestEnvironmentAndFlagProblems(t *testing.T) {
	_, err := config.Load(config.Options{
		Env: []string{
			"PAGESTREAM_HTTP_PUBIC=:1", "PAGESTREAM_WEBHOOK_TIMEOUT=4", "PAGESTREAM_APPS_0_ID=1",
			"PAGESTREAM_URL=x", "PAGESTREAM_LOAD_RATE=1",
		},
		Flags:     map[string]any{"http.privat": ":1", "streams.max_batch": "x", "webhook.timeout": 4, "log.level": nil},
		IgnoreEnv: []string{"PAGESTREAM_URL", "PAGESTREAM_LOAD_*"},
	})
	wantProblems(t, err,
		"environment: PAGESTREAM_HTTP_PUBIC is not a setting: did you mean PAGESTREAM_HTTP_PUBLIC?",
		`environment PAGESTREAM_WEBHOOK_TIMEOUT: "4" is not a duration`,
		"did you mean PAGESTREAM_APP_ID?",
		"flag: http.privat is not a setting: did you mean http.private?",
		`flag streams.max_batch: "x" is not a whole number`,
		"flag webhook.timeout: a int where a time.Duration is needed",
		"flag log.level: a <nil> where a string is needed",
	)
	for _, not := range []string{"PAGESTREAM_URL", "PAGESTREAM_LOAD"} {
		require.NotContains(t, err.Error(), not, "it is ignored")
	}
}

func TestValidate(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", "/c")
	type (
		conf    = config.Config
		metaApp = config.App
		secrets = []config.Secret
	)
	app := config.App{
		Name: "a", Secrets: []config.Secret{newSecret}, VerifyToken: verifyToken, GraphVersion: "v23.0",
		GraphURL: "https://graph.facebook.com", LoginURL: config.DefaultLoginURL,
	}
	with := func(change func(*metaApp)) func(*conf) {
		return func(c *conf) {
			a := app
			change(&a)
			c.Apps = []config.App{a}
		}
	}
	wd, err := os.Getwd()
	require.NoError(t, err)
	for want, change := range map[string]func(*conf){
		"data.dir: empty":                    func(c *conf) { c.Data.Dir = "" },
		`data.dir: "~/x": ~ is not expanded`: func(c *conf) { c.Data.Dir = "~/x" },
		`erasures.file: "/d/data/e.log" is in data.dir`: func(c *conf) {
			c.Data.Dir, c.Erasures.File = "/d/data", "/d/data/e.log"
		},
		`erasures.file: "data/erasures.log" is in data.dir`: func(c *conf) { c.Keys.File = "data/keys.json" },
		fmt.Sprintf("erasures.file: %q is in data.dir", filepath.Join(wd, "data", "e.log")): func(c *conf) {
			c.Erasures.File = filepath.Join(wd, "data", "e.log")
		},
		`erasures.file: "data/e.log" is in data.dir`: func(c *conf) {
			c.Data.Dir, c.Erasures.File = filepath.Join(wd, "data"), "data/e.log"
		},
		`keys.file: "/x/" is a directory`:                func(c *conf) { c.Keys.File = "/x/" },
		`http.public: "8080" is not an address`:          func(c *conf) { c.HTTP.Public = "8080" },
		`http.private: ":99999" is not an address`:       func(c *conf) { c.HTTP.Private = ":99999" },
		`http.private: ":8080" is also http.public`:      func(c *conf) { c.HTTP.Private = ":8080" },
		`http.base_url: "example.com" is not a base URL`: func(c *conf) { c.HTTP.BaseURL = "example.com" },
		`http.base_url: "https://x/" ends in a slash`:    func(c *conf) { c.HTTP.BaseURL = "https://x/" },
		"http.base_url: has a user or password in it": func(c *conf) {
			c.HTTP.BaseURL = "https://u:hunter2@x"
		},
		"http.shutdown_timeout: 0s is out of bounds":                  func(c *conf) { c.HTTP.ShutdownTimeout = 0 },
		"webhook.timeout: 5s is too long: Meta gives up":              func(c *conf) { c.Webhook.Timeout = 5 * time.Second },
		"webhook.timeout: -1s is out of bounds":                       func(c *conf) { c.Webhook.Timeout = -time.Second },
		"webhook.max_body: 1B is out of bounds: write 64KiB to 15MiB": func(c *conf) { c.Webhook.MaxBody = 1 },
		"nats.url: not a NATS URL":                                    func(c *conf) { c.NATS.URL = "http://u:hunter2@a" },
		"nats.creds: \"/x\" is not used without nats.url":             func(c *conf) { c.NATS.Creds = "/x" },
		"nats.replicas: 3 copies need a cluster":                      func(c *conf) { c.NATS.Replicas = 3 },
		`nats.listen: ":4222" can be reached by other machines`:       func(c *conf) { c.NATS.Listen = ":4222" },
		`nats.listen: "4222" is not an address`:                       func(c *conf) { c.NATS.Listen = "4222" },
		"nats.cert_file: a certificate needs its key":                 func(c *conf) { c.NATS.CertFile = "/cert" },
		"nats.replicas: 0 is out of bounds":                           func(c *conf) { c.NATS.Replicas = 0 },
		"streams.window: 48h is out of bounds":                        func(c *conf) { c.Streams.Window = 48 * time.Hour },
		"streams.window: 29s is too short":                            func(c *conf) { c.Streams.Window = 29 * time.Second },
		`http.private_hosts[0]: "http://x"`:                           func(c *conf) { c.HTTP.PrivateHosts = []string{"http://x"} },
		"streams.max_bytes: 1B is too small":                          func(c *conf) { c.Streams.MaxBytes = 1 },
		"streams.max_bytes: 2GiB is more than streams.max_store": func(c *conf) {
			c.Streams.MaxBytes, c.Streams.MaxStore = 2*config.GiB, config.GiB
		},
		"streams.max_batch: 1001 is out of bounds":         func(c *conf) { c.Streams.MaxBatch = 1001 },
		"hooks.give_up_after: 1s is out of bounds":         func(c *conf) { c.Hooks.GiveUpAfter = time.Second },
		"log.level: \"loud\": write one of debug":          func(c *conf) { c.Log.Level = "loud" },
		"projections.max_lag: 0s":                          func(c *conf) { c.Projections.MaxLag = 0 },
		`apps[0].name: "A b"`:                              with(func(a *metaApp) { a.Name = "A b" }),
		`apps[1].name: "a" is the name of apps[0] already`: func(c *conf) { c.Apps = []config.App{app, app} },
		`apps[0].id: "x"`:                                  with(func(a *metaApp) { a.ID = "x" }),
		"apps[0].secrets: none":                            with(func(a *metaApp) { a.Secrets = nil }),
		"apps[0].secrets[1]: empty":                        with(func(a *metaApp) { a.Secrets = secrets{"hunter2", ""} }),
		"apps[0].secrets[0]: has a space":                  with(func(a *metaApp) { a.Secrets = secrets{"hunter2 "} }),
		"apps[0].secrets[0]: is the placeholder":           with(func(a *metaApp) { a.Secrets = secrets{"(set, 3 bytes)"} }),
		"apps[0].verify_token: none":                       with(func(a *metaApp) { a.VerifyToken = "" }),
		`apps[0].graph_version: "23"`:                      with(func(a *metaApp) { a.GraphVersion = "23" }),
		"reconcile.interval: 10ms": func(c *conf) {
			c.Reconcile.Interval = 10 * time.Millisecond
		},
		"reconcile.token_interval: 0s":      func(c *conf) { c.Reconcile.TokenInterval = 0 },
		"profiles.max_age: 1s":              func(c *conf) { c.Profiles.MaxAge = time.Second },
		`apps[0].login_url: "x"`:            with(func(a *metaApp) { a.LoginURL = "x" }),
		`apps[0].login_config_id: "x"`:      with(func(a *metaApp) { a.LoginConfigID = "x" }),
		`apps[0].login_scopes[0]: "Pages!"`: with(func(a *metaApp) { a.LoginScopes = []string{"Pages!"} }),
		`apps[0].graph_url: "ftp://x"`:      with(func(a *metaApp) { a.GraphURL = "ftp://x" }),
	} {
		t.Run(want, func(t *testing.T) {
			c := config.Default()
			c.Apps = []config.App{app}
			require.NoError(t, c.Validate())
			change(&c)
			err := c.Validate()
			wantProblems(t, err, want)
			require.NotContains(t, err.Error(), "hunter2", "the error shows a secret")
		})
	}

	// Load returns all problems at once.
	_, err = config.Load(config.Options{Env: []string{
		"PAGESTREAM_APP_ID=1", "PAGESTREAM_LOG_LEVEL=x",
		"PAGESTREAM_STREAMS_WINDOW=1s",
	}})
	wantProblems(t, err, "streams.window:", "log.level:", "apps[0].secrets: none", "apps[0].verify_token: none")
}

// TestPlaceholdersAreNotSecrets checks that texts that anybody would try are refused as
// secrets and as verify tokens, from every source, and never quoted.
func TestPlaceholdersAreNotSecrets(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", "/c")
	for secret, why := range map[string]string{
		"write the app secret here":              "placeholder",
		"write the verify token here":            "placeholder",
		"YOUR_APP_SECRET":                        "placeholder",
		"<your-app-secret-goes-here>":            "placeholder",
		"ChangeMe-Please-0123456789":             "placeholder",
		"replace_me_with_the_app_secret":         "placeholder",
		"dev-app-secret-that-signs-nothing-real": "placeholder",
		"hunter2":                                "7 bytes long",
		"5c0d9a4be17f428":                        "15 bytes long",
		"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx":       "hardly any different",
		"00000000000000000000000000000000":       "hardly any different",
		"my-facebook-app-secret":                 "words that anybody",
		"the-secret-of-the-test-app":             "words that anybody",
		"verify_token_pagestream":                "words that anybody",
		"1234567890123456":                       "words that anybody",
		"0123456789abcdef0123456789abcdef":       "words that anybody",
		"password-password-1":                    "words that anybody",
		"your-32-character-app-secret":           "words that anybody",
		"app-secret-from-meta-dashboard":         "words that anybody",
		"null none fake redacted":                "words that anybody",
		"lorem ipsum dolor sit amet":             "words that anybody",
		"fedcba9876543210":                       "words that anybody",
		"to be replaced by the operator":         "placeholder",
		"REDACTED-REDACTED-REDACTED":             "repeats a few",
		"dummydummydummydummy":                   "hardly any different",
		"fake-fake-fake-fake":                    "repeats a few",
		"foobarfoobarfoobar":                     "repeats a few",
		"iloveyouiloveyou":                       "repeats a few",
		"deadbeefdeadbeefdeadbeefdeadbeef":       "repeats a few",
		"abc123abc123abc1":                       "repeats a few",
		"1234 1234 1234 1234 1234":               "repeats a few",
		"asdfasdfasdfasdf":                       "hardly any different",
		"abcdabcdabcdabcd":                       "hardly any different",
		"12341234123412341234":                   "hardly any different",
		"null null null null":                    "hardly any different",
		"1111222233334444":                       "hardly any different",
		"aaaaaaaabbbbbbbbccccccccdddddddd":       "hardly any different",
	} {
		_, err := config.Load(config.Options{Env: []string{
			"PAGESTREAM_APP_SECRET=" + secret, "PAGESTREAM_APP_VERIFY_TOKEN=" + verifyToken,
		}})
		wantProblems(t, err, "apps[0].secrets[0]: ", why)
		require.NotContains(t, err.Error(), secret)
		_, err = config.Load(config.Options{Env: []string{
			"PAGESTREAM_APP_SECRET=" + newSecret, "PAGESTREAM_APP_VERIFY_TOKEN_FILE=" + writeFile(t, secret),
		}})
		wantProblems(t, err, "apps[0].verify_token: ", why, "in the app dashboard's webhook settings too")
		require.NotContains(t, err.Error(), secret)
		file := writeFile(t, secret)
		_, err = config.Load(config.Options{File: writeFile(t, fmt.Sprintf(
			"apps:\n- {name: a, secret_files: [%s], verify_token: %s}\n", file, verifyToken))})
		wantProblems(t, err, "apps[0].secrets[0]: ", why)
	}
	rapid.Check(t, func(r *rapid.T) { // what Meta makes, and what openssl makes, is accepted
		b := rapid.SliceOfN(rapid.Byte(), 16, 16).Filter(func(b []byte) bool {
			different := map[byte]bool{}
			for _, c := range b {
				different[c] = true
			}
			return len(different) > 8
		}).Draw(r, "secret")
		load(t, config.Options{Env: []string{
			fmt.Sprintf("PAGESTREAM_APP_SECRET=%x", b), "PAGESTREAM_APP_VERIFY_TOKEN=x" + base64.URLEncoding.EncodeToString(b),
		}})
	})
}

// TestRandomSecretsAreAccepted checks that what Meta and a careful operator make is not taken for a guess: 32 and 16
// hex digits, and 16 characters of base64.
func TestRandomSecretsAreAccepted(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", "/c")
	random := rand.New(rand.NewPCG(1, 2))
	app := config.App{
		Name: "a", VerifyToken: verifyToken, GraphVersion: config.DefaultGraphVersion,
		GraphURL: config.DefaultGraphURL, LoginURL: config.DefaultLoginURL,
	}
	for range 2_000 {
		b := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, random.Uint64()), random.Uint64())
		for _, text := range []string{hex.EncodeToString(b), hex.EncodeToString(b[:8]), base64.RawURLEncoding.EncodeToString(b[:12])} {
			app.Secrets = append(app.Secrets, config.Secret(text))
		}
	}
	c := config.Default()
	c.Apps = []config.App{app}
	require.NoError(t, c.Validate())
}

func TestWarnings(t *testing.T) {
	c := config.Default()
	c.HTTP.BaseURL = "https://pagestream.example"
	c.Apps = []config.App{{GraphURL: config.DefaultGraphURL}, {GraphURL: "http://127.0.0.1:9"}, {GraphURL: "http://[::1]:9"}}
	require.Empty(t, c.Warnings())
	for _, private := range []string{":8081", "0.0.0.0:8081", "[::]:8081", "203.0.113.7:8081", "box:8081"} {
		c.HTTP.Private = private
		require.Len(t, c.Warnings(), 1, private)
		require.Contains(t, c.Warnings()[0], fmt.Sprintf("http.private: %q can be reached", private))
	}
	c.HTTP.Private = "localhost:8081"
	c.HTTP.BaseURL, c.Apps[0].GraphURL = "http://pagestream.example", "http://graph.example"
	got := strings.Join(c.Warnings(), "\n")
	require.Contains(t, got, `http.base_url: "http://pagestream.example" is not encrypted`)
	require.Contains(t, got, `apps[0].graph_url: "http://graph.example" is not encrypted`)
	require.Len(t, c.Warnings(), 2)
}

func TestRequireApps(t *testing.T) {
	c := config.Default()
	err := c.RequireApps()
	require.ErrorIs(t, err, config.ErrNoApps)
	require.ErrorContains(t, err, "PAGESTREAM_APP_SECRET")
	c.Apps = []config.App{{}}
	require.NoError(t, c.RequireApps())
}

// rendered returns everything that prints a configuration: Print, JSON, fmt, slog
// and Redact.
func rendered(t testing.TB, c config.Config) string {
	t.Helper()
	var out bytes.Buffer
	require.NoError(t, config.Print(&out, c))
	b, err := json.Marshal(c)
	require.NoError(t, err)
	out.Write(b)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		fmt.Fprintf(&out, verb, c)
		fmt.Fprintf(&out, verb, &c)
		fmt.Fprintf(&out, verb, c.Apps[0].Secrets)
		fmt.Fprintf(&out, verb, config.Redact(c))
	}
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "c", c, "s", c.Apps[0].VerifyToken, "u", c.NATS.URL)
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "c", c, "s", c.Apps[0].VerifyToken, "u", c.NATS.URL)
	r := config.Redact(c)
	fmt.Fprint(&out, string(r.Apps[0].Secrets[0]), string(r.Apps[0].VerifyToken), string(r.NATS.URL))
	return out.String()
}

func TestSecretsAreNeverShown(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		// The secrets are long enough not to be in the output by chance.
		draw := func(name string) string {
			return "Zq" + rapid.StringMatching(`[A-Za-z0-9/@:%+]{6,40}`).Draw(r, name) + "Zq"
		}
		secret, token, password := draw("secret"), draw("token"), draw("password")
		c := defaults()
		c.NATS.URL = config.Servers("nats://user:" + password + "@one:4222, tls://two:4222")
		c.Apps = []config.App{{
			Name: "a", Secrets: []config.Secret{config.Secret(secret)},
			VerifyToken: config.Secret(token),
		}}
		out := rendered(t, c)
		if err := c.Validate(); err != nil {
			out += err.Error()
		}
		for _, s := range []string{secret, token, password} {
			require.NotContains(r, out, s)
			require.NotContains(r, out, fmt.Sprintf("%x", s))
		}
		require.Contains(r, out, fmt.Sprintf("(set, %d bytes)", len(secret)),
			"the placeholders of the secrets are missing")
		require.Contains(r, out, "nats://hidden@one:4222,tls://two:4222",
			"the placeholders of the secrets are missing")
		require.Equal(r, secret, string(c.Apps[0].Secrets[0]), "Redact changed its argument")
	})
}

// TestSyntaxErrorsDontQuoteSecrets also has secrets that YAML parses as anchors:
// the parser's own error quotes them.
func TestSyntaxErrorsDontQuoteSecrets(t *testing.T) {
	for _, text := range []string{
		"*hunter2", "&hunter2 *hunter3", "!hunter2 [", "hunter2: x: y", "'hunter2", "{hunter2",
		"@hunter2", "%hunter2", "|hunter2", "\"\\qhunter2\"",
	} {
		_, err := config.Load(config.Options{File: writeFile(t, "apps:\n- verify_token: "+text+"\n")})
		require.Error(t, err, text)
		require.NotContains(t, err.Error(), "hunter", text)
	}
}

func TestLoadReadsWhatPrintWrites(t *testing.T) {
	var env []string
	for path, text := range sample {
		if path != "nats.url" { // its password is not printed
			env = append(env, "PAGESTREAM_"+strings.ToUpper(strings.ReplaceAll(path, ".", "_"))+"="+text)
		}
	}
	env = append(env, "PAGESTREAM_NATS_URL=nats://a:1")
	want := load(t, config.Options{Env: env})
	var out bytes.Buffer
	require.NoError(t, config.Print(&out, want))
	got := load(t, config.Options{File: writeFile(t, out.String())})
	got.Apps = nil
	require.Empty(t, cmp.Diff(want, got), out.String())
	last := -1
	for _, path := range settings() { // in the order of the fields
		section, field, _ := strings.Cut(path, ".")
		s := strings.Index(out.String(), section+":\n")
		i := s + strings.Index(out.String()[s:], "  "+field+":")
		require.GreaterOrEqual(t, s, 0, "%s is out of order in:\n%s", path, out.String())
		require.Greater(t, i, last, "%s is out of order in:\n%s", path, out.String())
		last = i
	}
}

func TestExample(t *testing.T) {
	want := defaults()
	require.Empty(t, cmp.Diff(want, load(t, config.Options{File: writeFile(t, config.Example())})),
		"the example differs from the defaults (-want +got)")

	// With every setting uncommented it can still be loaded and has all keys.
	var all strings.Builder
	apps := false
	for line := range strings.SplitSeq(config.Example(), "\n") {
		apps = apps || line == "# apps:"
		switch {
		case apps:
			line = strings.TrimPrefix(strings.TrimPrefix(line, "#"), " ")
		case strings.HasPrefix(line, "  # file: "), strings.HasPrefix(line, "  # token_file: "),
			strings.HasPrefix(line, "  # dir: "):
			line = strings.Replace(line, "# ", "", 1)
		}
		all.WriteString(line + "\n")
	}
	// The literals of the example are refused: whoever reads it could sign with them.
	_, err := config.Load(config.Options{File: writeFile(t, all.String())})
	wantProblems(t, err, "apps[0].secrets[0]: is a placeholder", "apps[0].verify_token: is a placeholder")
	filledIn := strings.NewReplacer("write the app secret here", newSecret, "write the verify token here", verifyToken).
		Replace(all.String())
	want.Erasures.File = "/etc/pagestream/erasures.log"
	want.Keys.File, want.HTTP.TokenFile = "/etc/pagestream/keys.json", "/etc/pagestream/admin.token"
	want.Apps = []config.App{{
		Name: config.DefaultAppName, ID: "1234567890123456", Secrets: []config.Secret{newSecret},
		SecretFiles: []string{},
		VerifyToken: verifyToken, GraphVersion: config.DefaultGraphVersion,
		GraphURL: config.DefaultGraphURL, LoginURL: config.DefaultLoginURL, LoginScopes: []string{},
	}}
	require.Empty(t, cmp.Diff(want, load(t, config.Options{File: writeFile(t, filledIn)})),
		"with all settings uncommented (-want +got)")
	for _, path := range settings() {
		section, field, _ := strings.Cut(path, ".")
		_, rest, ok := strings.Cut(all.String(), "\n"+section+":\n")
		rest, _, _ = strings.Cut(rest, "\n\n")
		require.True(t, ok, "the example does not have %s", path)
		if !strings.Contains(rest, "\n  "+field+": ") {
			require.True(t, strings.HasPrefix(rest, "  "+field+": "), "the example does not have %s", path)
		}
		before, _, _ := strings.Cut("\n"+rest, "\n  "+field+": ")
		lines := strings.Split(before, "\n")
		require.True(t, strings.HasPrefix(strings.TrimSpace(lines[len(lines)-1]), "#"),
			"the example does not explain %s", path)
	}
	app := reflect.TypeFor[config.App]()
	for i := range app.NumField() {
		name := app.Field(i).Tag.Get("koanf")
		require.Contains(t, config.Example(), name+": ", "the example does not have apps.%s", name)
	}
}

func TestByteSize(t *testing.T) {
	for text, want := range map[string]config.ByteSize{
		"0": 0, "1": 1, "8MiB": 8 << 20, "8 mib": 8 << 20, " 3kB ": 3000, "2GB": 2e9, "1TiB": 1 << 40, "7B": 7,
		"9223372036854775807": 1<<63 - 1,
	} {
		var got config.ByteSize
		err := got.UnmarshalText([]byte(text))
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{
		"", "MiB", "8M", "-1", "1.5GiB", "8 MiB 3", "9223372036854775808", "9999999TiB",
		"0x10",
	} {
		var got config.ByteSize
		require.Error(t, got.UnmarshalText([]byte(text)), "%q was read", text)
	}
	rapid.Check(t, func(r *rapid.T) {
		want := config.ByteSize(rapid.Int64Min(0).Draw(r, "n"))
		var got config.ByteSize
		text, err := want.MarshalText()
		if err == nil {
			err = got.UnmarshalText(text)
		}
		require.NoError(r, err, text)
		require.Equal(r, want, got, text)
	})
}

// FuzzLoad checks that Load returns valid settings or ErrInvalid for any file.
func FuzzLoad(f *testing.F) {
	f.Add(config.Example())
	f.Add("apps:\n- {name: a, secrets: [x], verify_token: y}\n")
	f.Add("apps:\n- {name: a, secrets: [" + newSecret + "], verify_token: " + verifyToken + "}\n")
	f.Add("http: &a {public: *a}\n<<: *a\n")
	f.Add("a: [&x [*x]]\n---\n")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "_file") {
			t.Skip("would read files")
		}
		path := filepath.Join(dir, fmt.Sprintf("%d.yaml", os.Getpid()))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		c, err := config.Load(config.Options{File: path})
		if err == nil {
			err = c.Validate()
		} else {
			require.Empty(t, cmp.Diff(config.Config{}, c), "settings were returned with an error: %v", err)
		}
		if err != nil {
			require.ErrorIs(t, err, config.ErrInvalid)
		}
	})
}
