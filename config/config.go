// Package config contains the settings of the pagestream command: their defaults,
// sources, validation and printing.
//
// Settings come from a YAML file, then the environment, then flags; a later source
// overrides an earlier one. [Example] documents every setting. Only
// internal/server, dev and cli import this package: every other package has its
// own small Options.
package config

import (
	"cmp"
	"os"
	"path/filepath"
	"time"
)

// Config has all settings. The order of its fields is the order in [Example] and
// [Print].
type Config struct {
	Data        Data        `koanf:"data"`
	Keys        Keys        `koanf:"keys"`
	Erasures    Erasures    `koanf:"erasures"`
	HTTP        HTTP        `koanf:"http"`
	Webhook     Webhook     `koanf:"webhook"`
	NATS        NATS        `koanf:"nats"`
	Streams     Streams     `koanf:"streams"`
	Projections Projections `koanf:"projections"`
	Reconcile   Reconcile   `koanf:"reconcile"`
	Profiles    Profiles    `koanf:"profiles"`
	Leads       Leads       `koanf:"leads"`
	Hooks       Hooks       `koanf:"hooks"`
	Log         Log         `koanf:"log"`
	// Apps are the Meta apps that send webhooks to us. `/webhooks` is the callback
	// URL of the first one.
	Apps []App `koanf:"apps"`
}

// Data sets where data is stored on disk.
type Data struct {
	// Dir contains the embedded server's stream and, unless projections.dir is
	// set, the read models. A relative path is relative to the working directory
	// of the process.
	Dir string `koanf:"dir"`
}

// Keys sets where the key ring is stored that seals page tokens.
type Keys struct {
	// File should be outside data.dir, so that a copy of the data alone is not
	// enough to open the tokens in it.
	File string `koanf:"file"`
}

// Erasures sets where the list of erasures is kept, which a restore needs.
type Erasures struct {
	// File is outside data.dir, so that it is not lost or restored with the data; empty is
	// "erasures.log" in the directory of keys.file: see [Config.ErasuresFile].
	File string `koanf:"file"`
}

// HTTP sets the two listeners.
type HTTP struct {
	// Public is the address for Meta and the browsers of page owners, usually
	// behind a reverse proxy that terminates TLS.
	Public string `koanf:"public"`
	// Private is the address of the API, the console and the metrics.
	Private string `koanf:"private"`
	// PrivateHosts are further host names by which the private listener is called, such
	// as that of a proxy. Requests with an unknown name are refused.
	PrivateHosts []string `koanf:"private_hosts"`
	// TokenFile is the file with the bearer token of the private listener.
	TokenFile string `koanf:"token_file"`
	// ReadTokenFile is the file with a read-only token; empty is "read.token" in
	// the directory of TokenFile: see [Config.ReadTokenFile].
	ReadTokenFile string `koanf:"read_token_file"`
	// BaseURL is the external URL of the public listener, for OAuth redirects. If
	// it is empty, pages can't be connected by OAuth.
	BaseURL string `koanf:"base_url"`
	// ShutdownTimeout limits a whole graceful shutdown.
	ShutdownTimeout time.Duration `koanf:"shutdown_timeout"`
}

// Webhook sets the limits of webhook deliveries.
type Webhook struct {
	// MaxBody is the largest accepted body; a larger one is answered 413.
	MaxBody ByteSize `koanf:"max_body"`
	// MaxInflight is how many bytes of bodies may be in memory before they are
	// parsed; above it deliveries are answered 503.
	MaxInflight ByteSize `koanf:"max_inflight"`
	// MaxConnections is the most connections of the public listener, and
	// MaxConnectionsPerAddress the most of one public address; 0 is no limit.
	MaxConnections           int `koanf:"max_connections"`
	MaxConnectionsPerAddress int `koanf:"max_connections_per_address"`
	// Timeout is how long a delivery may take to become durable before the
	// answer is 503. Meta gives up after 5 s.
	Timeout time.Duration `koanf:"timeout"`
	// ReadTimeout limits reading one request.
	ReadTimeout time.Duration `koanf:"read_timeout"`
	// IdleTimeout is after how long an idle connection is closed.
	IdleTimeout time.Duration `koanf:"idle_timeout"`
}

