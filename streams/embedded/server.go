// Package embedded runs a nats-server with JetStream inside the process. It is the only package that
// imports nats-server outside tests.
//
// It runs one node; several machines need an external NATS cluster. The server listens on no address
// unless Options.Listen is set, and then accepts only the users of [Server.SetUser]. [Server.Connect]
// returns an in-process connection.
package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/pagestream/pagestream/internal/disk"
)

// SyncMode says when the server syncs an event to disk.
type SyncMode string

// The modes. With SyncAlways an acknowledged event survives a power failure. With SyncInterval the
// acknowledged events of up to one interval may be lost then. In both modes they survive a crash of the
// process.
const (
	SyncAlways   SyncMode = "always"
	SyncInterval SyncMode = "interval"
)

// Errors of starting the server.
var (
	// ErrSyncMode is returned when Options.Sync is neither SyncAlways nor SyncInterval.
	ErrSyncMode = errors.New(`unknown sync mode; write "always" or "interval"`)
	// ErrInUse is returned when another process uses the directory.
	ErrInUse = errors.New("data directory is in use by another pagestream")
	// ErrNotReady is returned when the server did not start in time, or does not run.
	ErrNotReady = errors.New("server is not ready")
)

// Errors of a running server. It stores nothing until [Server.Restart].
var (
	// ErrJetStreamOff is returned when JetStream has turned itself off, as it does when the disk is full.
	ErrJetStreamOff = errors.New("JetStream has turned itself off; see that the disk has room")
	// ErrWrite is returned when a stream could not be written, as on a full disk. The server keeps the
	// error and answers no further publishes to that stream.
	ErrWrite = errors.New("the stream could not be written; see that the disk has room")
	// ErrOutgrown is returned when the disk has more room than when the server set its default limit.
	ErrOutgrown = errors.New("the disk has room for more than the server stores")
)

// Defaults of [Options].
const (
	DefaultSyncInterval = time.Second
	DefaultMaxPayload   = 32 << 20
	DefaultPingInterval = 20 * time.Second
)

const (
	// readyTimeout bounds the start. It is long, since the server reads back a large dedup window.
	readyTimeout = 2 * time.Minute
	// stopTimeout bounds the stop of a server that did not start.
	stopTimeout = 10 * time.Second
	// maxPending is how many bytes may wait to be sent to one connection before the server closes it.
	// It must be more than a subscriber requests at once, which is at least twice the largest event.
	maxPending = 256 << 20
	// maxMemory bounds memory storage, which only consumers use; the stream is on disk.
	maxMemory = 64 << 20
	// reserve is how many bytes are left free, for the ledger and what else is small: these, or a twentieth
	// of the total if that is more.
	reserve = 256 << 20
	// ratioFrom is from how many stored bytes on their compression says what that of others will be.
	ratioFrom = 64 << 20
	// storeUnknown is the limit of the store if the free space is not known.
	storeUnknown = 1 << 40
)

// Options configure a [Server]. Dir is required.
type Options struct {
	// Dir is where the server keeps its files.
	Dir string
	// Sync is SyncAlways by default. SyncInterval is the interval of that mode, by default 1 s.
	Sync         SyncMode
	SyncInterval time.Duration
	// MaxStore bounds what the server stores, in bytes. When it is reached, publishes fail and
	// everything else goes on, whereas a full disk breaks the stream until the server is started again.
	// It is counted before compression. 0 means what is already stored, plus what the disk's free space
	// at the start has room for, less a reserve and what the read models need.
	MaxStore int64
	// ReadModels is the directory of files that grow with the stream to half of its size, empty if there
	// are none. If it is on the same disk, the default of MaxStore leaves room for them.
	ReadModels string
	// MaxPayload is the size of the largest event, in bytes, by default 32 MiB. It must be at least
	// twice the largest body of a delivery, since an event may contain it as text and as raw item.
	MaxPayload int32
	// Listen is the address for the users of SetUser, such as "127.0.0.1:4222". If it is empty the
	// server does not listen. An address that is not loopback needs TLS.
	Listen string
	// CertFile and KeyFile are the PEM files of the listener's certificate.
	CertFile, KeyFile string
	// Prepare, if not nil, is called before the server reads its files, when no other process can use the directory.
	Prepare func() error
	// PingInterval is how often a connection is pinged, by default 20 s. One that leaves two pings
	// unanswered is closed.
	PingInterval time.Duration
	// Logger discards everything by default.
	Logger *slog.Logger
}

