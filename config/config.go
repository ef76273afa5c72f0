// Package config holds the settings of the pagestream command: their defaults,
// where they are read from, what makes them valid, and how they are shown.
//
// Settings come from a YAML file, then the environment, then flags; what comes
// later wins. The documented list is [Example]. Only internal/server, dev and cli
// import this package: every other package has small Options of its own.
package config

import (
	"cmp"
	"os"
	"path/filepath"
	"time"
)

// Config is every setting. The order of its fields is the order of the
// documentation.
type Config struct {
	Data        Data        `koanf:"data"`
	Keys        Keys        `koanf:"keys"`
	HTTP        HTTP        `koanf:"http"`
	Webhook     Webhook     `koanf:"webhook"`
	NATS        NATS        `koanf:"nats"`
	Streams     Streams     `koanf:"streams"`
	Projections Projections `koanf:"projections"`
	Reconcile   Reconcile   `koanf:"reconcile"`
	Profiles    Profiles    `koanf:"profiles"`
	Hooks       Hooks       `koanf:"hooks"`
	Log         Log         `koanf:"log"`
	// Apps are the Meta apps that deliver to us; `/webhooks` is the first one's.
	Apps []App `koanf:"apps"`
}

// Data says where state lives on disk.
type Data struct {
	// Dir holds the embedded server's stream and, unless projections.dir says
	// otherwise, the read models. A relative path is relative to where the
	// process was started.
	Dir string `koanf:"dir"`
}

// Keys says where the key ring is that seals page tokens.
type Keys struct {
	// File is best kept outside data.dir, so that a copy of the data alone does
	// not open the tokens in it.
	File string `koanf:"file"`
}

// HTTP sets the two listeners.
type HTTP struct {
	// Public is the address that Meta and people's browsers reach, usually
	// through a reverse proxy that ends TLS.
	Public string `koanf:"public"`
	// Private is the address of the API, the console and the metrics.
	Private string `koanf:"private"`
	// TokenFile holds the bearer token of the private listener.
	TokenFile string `koanf:"token_file"`
	// ReadTokenFile holds a token that only reads; empty is "read.token" beside
	// TokenFile: see [Config.ReadTokenFile].
	ReadTokenFile string `koanf:"read_token_file"`
	// BaseURL is the public listener as the outside sees it, for OAuth
	// redirects. Empty where pages are never connected by OAuth.
	BaseURL string `koanf:"base_url"`
	// ShutdownTimeout bounds the whole of an orderly stop.
	ShutdownTimeout time.Duration `koanf:"shutdown_timeout"`
}

// Webhook bounds one delivery.
type Webhook struct {
	// MaxBody is the largest body accepted; above it the answer is 413.
	MaxBody ByteSize `koanf:"max_body"`
	// Timeout is how long a delivery may take to become durable before the
	// answer is 503. Meta gives up after 5 s.
	Timeout time.Duration `koanf:"timeout"`
	// ReadTimeout bounds the reading of one request.
	ReadTimeout time.Duration `koanf:"read_timeout"`
	// IdleTimeout closes a kept-alive connection that says nothing.
	IdleTimeout time.Duration `koanf:"idle_timeout"`
}

// NATS says which server holds the stream.
type NATS struct {
	// URL is one server or several separated by commas; empty embeds one.
	URL Servers `koanf:"url"`
	// Creds is a NATS credentials file for URL.
	Creds string `koanf:"creds"`
	// Replicas is how many copies of the stream a cluster keeps.
	Replicas int `koanf:"replicas"`
	// Listen is where the embedded server listens for downstream consumers; empty
	// is nowhere. An address that others reach needs a certificate.
	Listen string `koanf:"listen"`
	// CertFile and KeyFile are the PEM files of the listener's certificate.
	CertFile string `koanf:"cert_file"`
	KeyFile  string `koanf:"key_file"`
}

// Sync modes of the embedded server.
const (
	SyncAlways   = "always"
	SyncInterval = "interval"
)

// Streams sets the stream and how events are written to it.
type Streams struct {
	// Sync is [SyncAlways] or [SyncInterval]; the embedded server's only.
	Sync string `koanf:"sync"`
	// SyncInterval is how much acknowledged traffic a power cut may cost when
	// Sync is [SyncInterval].
	SyncInterval time.Duration `koanf:"sync_interval"`
	// Window is how long JetStream itself remembers a dedup id.
	Window time.Duration `koanf:"window"`
	// MaxBytes bounds the stream: a full one refuses new events, which are then
	// answered 503, and never drops old ones. 0 is unlimited.
	MaxBytes ByteSize `koanf:"max_bytes"`
	// MaxStore bounds what the embedded server may write to disk; 0 is
	// unlimited.
	MaxStore ByteSize `koanf:"max_store"`
	// BatchThreshold is from how many waiting events they go as one batch.
	BatchThreshold int `koanf:"batch_threshold"`
	// MaxBatch is the most events in one batch; JetStream allows 1000.
	MaxBatch int `koanf:"max_batch"`
	// QueueLimit is the most events that may wait to be written; above it
	// deliveries are answered 503.
	QueueLimit int `koanf:"queue_limit"`
}

