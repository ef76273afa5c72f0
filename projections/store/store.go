// Package store keeps a read model in one bbolt file: the state of a projection and its position in the
// stream, which change in one transaction.
//
// It is the only package that imports bbolt, and offers only what a projection may use: named buckets
// and ordered keys, but no auto-incremented sequence and no clock.
package store

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Errors of a store.
var (
	// ErrLocked is returned when another process has the file open. One pagestream process owns a data
	// directory; everything else must use its HTTP API.
	ErrLocked = errors.New(
		"in use by another pagestream that is already running; stop it, or use its API on the private listener")
	// ErrCorrupt is returned when the file, or a value in it, is not valid.
	ErrCorrupt = errors.New("store is corrupt")
	// ErrReadOnly is returned when a View tries to write.
	ErrReadOnly = errors.New("transaction is read-only")
	// ErrKey is returned when a key is empty or too long.
	ErrKey = errors.New("not a key of 1 to 32768 bytes")
	// ErrClosed is returned when the store was closed.
	ErrClosed = errors.New("store is closed")
)

const (
	// defaultMap is a size of address space, not of memory or disk. When a file becomes larger than its
	// memory map, it is mapped again, and for that the writer waits for every reader.
	defaultMap = 16 << 30
	fileMode   = 0o600
	maxKey     = 32768 // bbolt's limit, in bytes
)

// Options configure a [Store]. The zero value is suitable for a server.
type Options struct {
	// NoSync leaves out the fsync of each commit. It is for tests, and for a new file that is built
	// with one [Store.Sync] at the end. A crash of the machine may leave the file corrupt, a crash of
	// the process does not.
	NoSync bool
	// MapSize is the address space in bytes that is reserved for the file, by default 16 GiB on 64-bit
	// systems. It is ignored on Windows, which would make the file that large.
	MapSize int64
	// LockTimeout is how long to wait for the file's lock, by default 1 s.
	LockTimeout time.Duration
}

func (o Options) withDefaults() Options {
	if o.MapSize <= 0 && math.MaxInt > math.MaxInt32 {
		o.MapSize = defaultMap
	}
	if runtime.GOOS == "windows" || o.MapSize > math.MaxInt {
		o.MapSize = 0
	}
	o.LockTimeout = cmp.Or(o.LockTimeout, time.Second)
	return o
}

// Store is one open file. Its methods are safe for concurrent use. Only one Update runs at a time.
type Store struct {
	db      *bbolt.DB
	corrupt string // the new name of the corrupt file that Open replaced

	mu   sync.Mutex // protects path
	path string

	// Each transaction read-locks open, and Close locks it and never unlocks it. A transaction that
	// begins after Close is refused instead of waiting for the lock, since it may be inside another
	// transaction that Close waits for.
	open  sync.RWMutex
	close sync.Once
}

// Open opens the file, and creates it and its directory if necessary. The caller must close the store.
//
// A corrupt file is renamed to <path>.corrupt-<unixnano> and replaced by an empty one. Then
// [Store.Recreated] returns the new name, and the read model must be rebuilt. [ErrLocked] is returned
// when another process has the file open, [ErrCorrupt] when a corrupt file can't be renamed, and
// otherwise the error of the file system.
func Open(path string, o Options) (*Store, error) {
	o = o.withDefaults()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make store directory: %w", err)
	}
	db, err := open(path, o)
	if err == nil {
		return &Store{db: db, path: path}, nil
	}
	if !errors.Is(err, ErrCorrupt) {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	corrupt, renameErr := SetAside(path, time.Now())
	if renameErr != nil {
		return nil, fmt.Errorf("open store %s: %w: %w", path, err, renameErr)
	}
	if db, err = open(path, o); err != nil {
		return nil, fmt.Errorf("open new store %s: %w", path, err)
	}
	return &Store{db: db, path: path, corrupt: corrupt}, nil
}

// maxCorrupt is how many corrupt files of one store are kept.
const maxCorrupt = 3

// SetAside renames the file of a closed store to <path>.corrupt-<unixnano> and returns the new name. It
// keeps the newest three of such files and deletes the others.
func SetAside(path string, now time.Time) (string, error) {
	corrupt := fmt.Sprintf("%s.corrupt-%d", path, now.UnixNano())
	if err := os.Rename(path, corrupt); err != nil {
		return "", fmt.Errorf("rename corrupt store: %w", err)
	}
	// Glob fails only if the path itself contains an invalid pattern; then old files are not deleted.
	old, _ := filepath.Glob(path + ".corrupt-*")
	for i := 0; i < len(old)-maxCorrupt; i++ { // sorted by name, and so by age
		os.Remove(old[i])
	}
	return corrupt, nil
}