// Server is a running server. Its methods are safe for concurrent use.
type Server struct {
	opts  Options
	lock  *os.File
	users *users // nil if the server does not listen

	ns         atomic.Pointer[server.Server]
	unreadable atomic.Bool // see Unreadable
	// change is held while the server is stopped or started again.
	change  sync.Mutex
	stopped bool
}

// Start starts the server and waits until it is ready. The caller must call Shutdown. Its errors include
// [ErrSyncMode], [ErrInUse], [ErrNotReady], [ErrJetStreamOff] and [ErrNeedsTLS].
func Start(ctx context.Context, o Options) (*Server, error) {
	o.Sync = cmp.Or(o.Sync, SyncAlways)
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	if o.Sync != SyncAlways && o.Sync != SyncInterval {
		return nil, fmt.Errorf("sync %q: %w", o.Sync, ErrSyncMode)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("start server: %w", err)
	}
	users, err := o.newUsers()
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w", o.Listen, err)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(o.Dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: open lock: %w", o.Dir, err)
	}
	if err := takeLock(lock); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", o.Dir, err), lock.Close())
	}
	s := &Server{opts: o, lock: lock, users: users}
	if o.Prepare != nil {
		err = o.Prepare()
	}
	if err == nil {
		err = s.run(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, s.Shutdown(context.WithoutCancel(ctx)))
	}
	if users != nil {
		if err := users.listen(s.InProcessConn, o.Listen, o.Logger); err != nil {
			err = fmt.Errorf("listen on %q: %w", o.Listen, err)
			return nil, errors.Join(err, s.Shutdown(context.WithoutCancel(ctx)))
		}
	}
	return s, nil
}

// serverOptions returns the options of nats-server.
func (s *Server) serverOptions() *server.Options {
	o := s.opts
	opts := &server.Options{
		ServerName:             "pagestream",
		DontListen:             true,
		NoSigs:                 true, // the program handles signals
		NoLog:                  true,
		DisableJetStreamBanner: true,
		JetStream:              true,
		StoreDir:               o.Dir,
		SyncAlways:             o.Sync == SyncAlways,
		SyncInterval:           cmp.Or(max(o.SyncInterval, 0), DefaultSyncInterval),
		JetStreamMaxMemory:     maxMemory,
		JetStreamMaxStore:      o.MaxStore,
		MaxPayload:             cmp.Or(max(o.MaxPayload, 0), DefaultMaxPayload),
		MaxPending:             maxPending,
		PingInterval:           cmp.Or(max(o.PingInterval, 0), DefaultPingInterval),
		MaxPingsOut:            2,
	}
	if o.MaxStore <= 0 {
		opts.JetStreamMaxStore = o.storeLimit()
	}
	if s.users != nil {
		opts.CustomClientAuthentication, opts.AlwaysEnableNonce = s.users, true
		opts.AuthTimeout = authTimeout.Seconds()
	}
	return opts
}

// run starts a nats-server, waits until it is ready, and makes it the one that connections are made to. A
// server that does not become ready is stopped.
func (s *Server) run(ctx context.Context) error {
	ns, err := server.NewServer(s.serverOptions())
	if err != nil {
		return fmt.Errorf("make server: %w", err)
	}
	log := &logger{log: s.opts.Logger, unreadable: &s.unreadable}
	ns.SetLoggerV2(log, false, false, false)
	go ns.Start()
	err = awaitReady(ctx, ns, log)
	if err == nil {
		err = s.use(ns)
	}
	if err != nil {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		return errors.Join(err, stop(stopping, ns))
	}
	return nil
}

// use makes a server the one that connections are made to, and gives it the users.
func (s *Server) use(ns *server.Server) error {
	if s.users == nil {
		s.ns.Store(ns)
		return nil
	}
	s.users.mu.Lock()
	defer s.users.mu.Unlock()
	for key, user := range s.users.byKey {
		account, err := user.register(ns)
		if err != nil {
			return err
		}
		s.users.byKey[key] = registered{User: user.User, account: account}
	}
	s.ns.Store(ns)
	return nil
}