// Projections sets the read models.
type Projections struct {
	// Dir holds one file a projection; empty is "projections" in data.dir, and
	// [Load] fills that in.
	Dir string `koanf:"dir"`
	// MaxBatch is the most events applied in one transaction.
	MaxBatch int `koanf:"max_batch"`
	// MaxLag is how far a projection may be behind before readiness fails.
	MaxLag time.Duration `koanf:"max_lag"`
}

// Reconcile sets how often what Meta does is held against what is wanted.
type Reconcile struct {
	// Interval is how often each page's subscription is read and, where it
	// differs, set again; 0 turns the loop off.
	Interval time.Duration `koanf:"interval"`
	// TokenInterval is how often each page's token is asked about.
	TokenInterval time.Duration `koanf:"token_interval"`
}

// Profiles sets the names and pictures of contacts.
type Profiles struct {
	// MaxAge is when a contact's profile is read again; 0 reads none.
	MaxAge time.Duration `koanf:"max_age"`
}

// Hooks sets the signed webhooks that we send to others.
type Hooks struct {
	// File is a YAML file with a list of endpoints; empty sends none.
	File string `koanf:"file"`
	// GiveUpAfter is how long an event is tried before it is a dead letter of its
	// endpoint.
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
	// Name is the app's in our URLs and events: `/webhooks/<name>`.
	Name string `koanf:"name"`
	// ID is Meta's app id, needed to connect pages.
	ID string `koanf:"id"`
	// Secrets are the app secrets that a signature may be made with: one, or
	// the old and the new while they are being changed. [Load] appends those of
	// SecretFiles.
	Secrets []Secret `koanf:"secrets"`
	// SecretFiles are files with one secret each.
	SecretFiles []string `koanf:"secret_files"`
	// VerifyToken is what Meta must say in the GET handshake. [Load] fills it
	// in from VerifyTokenFile.
	VerifyToken Secret `koanf:"verify_token"`
	// VerifyTokenFile is a file with the verify token.
	VerifyTokenFile string `koanf:"verify_token_file"`
	// GraphVersion is the version of the Graph API, such as v23.0.
	GraphVersion string `koanf:"graph_version"`
	// GraphURL is where the Graph API is.
	GraphURL string `koanf:"graph_url"`
	// LoginURL is where the login dialog is.
	LoginURL string `koanf:"login_url"`
	// LoginConfigID is a configuration of Facebook Login for Business; then it
	// has the permissions, and LoginScopes are not asked for.
	LoginConfigID string `koanf:"login_config_id"`
	// LoginScopes are the permissions that the login dialog asks for; empty is
	// what pages on Messenger need.
	LoginScopes []string `koanf:"login_scopes"`
}

// Defaults of an app's own settings.
const (
	DefaultAppName      = "main"
	DefaultGraphVersion = "v23.0"
	DefaultGraphURL     = "https://graph.facebook.com"
	DefaultLoginURL     = "https://www.facebook.com"
)

// Default returns the settings in force where nothing else is said. It has no
// app, and it is valid unless the user has no configuration directory: then
// keys.file and http.token_file are empty and must be set.
func Default() Config {
	return Config{
		Data: Data{Dir: "data"},
		Keys: Keys{File: userFile("keys.json")},
		HTTP: HTTP{
			Public:          ":8080",
			Private:         "127.0.0.1:8081",
			TokenFile:       userFile("admin.token"),
			ShutdownTimeout: 20 * time.Second,
		},
		Webhook: Webhook{
			MaxBody:     8 * MiB,
			Timeout:     4 * time.Second,
			ReadTimeout: 10 * time.Second,
			IdleTimeout: 2 * time.Minute,
		},
		NATS: NATS{Replicas: 1},
		Streams: Streams{
			Sync:           SyncAlways,
			SyncInterval:   time.Second,
			Window:         10 * time.Minute,
			BatchThreshold: 16,
			MaxBatch:       1000,
			QueueLimit:     20_000,
		},
		Projections: Projections{MaxBatch: 4096, MaxLag: 30 * time.Second},
		Reconcile:   Reconcile{Interval: 10 * time.Minute, TokenInterval: 6 * time.Hour},
		Profiles:    Profiles{MaxAge: 30 * 24 * time.Hour},
		Hooks:       Hooks{GiveUpAfter: 24 * time.Hour},
		Log:         Log{Level: "info", Format: LogText},
	}
}

// ReadTokenFile returns http.read_token_file, or its default beside
// http.token_file.
func (c Config) ReadTokenFile() string {
	return cmp.Or(c.HTTP.ReadTokenFile, filepath.Join(filepath.Dir(c.HTTP.TokenFile), "read.token"))
}

// ProjectionsDir returns projections.dir, or its default within data.dir.
func (c Config) ProjectionsDir() string {
	return cmp.Or(c.Projections.Dir, filepath.Join(c.Data.Dir, "projections"))
}

// userFile returns a file in the user's configuration directory, or "" where
// there is none (neither XDG_CONFIG_HOME nor HOME is set).
func userFile(name string) string {
	dir, err := os.UserConfigDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "pagestream", name)
}
