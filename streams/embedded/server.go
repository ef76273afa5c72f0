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
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
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

// ErrJetStreamOff is returned when JetStream has turned itself off, as it does when the disk is full.
// Nothing can be stored until the process is restarted.
var ErrJetStreamOff = errors.New("JetStream is off; free disk space and restart")

// Defaults of [Options].
const (
	DefaultSyncInterval = time.Second
	DefaultMaxPayload   = 32 << 20
	DefaultPingInterval = 20 * time.Second
)

const (
	// readyTimeout bounds the start. It is long, since the server reads back a large dedup window.
	readyTimeout = 2 * time.Minute
	// maxPending is how many bytes may wait to be sent to one connection before the server closes it.
	// It must be more than a subscriber requests at once, which is at least twice the largest event.
	maxPending = 256 << 20
	// maxMemory bounds memory storage, which only consumers use; the stream is on disk.
	maxMemory = 64 << 20
	// reserve is how many bytes are left free: these, or a twentieth of the total if that is more.
	reserve = 256 << 20
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
	// everything else goes on, whereas JetStream turns itself off on a full disk. 0 means the disk's
	// free space at the start, plus what is already stored, less a reserve.
	MaxStore int64
	// MaxPayload is the size of the largest event, in bytes, by default 32 MiB. It must be at least
	// twice the largest body of a delivery, since an event may contain it as text and as raw item.
	MaxPayload int32
	// Listen is the address for the users of SetUser, such as "127.0.0.1:4222". If it is empty the
	// server does not listen. An address that is not loopback needs TLS.
	Listen string
	// CertFile and KeyFile are the PEM files of the listener's certificate.
	CertFile, KeyFile string
	// PingInterval is how often a connection is pinged, by default 20 s. One that leaves two pings
	// unanswered is closed.
	PingInterval time.Duration
	// Logger discards everything by default.
	Logger *slog.Logger
}

// Server is a running server.
type Server struct {
	ns    *server.Server
	log   *logger
	lock  *os.File
	users *users // nil if the server does not listen
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
		MaxPayload:             cmp.Or(max(o.MaxPayload, 0), DefaultMaxPayload),
		MaxPending:             maxPending,
		PingInterval:           cmp.Or(max(o.PingInterval, 0), DefaultPingInterval),
		MaxPingsOut:            2,
	}
	users, err := o.newUsers(opts)
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
	opts.JetStreamMaxStore = o.MaxStore
	if o.MaxStore <= 0 {
		opts.JetStreamMaxStore = storeLimit(o.Dir)
	}
	ns, err := server.NewServer(opts)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make server: %w", err), lock.Close())
	}
	s := &Server{ns: ns, log: &logger{log: o.Logger}, lock: lock, users: users}
	ns.SetLoggerV2(s.log, false, false, false)
	go ns.Start()
	if err := s.awaitReady(ctx); err != nil {
		return nil, errors.Join(err, s.Shutdown(context.WithoutCancel(ctx)))
	}
	if users != nil {
		if err := users.listen(ns, o.Listen, o.Logger); err != nil {
			err = fmt.Errorf("listen on %q: %w", o.Listen, err)
			return nil, errors.Join(err, s.Shutdown(context.WithoutCancel(ctx)))
		}
	}
	return s, nil
}

func (s *Server) awaitReady(ctx context.Context) error {
	deadline := time.Now().Add(readyTimeout)
	for !s.ns.ReadyForConnections(50 * time.Millisecond) {
		switch {
		case s.log.fatal.Load() != nil:
			return fmt.Errorf("%w: %s", ErrNotReady, *s.log.fatal.Load())
		case ctx.Err() != nil:
			return fmt.Errorf("wait for server: %w", ctx.Err())
		case time.Now().After(deadline):
			return fmt.Errorf("%w after %s", ErrNotReady, readyTimeout)
		}
	}
	if err := s.Healthy(); err != nil {
		return fmt.Errorf("start JetStream: %w", err)
	}
	return nil
}

// Connect returns a new in-process connection, which the caller must close.
func (s *Server) Connect(name string, opts ...nats.Option) (*nats.Conn, error) {
	opts = append([]nats.Option{
		nats.Name(name), nats.InProcessServer(s.ns),
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

// InProcessConn implements [nats.InProcessConnProvider], which lets a connection reconnect to another
// server.
func (s *Server) InProcessConn() (net.Conn, error) {
	c, err := s.ns.InProcessConn()
	if err != nil {
		return nil, fmt.Errorf("connect in process: %w", err)
	}
	return c, nil
}

// Healthy returns nil while events can be stored, as far as the server knows, else [ErrNotReady] or
// [ErrJetStreamOff]. It is cheap enough to be called every second. It does not use the server's own
// Healthz, which has a timeout of a millisecond and so fails on a busy machine.
func (s *Server) Healthy() error {
	switch {
	case !s.ns.Running():
		return ErrNotReady
	case !s.ns.JetStreamEnabled():
		return ErrJetStreamOff
	}
	return nil
}

// Shutdown stops the server and releases its directory. The caller must close connections first; lame
// duck mode would do nothing for them, since they are in-process. It is idempotent.
func (s *Server) Shutdown(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if s.users != nil && s.users.listener != nil {
			s.users.listener.close()
		}
		s.ns.Shutdown()
		s.ns.WaitForShutdown()
	}()
	select {
	case <-done:
	case <-ctx.Done():
		return fmt.Errorf("stop server: %w", ctx.Err())
	}
	if err := releaseLock(s.lock); err != nil {
		return fmt.Errorf("unlock data directory: %w", err)
	}
	if err := s.lock.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("unlock data directory: %w", err)
	}
	return nil
}

// storeLimit returns how many bytes the server may store in dir: what is there, plus the free space of
// the disk, less the reserve.
func storeLimit(dir string) int64 {
	free, err := freeSpace(dir)
	if err != nil {
		return storeUnknown
	}
	total := free
	// A file that can't be counted makes the limit too small, never too large.
	_ = filepath.WalkDir(dir, func(_ string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return nil //nolint:nilerr // see above
		}
		if info, err := e.Info(); err == nil {
			total += info.Size()
		}
		return nil
	})
	return max(1, total-min(total/2, max(reserve, total/20)))
}

// logger adapts slog to the server's logger. It logs the server's notices at debug level: they are about
// its start and stop.
type logger struct {
	log *slog.Logger
	// fatal is the first fatal error. The server stops starting then, and reports it only here.
	fatal atomic.Pointer[string]
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
func (l *logger) Errorf(format string, v ...any)  { l.log.Error(line(format, v)) }
func (l *logger) Debugf(format string, v ...any)  { l.log.Debug(line(format, v)) }
func (l *logger) Tracef(format string, v ...any)  { l.log.Debug(line(format, v)) }

func line(format string, v []any) string { return strings.TrimSpace(fmt.Sprintf(format, v...)) }