func awaitReady(ctx context.Context, ns *server.Server, log *logger) error {
	deadline := time.Now().Add(readyTimeout)
	for !ns.ReadyForConnections(50 * time.Millisecond) {
		switch {
		case log.fatal.Load() != nil:
			return fmt.Errorf("%w: %s", ErrNotReady, *log.fatal.Load())
		case ctx.Err() != nil:
			return fmt.Errorf("wait for server: %w", ctx.Err())
		case time.Now().After(deadline):
			return fmt.Errorf("%w after %s", ErrNotReady, readyTimeout)
		}
	}
	if err := healthy(ns); err != nil {
		return fmt.Errorf("start JetStream: %w", err)
	}
	return nil
}

// Connect returns a new in-process connection, which the caller must close. It is lost when the server is
// started again, and reconnects.
func (s *Server) Connect(name string, opts ...nats.Option) (*nats.Conn, error) {
	opts = append([]nats.Option{
		nats.Name(name), nats.InProcessServer(s),
		nats.MaxReconnects(-1), nats.ReconnectWait(100 * time.Millisecond),
	}, opts...)
	if s.users != nil {
		opts = append(opts, nats.UserInfo(processUser, s.users.password))
	}
	nc, err := nats.Connect("", opts...)
	if err != nil {
		return nil, fmt.Errorf("connect in process: %w", err)
	}
	return nc, nil
}

// InProcessConn implements [nats.InProcessConnProvider]. It fails while the server is started again.
func (s *Server) InProcessConn() (net.Conn, error) {
	c, err := s.ns.Load().InProcessConn()
	if err != nil {
		return nil, fmt.Errorf("connect in process: %w", err)
	}
	return c, nil
}

// Healthy returns nil while events can be stored, as far as the server knows, else [ErrNotReady] or
// [ErrJetStreamOff]. It is cheap enough to be called every second.
func (s *Server) Healthy() error { return healthy(s.ns.Load()) }

func healthy(ns *server.Server) error {
	switch {
	case !ns.Running():
		return ErrNotReady
	case !ns.JetStreamEnabled():
		return ErrJetStreamOff
	}
	return nil
}

// WriteErrors returns [ErrWrite] for each stream that the server has stopped writing to. It is cheap enough
// to be called every second.
func (s *Server) WriteErrors() map[string]error {
	out := map[string]error{}
	// Of the details only failed writes are used. The server's check of its connections has a timeout of a
	// millisecond and so fails on a busy machine; the streams are listed the next time then. And a stream that
	// is just being created looks to it like one that could not be recovered.
	for _, e := range s.ns.Load().Healthz(&server.HealthzOptions{Details: true}).Errors {
		if e.Type == server.HealthzErrorStream && strings.Contains(e.Error, " write error: ") {
			out[e.Stream] = fmt.Errorf("%w: %s", ErrWrite, e.Error)
		}
	}
	return out
}

// MaxStore returns how many bytes the server may store: [Options].MaxStore, or its default as of the last
// start.
func (s *Server) MaxStore() int64 {
	if config := s.ns.Load().JetStreamConfig(); config != nil {
		return config.MaxStore
	}
	return 0
}

// Outgrown returns [ErrOutgrown] if a restart would raise the default of MaxStore by a tenth or more. It reads
// the sizes of all files.
func (s *Server) Outgrown() error {
	if limit := s.MaxStore(); s.opts.MaxStore <= 0 && limit > 0 && s.opts.storeLimit()-limit > limit/10 {
		return ErrOutgrown
	}
	return nil
}

// Restart stops the server inside of the process and starts it again on the same files. That ends
// [ErrJetStreamOff] and [ErrWrite], if the disk can be written. What was acknowledged is kept, and so are
// the users and the address. Connections are lost and reconnect by themselves, if their client does so.
//
// After an error the server does not run, and Restart can be called again. [ErrNotReady] is returned after
// Shutdown.
func (s *Server) Restart(ctx context.Context) error {
	return s.RestartAfter(ctx, func() error { return nil })
}