// NATS sets the server that stores the stream.
type NATS struct {
	// URL is one server or several separated by commas; empty is the embedded
	// server.
	URL Servers `koanf:"url"`
	// Name is the name of the connections; empty is "pagestream".
	Name string `koanf:"name"`
	// Creds is a NATS credentials file for URL. NKeyFile is a file with the seed of a user's nkey. UserFile and
	// PasswordFile are files with a user and a password. A server accepts one of the three.
	Creds        string `koanf:"creds"`
	NKeyFile     string `koanf:"nkey_file"`
	UserFile     string `koanf:"user_file"`
	PasswordFile string `koanf:"password_file"`
	// CAFile is a PEM file with the certificates that may sign the servers' certificates; empty is those of the
	// system.
	CAFile string `koanf:"ca_file"`
	// ClientCertFile and ClientKeyFile are the PEM files of the certificate that is shown to the servers.
	ClientCertFile string `koanf:"client_cert_file"`
	ClientKeyFile  string `koanf:"client_key_file"`
	// Domain is the JetStream domain of the streams; empty is that of the servers.
	Domain string `koanf:"domain"`
	// MonitorURLs are the URLs of the servers' monitoring ports, which show how they sync.
	MonitorURLs []string `koanf:"monitor_urls"`
	// AcceptLoss lets deliveries be taken although servers at URL may lose acknowledged events: with fewer than 3
	// copies of the stream, or if it is not known that they sync each event.
	AcceptLoss bool `koanf:"accept_loss"`
	// Replicas is how many copies of each stream a cluster keeps. It counts when a stream is made; a
	// start does not change existing streams.
	Replicas int `koanf:"replicas"`
	// Listen is the address on which the embedded server accepts downstream
	// consumers; empty is none. An address that other machines can reach needs a
	// certificate.
	Listen string `koanf:"listen"`
	// CertFile and KeyFile are the PEM files of the listener's certificate.
	CertFile string `koanf:"cert_file"`
	KeyFile  string `koanf:"key_file"`
}

// Streams sets the stream and how events are written to it.
type Streams struct {
	// Window is JetStream's deduplication window with an external NATS. With the embedded server it is how long
	// a delivery is known to be new while the index of ids is being built again.
	Window time.Duration `koanf:"window"`
	// MaxBytes is the maximum size of the stream, before it is compressed. Shortly before it
	// is reached deliveries are answered 503; old events are never dropped. 0 is unlimited.
	MaxBytes ByteSize `koanf:"max_bytes"`
	// MaxStore is the maximum that the embedded server stores, before it is compressed; 0 is
	// what the disk has room for, less a reserve and what the read models need.
	MaxStore ByteSize `koanf:"max_store"`
	// BatchThreshold is the number of waiting events from which they are written as
	// one batch.
	BatchThreshold int `koanf:"batch_threshold"`
	// MaxBatch is the maximum number of events in a batch; JetStream allows 1000.
	MaxBatch int `koanf:"max_batch"`
	// QueueLimit is the maximum number of events that may wait to be written; above
	// it deliveries are answered 503.
	QueueLimit int `koanf:"queue_limit"`
}

// Projections sets the read models.
type Projections struct {
	// Dir contains one file per projection. Empty is "projections" in data.dir;
	// [Load] sets that.
	Dir string `koanf:"dir"`
	// MaxBatch is the maximum number of events applied in one transaction.
	MaxBatch int `koanf:"max_batch"`
	// MaxLag is how far a projection may be behind before readiness fails.
	MaxLag time.Duration `koanf:"max_lag"`
}

// Reconcile sets how often the state at Meta is compared with the wanted state.
type Reconcile struct {
	// Interval is how often each page's subscription is read and, if it differs
	// from the wanted one, set again; 0 turns this off.
	Interval time.Duration `koanf:"interval"`
	// TokenInterval is how often Meta is asked whether each page's token is valid.
	TokenInterval time.Duration `koanf:"token_interval"`
}

// Profiles sets how the names and pictures of contacts are read.
type Profiles struct {
	// MaxAge is after how long a contact's profile is read again; 0 reads none.
	MaxAge time.Duration `koanf:"max_age"`
}

// Leads sets what is done with leads, the forms of lead ads that people submit.
type Leads struct {
	// Retrieve reads the answers of each lead from Graph and stores them. It needs the
	// permission leads_retrieval.
	Retrieve bool `koanf:"retrieve"`
}

// Hooks sets the signed webhooks that are sent to other systems.
type Hooks struct {
	// File is a YAML file with a list of endpoints; empty sends none.
	File string `koanf:"file"`
	// GiveUpAfter is how long sending an event is retried before it becomes a dead
	// letter of its endpoint.
	GiveUpAfter time.Duration `koanf:"give_up_after"`
}

// Log formats.
const (
	LogText = "text"
	LogJSON = "json"
)