// open opens the file with bbolt. It turns bbolt's errors and panics on a corrupt file into ErrCorrupt.
func open(path string, o Options) (db *bbolt.DB, err error) {
	var file *os.File
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			if file != nil {
				file.Close() // this releases the lock too; the memory map leaks
			}
			db, err = nil, fmt.Errorf("%w: %v", ErrCorrupt, r)
		}
	}()
	db, err = bbolt.Open(path, fileMode, &bbolt.Options{
		Timeout:         o.LockTimeout,
		NoSync:          o.NoSync,
		FreelistType:    bbolt.FreelistMapType,
		InitialMmapSize: int(o.MapSize),
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			f, err := os.OpenFile(name, flag, mode)
			file = f
			return f, err
		},
	})
	var errno syscall.Errno
	switch {
	case err == nil:
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, ErrLocked
	case errors.As(err, &errno), errors.Is(err, os.ErrPermission), errors.Is(err, os.ErrNotExist):
		return nil, err
	default:
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	// Read the root page, which bbolt.Open does not do.
	err = db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func([]byte, *bbolt.Bucket) error { return nil })
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrCorrupt, err), db.Close())
	}
	return db, nil
}

// Path returns the path of the file.
func (s *Store) Path() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.path
}

// Recreated returns the new name of the corrupt file that Open replaced, or an empty string if the file
// was not corrupt.
func (s *Store) Recreated() string { return s.corrupt }

// View calls f in a read-only transaction, which sees one state, whatever is committed meanwhile. Keep it
// short: a long one keeps the writer from reusing space. f must not wait for an Update, which may
// deadlock. [ErrClosed] is returned when the store is closed.
func (s *Store) View(f func(*Tx) error) error {
	return s.run(func() error {
		return s.db.View(func(tx *bbolt.Tx) error { return f(&Tx{tx: tx}) })
	})
}

// Update calls f in a write transaction and commits it, with an fsync unless Options.NoSync is set. Only
// one runs at a time. If f fails or panics, or the commit fails, nothing is changed. [ErrClosed] is
// returned when the store is closed.
func (s *Store) Update(f func(*Tx) error) error {
	return s.run(func() error {
		return s.db.Update(func(tx *bbolt.Tx) error {
			t := &Tx{tx: tx}
			if err := f(t); err != nil {
				return err
			}
			return t.flush()
		})
	})
}

// run calls f and keeps a corrupt file from crashing the process: reading beyond the end of a truncated
// file is a memory fault, which can't be recovered by default.
func (s *Store) run(f func() error) (err error) {
	if !s.open.TryRLock() {
		return ErrClosed
	}
	defer s.open.RUnlock()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		r := recover()
		if r == nil {
			return
		}
		if fault, ok := r.(interface{ Addr() uintptr }); ok {
			err = fmt.Errorf("%w: fault at %#x", ErrCorrupt, fault.Addr())
			return
		}
		panic(r)
	}()
	return f()
}

// Verify reads the whole file. [ErrCorrupt] is returned when it can't be read or its keys are out of order.
// It may take long for a large file.
func (s *Store) Verify() (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", ErrCorrupt, r)
		}
	}()
	return s.View(func(tx *Tx) error {
		_, err := Digest(tx)
		return err
	})
}

// Sync syncs to disk the commits that were not synced because of Options.NoSync.
func (s *Store) Sync() error {
	return s.run(s.db.Sync)
}

// Durable ends Options.NoSync: it syncs what was not synced, and from then on each commit is synced. The
// caller must make sure that no Update runs at the same time.
func (s *Store) Durable() error {
	if err := s.Sync(); err != nil {
		return fmt.Errorf("sync store: %w", err)
	}
	s.db.NoSync = false
	return nil
}

// Rename renames the open file and replaces a file of that name. When it returns without an error the
// rename survives a crash of the machine. Transactions may run at the same time.
func (s *Store) Rename(path string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := os.Rename(s.path, path); err != nil {
		return fmt.Errorf("rename store: %w", err)
	}
	s.path = path
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("sync directory of store: %w", err)
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Size returns the size of the file in bytes. A file never shrinks.
func (s *Store) Size() (int64, error) {
	info, err := os.Stat(s.Path())
	if err != nil {
		return 0, fmt.Errorf("get store size: %w", err)
	}
	return info.Size(), nil
}

// WriteTo writes a consistent copy of the file, as of one commit. It runs in one View, which keeps the
// writer from reusing space until the copy is complete.
func (s *Store) WriteTo(w io.Writer) (n int64, err error) {
	err = s.run(func() error {
		return s.db.View(func(tx *bbolt.Tx) error {
			n, err = tx.WriteTo(w)
			return err
		})
	})
	if err != nil {
		return n, fmt.Errorf("copy store: %w", err)
	}
	return n, nil
}

// Close waits for running transactions and closes the file. It is idempotent.
func (s *Store) Close() (err error) {
	s.close.Do(func() {
		s.open.Lock()
		err = s.db.Close()
	})
	if err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}