// RestartAfter does what Restart does, and calls change while the server is stopped. If change fails, its error is
// returned after the server was started again.
func (s *Server) RestartAfter(ctx context.Context, change func() error) error {
	s.change.Lock()
	defer s.change.Unlock()
	if s.stopped {
		return fmt.Errorf("start server again: %w", ErrNotReady)
	}
	if err := stop(ctx, s.ns.Load()); err != nil {
		return err
	}
	return errors.Join(change(), s.run(ctx))
}

// Unreadable reports whether the server has failed to read a message since the last call, as it does with a block that
// is damaged and compressed: who reads the stream waits there.
func (s *Server) Unreadable() bool { return s.unreadable.Swap(false) }

// stop stops a server. It is idempotent.
func stop(ctx context.Context, ns *server.Server) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		ns.Shutdown()
		ns.WaitForShutdown()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop server: %w", ctx.Err())
	}
}

// Shutdown stops the server and releases its directory. The caller must close connections first; lame
// duck mode would do nothing for them, since they are in-process. It waits for a Restart that is running.
// It is idempotent.
func (s *Server) Shutdown(ctx context.Context) error {
	s.change.Lock()
	defer s.change.Unlock()
	s.stopped = true
	if s.users != nil && s.users.listener != nil {
		s.users.listener.close()
	}
	if ns := s.ns.Load(); ns != nil {
		if err := stop(ctx, ns); err != nil {
			return err
		}
	}
	if err := releaseLock(s.lock); err != nil {
		return fmt.Errorf("unlock data directory: %w", err)
	}
	if err := s.lock.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("unlock data directory: %w", err)
	}
	return nil
}

// storeLimit returns how many bytes the server may store in o.Dir, counted before compression as the server does: what
// is there, plus what the free space of the disk less the reserve has room for. If the read models are on the same disk,
// they have half of what the stream has.
func (o Options) storeLimit() int64 {
	space, err := disk.Of(o.Dir)
	if err != nil {
		return storeUnknown
	}
	used, stored := storedIn(o.Dir)
	share := 1.0 // of the disk that a stored byte takes
	if stored >= ratioFrom {
		share = min(1, float64(used)/float64(stored))
	}
	total, free := space.Free+used, space.Free
	if o.ReadModels != "" {
		if models, err := disk.Of(o.ReadModels); err == nil && models.Same(space) {
			have := disk.Used(o.ReadModels)
			share, total = share+0.5, total+have
			free -= max(0, stored/2-have)
		}
	}
	free -= min(total/2, max(reserve, total/20))
	return max(1, stored+int64(float64(max(0, free))/share))
}

// logger adapts slog to the server's logger. It logs the server's notices at debug level: they are about
// its start and stop.
type logger struct {
	log *slog.Logger
	// fatal is the first fatal error. The server stops starting then, and reports it only here.
	fatal atomic.Pointer[string]
	// unreadable is set when a message can't be read, which is reported only here, too.
	unreadable *atomic.Bool
}

func (l *logger) Fatalf(format string, v ...any) {
	text := line(format, v)
	l.fatal.CompareAndSwap(nil, &text)
	l.log.Error(text)
}

// Warnf logs the server's warnings, except the one about a large maximum payload, which is intended.
func (l *logger) Warnf(format string, v ...any) {
	if strings.HasPrefix(format, "Maximum payloads over") {
		l.log.Debug(line(format, v))
		return
	}
	l.log.Warn(line(format, v))
}

func (l *logger) Noticef(format string, v ...any) { l.log.Debug(line(format, v)) }
func (l *logger) Errorf(format string, v ...any) {
	if strings.HasPrefix(format, "Received an error looking up message") {
		l.unreadable.Store(true)
	}
	l.log.Error(line(format, v))
}
func (l *logger) Debugf(format string, v ...any) { l.log.Debug(line(format, v)) }
func (l *logger) Tracef(format string, v ...any) { l.log.Debug(line(format, v)) }

func line(format string, v []any) string { return strings.TrimSpace(fmt.Sprintf(format, v...)) }
