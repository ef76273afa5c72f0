package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// metaDeadline is how long Meta waits for the answer to a delivery. Source:
// Messenger Platform, Webhooks: "respond within 5 seconds".
const metaDeadline = 5 * time.Second

// PublishRetry is how long the publisher sends an event again whose acknowledgement was
// lost. streams.window must be at least twice as long.
const PublishRetry = 15 * time.Second

var (
	appName      = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)
	appID        = regexp.MustCompile(`^[0-9]{0,32}$`) // empty is none
	natsName     = regexp.MustCompile(`^[A-Za-z0-9_-]{1,63}$`)
	loginScope   = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)
	hostName     = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$`)
	graphVersion = regexp.MustCompile(`^v[0-9]{1,3}\.[0-9]{1,3}$`)
)

// Validate returns all problems as one error that wraps [ErrInvalid], or nil. Each
// problem has the key, its value unless that may contain a secret, and what to
// write instead. Validate opens no file. It accepts a configuration without an app:
// see [Config.RequireApps].
func (c Config) Validate() error {
	v := &validator{}
	if c.Data.Dir == "" {
		v.add("data.dir: empty: write a directory, as in /var/lib/pagestream")
	}
	v.path("data.dir", c.Data.Dir)
	v.file("keys.file", c.Keys.File)
	v.path("erasures.file", c.Erasures.File)
	if file := c.ErasuresFile(); Inside(c.Data.Dir, file) {
		v.add("erasures.file: %q is in data.dir, and would be lost or restored with it: set erasures.file to a file "+
			"outside of it, and move this one there if it exists (the default is beside keys.file)", file)
	}

	v.address("http.public", c.HTTP.Public)
	v.address("http.private", c.HTTP.Private)
	if c.HTTP.Public == c.HTTP.Private && !strings.HasSuffix(c.HTTP.Public, ":0") {
		v.add("http.private: %q is also http.public: the private listener needs its own address, as in 127.0.0.1:8081",
			c.HTTP.Private)
	}
	v.file("http.token_file", c.HTTP.TokenFile)
	v.path("http.read_token_file", c.HTTP.ReadTokenFile)
	if c.HTTP.BaseURL != "" {
		v.baseURL("http.base_url", c.HTTP.BaseURL, "https://pagestream.example.com")
	}
	within(v, "http.shutdown_timeout", c.HTTP.ShutdownTimeout, time.Second, 10*time.Minute)

	// An event may contain a body twice, and the embedded server accepts messages of
	// at most 32 MiB.
	within(v, "webhook.max_body", c.Webhook.MaxBody, 64*KiB, 15*MiB)
	within(v, "webhook.max_inflight", c.Webhook.MaxInflight, 2*c.Webhook.MaxBody, 64*1024*MiB)
	within(v, "webhook.max_connections", c.Webhook.MaxConnections, 0, 1_000_000)
	within(v, "webhook.max_connections_per_address", c.Webhook.MaxConnectionsPerAddress, 0, 1_000_000)
	if c.Webhook.Timeout >= metaDeadline {
		v.add("webhook.timeout: %s is too long: Meta gives up after %s; write less, as in 4s",
			c.Webhook.Timeout, metaDeadline)
	} else {
		within(v, "webhook.timeout", c.Webhook.Timeout, 100*time.Millisecond, metaDeadline)
	}
	within(v, "webhook.read_timeout", c.Webhook.ReadTimeout, time.Second, time.Minute)
	within(v, "webhook.idle_timeout", c.Webhook.IdleTimeout, time.Second, time.Hour)

	if problem := c.NATS.URL.check(); problem != "" {
		v.add("nats.url: %s", problem)
	}
	if c.NATS.URL == "" {
		for _, s := range c.NATS.external() {
			if s[1] != "" {
				v.add("%[1]s: %[2]q is not used without nats.url: set nats.url, or remove %[1]s", s[0], s[1])
			}
		}
		if c.NATS.Replicas > 1 {
			v.add("nats.replicas: %d copies need a cluster: set nats.url, or write 1", c.NATS.Replicas)
		}
	}
	v.nats(c.NATS)
	within(v, "nats.replicas", c.NATS.Replicas, 1, 5)
	v.path("nats.cert_file", c.NATS.CertFile)
	v.path("nats.key_file", c.NATS.KeyFile)
	if (c.NATS.CertFile == "") != (c.NATS.KeyFile == "") {
		v.add("nats.cert_file: a certificate needs its key: set both nats.cert_file and nats.key_file, or neither")
	}
	if c.NATS.Listen != "" {
		v.address("nats.listen", c.NATS.Listen)
		if c.NATS.CertFile == "" && !loopback(c.NATS.Listen) {
			v.add("nats.listen: %q can be reached by other machines and would not be encrypted: "+
				"set nats.cert_file and nats.key_file, or listen on 127.0.0.1", c.NATS.Listen)
		}
	}

	if c.Streams.Window < 2*PublishRetry {
		v.add("streams.window: %s is too short: events are sent again for %s after a lost acknowledgement, "+
			"and the window must be twice as long to recognize them: write %s or more",
			formatDuration(c.Streams.Window), formatDuration(PublishRetry), formatDuration(2*PublishRetry))
	} else {
		within(v, "streams.window", c.Streams.Window, 2*PublishRetry, 24*time.Hour)
	}
	v.sizeOrNone("streams.max_bytes", c.Streams.MaxBytes, 64*MiB)
	v.sizeOrNone("streams.max_store", c.Streams.MaxStore, 64*MiB)
	if c.NATS.URL == "" && c.Streams.MaxStore > 0 && c.Streams.MaxBytes > c.Streams.MaxStore {
		v.add("streams.max_bytes: %s is more than streams.max_store, %s: lower one or raise the other",
			c.Streams.MaxBytes, c.Streams.MaxStore)
	}
	within(v, "streams.max_batch", c.Streams.MaxBatch, 1, 1000)
	within(v, "streams.batch_threshold", c.Streams.BatchThreshold, 2, 1000)
	within(v, "streams.queue_limit", c.Streams.QueueLimit, 1, 1_000_000)

	v.path("projections.dir", c.Projections.Dir)
	within(v, "projections.max_batch", c.Projections.MaxBatch, 1, 100_000)
	within(v, "projections.max_lag", c.Projections.MaxLag, time.Second, 24*time.Hour)

	v.durationOrNone("reconcile.interval", c.Reconcile.Interval, time.Second, 24*time.Hour)
	within(v, "reconcile.token_interval", c.Reconcile.TokenInterval, time.Second, 7*24*time.Hour)
	v.durationOrNone("profiles.max_age", c.Profiles.MaxAge, time.Hour, 365*24*time.Hour)

	v.path("hooks.file", c.Hooks.File)
	within(v, "hooks.give_up_after", c.Hooks.GiveUpAfter, time.Minute, 30*24*time.Hour)

	v.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	v.oneOf("log.format", c.Log.Format, LogText, LogJSON)

	for i, host := range c.HTTP.PrivateHosts {
		v.match(fmt.Sprintf("http.private_hosts[%d]", i), host, hostName,
			"the name of a host without scheme and port, as in pagestream.internal")
	}
	v.apps(c.Apps)
	if len(v.problems) > 0 {
		return invalid(v.problems)
	}
	return nil
}

// RequireApps returns an error that wraps [ErrNoApps] and says what to do if no app
// is configured.
func (c Config) RequireApps() error {
	if len(c.Apps) > 0 {
		return nil
	}
	return fmt.Errorf("%w: set PAGESTREAM_APP_SECRET and PAGESTREAM_APP_VERIFY_TOKEN, "+
		"or list apps in the configuration file (see: pagestream config example); "+
		"to try pagestream without an app: pagestream dev", ErrNoApps)
}

// Warnings returns what is valid but should not be so in an installation that others can
// reach, one text each.
func (c Config) Warnings() (out []string) {
	warn := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if !loopback(c.HTTP.Private) {
		warn("http.private: %q can be reached by other machines, and everything on it is sent unencrypted: "+
			"listen on 127.0.0.1, or let a proxy with TLS be the only one that reaches it", c.HTTP.Private)
	}
	if remoteHTTP(c.HTTP.BaseURL) {
		warn("http.base_url: %q is not encrypted: Meta's login and callbacks need https://", c.HTTP.BaseURL)
	}
	for i, app := range c.Apps {
		if remoteHTTP(app.GraphURL) {
			warn("apps[%d].graph_url: %q is not encrypted: page tokens and the app secret are sent to it; write https://",
				i, app.GraphURL)
		}
	}
	return out
}

// remoteHTTP reports whether a URL is http:// and not of this machine.
func remoteHTTP(value string) bool {
	u, err := url.Parse(value)
	return err == nil && u.Scheme == "http" && !loopback(net.JoinHostPort(u.Hostname(), "0"))
}

// Inside reports whether a path is a directory or below it. Relative paths are relative to
// the working directory.
func Inside(dir, path string) bool {
	a, errA := filepath.Abs(dir)
	b, errB := filepath.Abs(path)
	rel, err := filepath.Rel(a, b)
	return errors.Join(errA, errB, err) == nil && filepath.IsLocal(rel)
}

// validator collects problems. Its methods check one setting each.
type validator struct{ problems []error }

func (v *validator) add(format string, args ...any) {
	v.problems = append(v.problems, fmt.Errorf(format, args...))
}

// file checks the path of a file that must be set.
func (v *validator) file(key, value string) {
	switch {
	case value == "":
		v.add("%s: empty, and there is no user configuration directory (neither XDG_CONFIG_HOME nor HOME is set): "+
			"write a file, as in /etc/pagestream/%s", key, strings.ReplaceAll(key, ".", "-"))
	case strings.HasSuffix(value, "/"):
		v.add("%s: %q is a directory: write a file in it", key, value)
	}
	v.path(key, value)
}

// loopback reports whether an address can be reached from this machine only.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

// path rejects paths with a ~, which only a shell expands, or a zero byte.
func (v *validator) path(key, value string) {
	if strings.HasPrefix(value, "~") {
		v.add("%s: %q: ~ is not expanded: write the full path", key, value)
	}
	if strings.ContainsRune(value, 0) {
		v.add("%s: %q has a zero byte in it", key, value)
	}
}

// address checks a host and port; the host may be empty.
func (v *validator) address(key, value string) {
	_, port, err := net.SplitHostPort(value)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		v.add("%s: %q is not an address: write host:port or :port, as in 127.0.0.1:8081", key, value)
	}
}

// baseURL checks an absolute http or https URL. It does not quote a URL with user
// info.
func (v *validator) baseURL(key, value, example string) {
	u, err := url.Parse(value)
	switch {
	case strings.Contains(value, "@"):
		v.add("%s: has a user or password in it: remove it, as in %s", key, example)
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "", u.RawQuery != "", u.Fragment != "":
		v.add("%s: %q is not a base URL: write a scheme and a host without a query, as in %s", key, value, example)
	case strings.HasSuffix(u.Path, "/"):
		v.add("%s: %q ends in a slash: remove it", key, value)
	}
}

// within checks that value is from lo to hi, both included.
func within[T int | ByteSize | time.Duration](v *validator, key string, value, lo, hi T) {
	if value < lo || value > hi {
		v.add("%s: %s is out of bounds: write %s to %s", key, formatValue(value), formatValue(lo), formatValue(hi))
	}
}

// formatValue returns a number, size or duration in the form of the configuration
// file.
func formatValue(n any) string {
	if d, ok := n.(time.Duration); ok {
		return formatDuration(d)
	}
	return fmt.Sprint(n)
}

// durationOrNone checks that value is 0 or from lo to hi.
func (v *validator) durationOrNone(key string, value, lo, hi time.Duration) {
	if value != 0 && (value < lo || value > hi) {
		v.add("%s: %s is out of bounds: write %s to %s, or 0 for none",
			key, formatValue(value), formatValue(lo), formatValue(hi))
	}
}

// sizeOrNone checks that value is 0 or at least lo.
func (v *validator) sizeOrNone(key string, value, lo ByteSize) {
	if value != 0 && value < lo {
		v.add("%s: %s is too small: write at least %s, or 0 for no limit", key, value, lo)
	}
}

// match checks that value matches form; write describes the form.
func (v *validator) match(key, value string, form *regexp.Regexp, write string) {
	if !form.MatchString(value) {
		v.add("%s: %q: write %s", key, value, write)
	}
}

// oneOf checks that value is one of the allowed values.
func (v *validator) oneOf(key, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		v.add("%s: %q: write one of %s", key, value, strings.Join(allowed, ", "))
	}
}

// external returns the settings that count for an external server only, with their values.
func (n NATS) external() [][2]string {
	return [][2]string{
		{"nats.name", n.Name},
		{"nats.creds", n.Creds},
		{"nats.nkey_file", n.NKeyFile},
		{"nats.user_file", n.UserFile},
		{"nats.password_file", n.PasswordFile},
		{"nats.ca_file", n.CAFile},
		{"nats.client_cert_file", n.ClientCertFile},
		{"nats.client_key_file", n.ClientKeyFile},
		{"nats.domain", n.Domain},
	}
}

// nats checks how to connect to an external server.
func (v *validator) nats(n NATS) {
	for _, s := range n.external() {
		switch {
		case strings.HasSuffix(s[0], "name"), strings.HasSuffix(s[0], "domain"):
			if s[1] != "" {
				v.match(s[0], s[1], natsName, "at most 63 letters, digits, - and _")
			}
		default:
			v.path(s[0], s[1])
		}
	}
	for i, url := range n.MonitorURLs {
		v.baseURL(fmt.Sprintf("nats.monitor_urls[%d]", i), url, "http://a:8222")
	}
	if (n.UserFile == "") != (n.PasswordFile == "") {
		v.add("nats.user_file: a user needs a password: set both nats.user_file and nats.password_file, or neither")
	}
	if (n.ClientCertFile == "") != (n.ClientKeyFile == "") {
		v.add("nats.client_cert_file: a certificate needs its key: set both nats.client_cert_file and " +
			"nats.client_key_file, or neither")
	}
}

func (v *validator) apps(apps []App) {
	names := map[string]int{}
	for i, app := range apps {
		at := fmt.Sprintf("apps[%d]", i)
		if !appName.MatchString(app.Name) {
			v.add("%s.name: %q: write lower-case letters, digits, - and _, at most 63, as in main "+
				"(it is part of the URL /webhooks/<name>)", at, app.Name)
		} else if first, found := names[app.Name]; found {
			v.add("%s.name: %q is the name of apps[%d] already: give each app its own name", at, app.Name, first)
		} else {
			names[app.Name] = i
		}
		v.match(at+".id", app.ID, appID, "the digits that the app dashboard shows as App ID")
		if app.ID == "" && len(apps) > 1 {
			v.add("%s.id: empty: with several apps, write the digits that the app dashboard shows as App ID: "+
				"each app's deliveries count for its own pages only", at)
		}
		if len(app.Secrets) == 0 {
			v.add("%s.secrets: none: write the app secret (App settings, Basic), or a file with it in secret_files", at)
		}
		for j, s := range app.Secrets {
			v.secret(fmt.Sprintf("%s.secrets[%d]", at, j), s,
				"write the app secret that the dashboard shows (App settings, Basic)")
		}
		if app.VerifyToken == "" {
			v.add("%s.verify_token: none: make one up, enter it here and in the app dashboard's webhook settings", at)
		} else {
			v.secret(at+".verify_token", app.VerifyToken,
				"write a random one of 16 characters or more here, and enter it in the app dashboard's webhook settings too")
		}
		for j, file := range app.SecretFiles {
			v.path(fmt.Sprintf("%s.secret_files[%d]", at, j), file)
		}
		v.path(at+".verify_token_file", app.VerifyTokenFile)
		v.match(at+".graph_version", app.GraphVersion, graphVersion, "v and two numbers, as in "+DefaultGraphVersion)
		v.baseURL(at+".graph_url", app.GraphURL, DefaultGraphURL)
		v.baseURL(at+".login_url", app.LoginURL, DefaultLoginURL)
		v.match(at+".login_config_id", app.LoginConfigID, appID,
			"the digits that the app dashboard shows under Facebook Login for Business")
		for j, scope := range app.LoginScopes {
			v.match(fmt.Sprintf("%s.login_scopes[%d]", at, j), scope, loginScope,
				"the name of a permission, as in pages_messaging")
		}
	}
}

// secret rejects values that can't be a secret or could be guessed, without quoting
// them. An empty secret is the most dangerous one: anyone can sign with it.
func (v *validator) secret(key string, s Secret, write string) {
	switch reason := weak(s); {
	case s == "":
		v.add("%s: empty: write the secret or remove the entry", key)
	case strings.TrimSpace(string(s)) != string(s):
		v.add("%s: has a space or line end at its start or end: remove it", key)
	case placeholder.MatchString(string(s)):
		v.add("%s: is the placeholder that config print shows: write the secret itself", key)
	case len(s) > maxSecret:
		v.add("%s: is %d bytes long: at most %d", key, len(s), maxSecret)
	case reason != "":
		v.add("%s: %s: %s", key, reason, write)
	}
}
