// Package store keeps a read model in one bbolt file: the state of a
// projection and its position in the stream, changed together.
//
// It is the only importer of bbolt, and narrows it to what a projection may
// use: named buckets, ordered keys, no auto-incremented sequence, no clock.
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
	// ErrLocked is returned when another process has the file: one pagestream owns a
	// data directory, everything else asks it over HTTP.
	ErrLocked = errors.New("held by another pagestream that is already running; stop it, or ask it over its private listener")
	// ErrCorrupt is returned when the file is not a sound store.
	ErrCorrupt = errors.New("store is corrupt")
	// ErrReadOnly is returned when a View tried to write.
	ErrReadOnly = errors.New("transaction is read-only")
	// ErrKey is returned when a key is empty or too long.
	ErrKey = errors.New("not a key of 1 to 32768 bytes")
	// ErrClosed is returned when the store was closed.
	ErrClosed = errors.New("store is closed")
)

const (
	// defaultMap is address space, not memory or disk. A file that outgrows
	// its map is mapped anew, for which the writer waits for every reader.
	defaultMap = 16 << 30
	fileMode   = 0o600
	maxKey     = 32768 // bbolt's
)

// Options configure a [Store]. The zero value is right for a server.
type Options struct {
	// NoSync leaves out the fsync of each commit. For a file that is built
	// from nothing, with one [Store.Sync] at the end, and for tests: a crash of
	// the machine may leave it corrupt, one of the process does not.
	NoSync bool
	// MapSize is the address space in bytes that is set aside for the file, by
	// default 16 GiB where pointers have 64 bits. Windows, which would make
	// the file that large, has none.
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

// Store is one open file. Its methods are safe for concurrent use; there is one
// writer at a time.
type Store struct {
	db    *bbolt.DB
	aside string

	mu   sync.Mutex // of path
	path string

	// Each transaction has open to read, and Close takes it for good. One that
	// begins after Close is refused and does not wait for it: it may be inside
	// another.
	open  sync.RWMutex
	close sync.Once
}

// Open opens the file, or makes it, with its directory.
//
// A file that is no sound store is renamed to <path>.corrupt-<unixnano> and an
// empty one takes its place: [Store.Recreated] says so, and the read model has
// to be rebuilt. Open itself fails with [ErrLocked], or with the error of the
// file system, or with [ErrCorrupt] if the rename fails.
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
	aside, asideErr := SetAside(path, time.Now())
	if asideErr != nil {
		return nil, fmt.Errorf("open store %s: %w: %w", path, err, asideErr)
	}
	if db, err = open(path, o); err != nil {
		return nil, fmt.Errorf("open new store %s: %w", path, err)
	}
	return &Store{db: db, path: path, aside: aside}, nil
}

// maxAside is how many corrupt files of one store are kept.
const maxAside = 3

// SetAside renames the file of a closed store to <path>.corrupt-<unixnano> and
// returns the new name. Of several such files it keeps the newest three.
func SetAside(path string, now time.Time) (string, error) {
	aside := fmt.Sprintf("%s.corrupt-%d", path, now.UnixNano())
	if err := os.Rename(path, aside); err != nil {
		return "", fmt.Errorf("move corrupt store aside: %w", err)
	}
	// The path is ours and has no pattern in it but by mischance; then there is
	// nothing to tidy.
	old, _ := filepath.Glob(path + ".corrupt-*")
	for i := 0; i < len(old)-maxAside; i++ { // in order of age, as they sort
		os.Remove(old[i])
	}
	return aside, nil
}

// open turns what bbolt does on a corrupt file, panicking included, into
// ErrCorrupt.
func open(path string, o Options) (db *bbolt.DB, err error) {
	var file *os.File
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			if file != nil {
				file.Close() // and with it the lock; the map is lost
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
	// The root page, which opening alone does not read.
	err = db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func([]byte, *bbolt.Bucket) error { return nil })
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrCorrupt, err), db.Close())
	}
	return db, nil
}

// Path returns the name of the file.
func (s *Store) Path() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.path
}

// Recreated returns the name that a corrupt file was given when Open replaced
// it, empty if the file was sound.
func (s *Store) Recreated() string { return s.aside }

// View runs f in a read-only transaction: one state, whatever is committed
// meanwhile. Keep it short: a long one keeps the writer from reusing space, and
// a View that waits for an Update may deadlock.
func (s *Store) View(f func(*Tx) error) error {
	return s.run(func() error {
		return s.db.View(func(tx *bbolt.Tx) error { return f(&Tx{tx: tx}) })
	})
}

// Update runs f in the one write transaction and commits it, synced to disk
// unless the options say otherwise. If f fails or panics, or the commit fails,
// nothing has changed.
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

// run keeps a bad page from killing the process: reading behind the end of a
// truncated file is a fault, not a panic.
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

// Verify reads the whole file and fails with [ErrCorrupt] if it can't be read
// or is out of order. It takes as long as that takes.
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

// Sync writes to disk what NoSync left to the operating system.
func (s *Store) Sync() error {
	return s.run(s.db.Sync)
}

// Durable writes to disk what NoSync left, and syncs each commit from here on.
// Nothing may write meanwhile.
func (s *Store) Durable() error {
	if err := s.Sync(); err != nil {
		return fmt.Errorf("write store to disk: %w", err)
	}
	s.db.NoSync = false
	return nil
}

// Rename moves the open file, in place of one that is there, and returns when that
// would survive a crash of the machine. Transactions go on.
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

// Size returns the size of the file in bytes. It never shrinks.
func (s *Store) Size() (int64, error) {
	info, err := os.Stat(s.Path())
	if err != nil {
		return 0, fmt.Errorf("ask store size: %w", err)
	}
	return info.Size(), nil
}

// WriteTo writes a consistent copy of the file, as of one commit. It is a View
// for as long as it takes.
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

// Close waits for running transactions and closes the file. Calling it again
// does nothing.
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