// Log sets the log on stderr.
type Log struct {
	// Level is debug, info, warn or error.
	Level string `koanf:"level"`
	// Format is [LogText] or [LogJSON].
	Format string `koanf:"format"`
}

// App is one Meta app.
type App struct {
	// Name is the app's name in our URLs (`/webhooks/<name>`) and events.
	Name string `koanf:"name"`
	// ID is Meta's app id. It is needed to connect pages.
	ID string `koanf:"id"`
	// Secrets are the app secrets whose signatures are accepted: one, or the old
	// and the new one during a change. [Load] appends those of SecretFiles.
	Secrets []Secret `koanf:"secrets"`
	// SecretFiles are files with one secret each.
	SecretFiles []string `koanf:"secret_files"`
	// VerifyToken is the token that Meta must send in the GET handshake. [Load]
	// sets it from VerifyTokenFile.
	VerifyToken Secret `koanf:"verify_token"`
	// VerifyTokenFile is a file with the verify token.
	VerifyTokenFile string `koanf:"verify_token_file"`
	// GraphVersion is the version of the Graph API, such as v26.0.
	GraphVersion string `koanf:"graph_version"`
	// GraphURL is the base URL of the Graph API.
	GraphURL string `koanf:"graph_url"`
	// LoginURL is the base URL of the login dialog.
	LoginURL string `koanf:"login_url"`
	// LoginConfigID is a configuration of Facebook Login for Business. If it is
	// set, it defines the permissions and LoginScopes is not used.
	LoginConfigID string `koanf:"login_config_id"`
	// LoginScopes are the permissions that the login dialog requests; empty is
	// those that pages on Messenger need.
	LoginScopes []string `koanf:"login_scopes"`
}

// Defaults of the settings of an [App].
const (
	DefaultAppName      = "main"
	DefaultGraphVersion = "v26.0"
	DefaultGraphURL     = "https://graph.facebook.com"
	DefaultLoginURL     = "https://www.facebook.com"
)

// Default returns the default settings, without an app. They are valid unless the
// user has no configuration directory: then keys.file and http.token_file are
// empty and must be set.
func Default() Config {
	return Config{
		Data: Data{Dir: "data"},
		Keys: Keys{File: userFile("keys.json")},
		HTTP: HTTP{
			Public:          ":8080",
			Private:         "127.0.0.1:8081",
			PrivateHosts:    []string{},
			TokenFile:       userFile("admin.token"),
			ShutdownTimeout: 20 * time.Second,
		},
		Webhook: Webhook{
			MaxBody:                  8 * MiB,
			MaxInflight:              64 * MiB,
			MaxConnections:           2048,
			MaxConnectionsPerAddress: 256,
			Timeout:                  4 * time.Second,
			ReadTimeout:              10 * time.Second,
			IdleTimeout:              2 * time.Minute,
		},
		NATS: NATS{Replicas: 1, MonitorURLs: []string{}},
		Streams: Streams{
			Window:         10 * time.Minute,
			BatchThreshold: 16,
			MaxBatch:       1000,
			QueueLimit:     20_000,
		},
		Projections: Projections{MaxBatch: 4096, MaxLag: 30 * time.Second},
		Reconcile:   Reconcile{Interval: 10 * time.Minute, TokenInterval: 6 * time.Hour},
		Profiles:    Profiles{MaxAge: 30 * 24 * time.Hour},
		Leads:       Leads{Retrieve: true},
		Hooks:       Hooks{GiveUpAfter: 24 * time.Hour},
		Log:         Log{Level: "info", Format: LogText},
	}
}

// ReadTokenFile returns http.read_token_file, or its default "read.token" in the
// directory of http.token_file.
func (c Config) ReadTokenFile() string {
	return cmp.Or(c.HTTP.ReadTokenFile, filepath.Join(filepath.Dir(c.HTTP.TokenFile), "read.token"))
}

// ErasuresFile returns erasures.file, or its default "erasures.log" in the directory of
// keys.file.
func (c Config) ErasuresFile() string {
	return cmp.Or(c.Erasures.File, filepath.Join(filepath.Dir(c.Keys.File), "erasures.log"))
}

// ProjectionsDir returns projections.dir, or its default "projections" in
// data.dir.
func (c Config) ProjectionsDir() string {
	return cmp.Or(c.Projections.Dir, filepath.Join(c.Data.Dir, "projections"))
}

// userFile returns the path of a file in the user's configuration directory, or ""
// if there is none (neither XDG_CONFIG_HOME nor HOME is set).
func userFile(name string) string {
	dir, err := os.UserConfigDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "pagestream", name)
}
