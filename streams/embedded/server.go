// Package embedded runs a nats-server with JetStream inside the process. It is
// the only importer of nats-server outside tests.
//
// One node only: several machines need an external NATS cluster. The server
// listens on nothing unless it is told to, and then only for the users of
// [Server.SetUser]; [Server.Connect] is an in-process connection.
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

// The modes. With SyncAlways an acknowledged event survives a power cut; with
// SyncInterval up to one interval of them may not. Both survive the death of
// the process.
const (
	SyncAlways   SyncMode = "always"
	SyncInterval SyncMode = "interval"
)

// Errors when the server starts.
var (
	// ErrSyncMode is returned when a sync mode is neither of the two.
	ErrSyncMode = errors.New(`unknown sync mode; write "always" or "interval"`)
	// ErrInUse is returned when another process has the directory.
	ErrInUse = errors.New("data directory is in use by another pagestream")
	// ErrNotReady is returned when the server did not start in time.
	ErrNotReady = errors.New("server is not ready")
)

// ErrJetStreamOff is returned when JetStream turned itself off, as it does when the
// disk is full. Nothing can be stored until the process is started again.
var ErrJetStreamOff = errors.New("JetStream is off; free disk space and restart")

// Defaults of [Options].
const (
	DefaultSyncInterval = time.Second
	DefaultMaxPayload   = 32 << 20
)

const (
	// readyTimeout is long, since a large window is read back at start.
	readyTimeout = 2 * time.Minute
	// maxPending is how much may wait to be sent to one connection before the
	// server cuts it off. It has to hold what a subscriber may ask for at once,
	// twice the largest event and more.
	maxPending = 256 << 20
	// maxMemory is for consumers only; the stream is on disk.
	maxMemory = 64 << 20
	// reserve is left free on the disk, or a twentieth of it if that is more.
	reserve = 256 << 20
	// storeUnknown bounds the store where the disk can't be asked.
	storeUnknown = 1 << 40
)

// Options configure a [Server]. Dir is required.
type Options struct {
	// Dir is where the server keeps its files.
	Dir string
	// Sync is SyncAlways unless it says otherwise.
	Sync         SyncMode
	SyncInterval time.Duration
	// MaxStore bounds what the server stores, in bytes. At it publishes fail
	// and everything else goes on, whereas JetStream turns itself off when it
	// meets a full disk. 0 is what the disk has free at the start and the store
	// holds already, less a reserve.
	MaxStore int64
	// MaxPayload is the largest event in bytes. It has to hold a delivery's
	// body twice: its text and its raw item.
	MaxPayload int32
	// Listen is an address for the users of SetUser, as in "127.0.0.1:4222"; empty
	// listens on nothing. An address that others reach needs TLS.
	Listen string
	// CertFile and KeyFile are the PEM files of the listener's certificate.
	CertFile, KeyFile string
	Logger            *slog.Logger
}

// Server is a running server.
type Server struct {
	ns    *server.Server
	log   *logger
	lock  *os.File
	users *users // nil while nothing listens
}

// Start starts the server and waits until it is ready. The caller must call
// Shutdown.
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
		NoSigs:                 true, // signals are the program's
		NoLog:                  true,
		DisableJetStreamBanner: true,
		JetStream:              true,
		StoreDir:               o.Dir,
		SyncAlways:             o.Sync == SyncAlways,
		SyncInterval:           cmp.Or(max(o.SyncInterval, 0), DefaultSyncInterval),
		JetStreamMaxMemory:     maxMemory,
		MaxPayload:             cmp.Or(max(o.MaxPayload, 0), DefaultMaxPayload),
		MaxPending:             maxPending,
	}
	users, err := o.listen(opts)
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

// Connect returns a new in-process connection. Whoever asked closes it.
func (s *Server) Connect(name string, opts ...nats.Option) (*nats.Conn, error) {
	opts = append([]nats.Option{
		nats.Name(name), nats.InProcessServer(s.ns), nats.MaxReconnects(-1), nats.ReconnectWait(100 * time.Millisecond),
	}, opts...)
	if s.users != nil {
		opts = append(opts, nats.UserInfo(ownUser, s.users.own))
	}
	nc, err := nats.Connect("", opts...)
	if err != nil {
		return nil, fmt.Errorf("connect in process: %w", err)
	}
	return nc, nil
}

// InProcessConn makes the server a [nats.InProcessConnProvider], for a
// connection that finds its way to whichever server runs now.
func (s *Server) InProcessConn() (net.Conn, error) {
	c, err := s.ns.InProcessConn()
	if err != nil {
		return nil, fmt.Errorf("connect in process: %w", err)
	}
	return c, nil
}

// Healthy returns nil while events can be stored, as far as the server knows.
// It is cheap enough to be asked every second. It does not ask the server's own
// Healthz, which gives itself a millisecond and says no on a busy machine.
func (s *Server) Healthy() error {
	switch {
	case !s.ns.Running():
		return ErrNotReady
	case !s.ns.JetStreamEnabled():
		return ErrJetStreamOff
	}
	return nil
}

// Shutdown stops the server and releases its directory. Connections must be
// closed first; lame duck mode would do nothing, since nothing listens. It is
// idempotent.
func (s *Server) Shutdown(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.ns.Shutdown()
		s.ns.WaitForShutdown()
	}()
	select {
	case <-done:
	case <-ctx.Done():
		return fmt.Errorf("stop server: %w", ctx.Err())
	}
	if err := s.lock.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("unlock data directory: %w", err)
	}
	return nil
}

// storeLimit is what the server may store in dir: what it holds, and what the
// disk has free less the reserve.
func storeLimit(dir string) int64 {
	free, err := freeSpace(dir)
	if err != nil {
		return storeUnknown
	}
	total := free
	// What can't be counted makes the limit too small, never too large.
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

// logger adapts slog to the server's logger. The server's notices are debug to
// us: they are about its own start and stop.
type logger struct {
	log *slog.Logger
	// fatal is what the server gave up on; it goes no further then and says so
	// nowhere else.
	fatal atomic.Pointer[string]
}

func (l *logger) Fatalf(format string, v ...any) {
	text := line(format, v)
	l.fatal.CompareAndSwap(nil, &text)
	l.log.Error(text)
}

// Warnf passes on what the server warns of, but for our own choice of payload.
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
