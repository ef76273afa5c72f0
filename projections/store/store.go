// Package store keeps a read model in one bbolt file: the state of a projection and its position in the
// stream, which change in one transaction.
//
// It is the only package that imports bbolt, and offers only what a projection may use: named buckets
// and ordered keys, but no auto-incremented sequence and no clock.
package store

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/pagestream/pagestream/internal/disk"
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
	// ErrBehind is returned when an Update has waited long for what is in memory to be written to the file.
	ErrBehind = errors.New("the disk is too slow: changes wait in memory to be written")
	// ErrHangs is returned by Close when a transaction does not end.
	ErrHangs = errors.New("a transaction does not end; its file stays mapped until the process ends")
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
	// CloseTimeout bounds the wait of Close for running transactions, by default 5 s.
	CloseTimeout time.Duration
	// Memory is about how many bytes of changes are kept in memory before they are written. 0, the default, or less
	// means none: each Update writes to the file. Otherwise an Update changes a table in memory, which every View and
	// Update reads together with the file. It is written in one transaction each FlushEvery, or as soon as it has that
	// many bytes; up to two times as many are in memory while it is written. A crash leaves the file as of an earlier
	// Update; whoever uses it must be able to repeat those that are missing.
	Memory int
	// FlushEvery is the longest time that a change stays in memory only, by default 5 s.
	FlushEvery time.Duration
	// Filter is the name of a bucket whose keys are often looked up when it does not have them. What the file has of
	// them is kept in memory: 1.2 to 2.4 bytes a key, at least 1.3 MB and at most 80 MB, which is for 67 million keys;
	// with more of them the filter is less use. It is read in the background after Open; until then each look-up reads
	// the file.
	Filter string
	// Check reads the whole file before it is opened, unless its process closed it and nobody wrote to it since. It
	// returns an error that wraps [ErrCorrupt] if the file is damaged; after any other error the file is not opened.
	// The default is [CheckFile].
	Check func(path string) error

	// AnyTime is set where the file system sets other times of modification than those of writes. Then a process
	// that overwrites a part of the open file is not noticed by the time.
	AnyTime bool
}

func (o Options) withDefaults() Options {
	if o.MapSize <= 0 && math.MaxInt > math.MaxInt32 {
		o.MapSize = defaultMap
	}
	if runtime.GOOS == "windows" || o.MapSize > math.MaxInt {
		o.MapSize = 0
	}
	o.LockTimeout = cmp.Or(o.LockTimeout, time.Second)
	o.CloseTimeout = cmp.Or(o.CloseTimeout, 5*time.Second)
	o.FlushEvery = cmp.Or(o.FlushEvery, 5*time.Second)
	if o.Check == nil {
		o.Check = func(path string) error { return CheckFile(context.Background(), path) }
	}
	o.AnyTime = o.AnyTime || runtime.GOOS == "windows"
	return o
}

// Store is one open file. Its methods are safe for concurrent use. Only one Update runs at a time.
type Store struct {
	db      *bbolt.DB
	opts    Options
	file    *os.File // that of db
	corrupt string   // the new name of the corrupt file that Open replaced
	sums    bool     // rows have checksums
	marked  bool     // the file has the mark of that; of the one who writes to the file
	mem     *memory  // nil if each Update writes to the file; KeepInMemory sets it under updates and begin
	filter  *filter  // nil without Options.Filter

	suspicion atomic.Pointer[error] // why the file may be damaged; nil if it is not
	left      atomic.Pointer[stamp] // what the last write has left
	writes    atomic.Int32          // running writes
	committed atomic.Int64          // the id of the last transaction that was committed
	// begin is held while a transaction begins: if that faults, bbolt leaves its locks locked, and nobody must wait
	// for them. It also protects the tables of mem. updates is held by the one Update.
	begin, updates sync.Mutex
	scratch        scratch // of the one Update

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
// A file that its process did not close, or that was written to since, is read by Options.Check first.
// A corrupt file is renamed to <path>.corrupt-<unixnano> and replaced by an empty one. Then
// [Store.Recreated] returns the new name, and the read model must be rebuilt. [ErrLocked] is returned
// when another process has the file open, [ErrCorrupt] when a corrupt file can't be renamed, and
// otherwise the error of the file system.
func Open(path string, o Options) (*Store, error) {
	o = o.withDefaults()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make store directory: %w", err)
	}
	s, err := open(path, o)
	if err == nil {
		return s, nil
	}
	if !errors.Is(err, ErrCorrupt) {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	corrupt, renameErr := SetAside(path, time.Now())
	if renameErr != nil {
		return nil, fmt.Errorf("open store %s: %w: %w", path, err, renameErr)
	}
	if s, err = open(path, o); err != nil {
		return nil, fmt.Errorf("open new store %s: %w", path, err)
	}
	s.corrupt = corrupt
	return s, nil
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

// open checks the file and opens it with bbolt. It turns bbolt's errors and panics on a corrupt file into
// ErrCorrupt.
func open(path string, o Options) (s *Store, err error) {
	// The lock is taken first: a file that another process writes to can't be checked.
	_, statErr := os.Stat(path)
	file, err := openLocked(path, o.LockTimeout)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			unlock(file) //nolint:errcheck // bbolt may have closed it
		}
	}()
	if statErr == nil && !closedClean(path) {
		if err := o.Check(path); err != nil {
			return nil, err
		}
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil { // the memory map leaks
			s, err = nil, fmt.Errorf("%w: %v", ErrCorrupt, r)
		}
	}()
	s = &Store{opts: o, file: file, path: path, scratch: newScratch()}
	s.db, err = bbolt.Open(path, fileMode, &bbolt.Options{
		Timeout:         o.LockTimeout,
		NoSync:          o.NoSync,
		FreelistType:    bbolt.FreelistMapType,
		InitialMmapSize: int(o.MapSize),
		OpenFile:        func(string, int, os.FileMode) (*os.File, error) { return file, nil },
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
	s.wrote()
	// A file of an earlier version has rows without checksums.
	s.sums = true
	err = s.db.View(func(tx *bbolt.Tx) error {
		s.committed.Store(int64(tx.ID()))
		s.marked = tx.Bucket([]byte(sumsBucket)) != nil
		return tx.ForEach(func([]byte, *bbolt.Bucket) error { s.sums = s.marked; return nil })
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrCorrupt, err), s.db.Close())
	}
	s.KeepInMemory(o.Memory)
	if o.Filter != "" {
		s.filter = newFilter(o.Filter)
		go s.fillFilter()
	}
	return s, nil
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

// Summed reports whether each row of the file has a checksum. Files of earlier versions have none; they are read and
// written as before, and damage in their values is not found. [Store.AddSums] adds them.
func (s *Store) Summed() bool { return s.sums }

// AddSums adds checksums to the rows of a small file that has none, in one transaction. It is idempotent. The caller
// must make sure that no transaction runs at the same time.
func (s *Store) AddSums() error {
	if s.sums {
		return nil
	}
	err := s.updateFile(func(tx *Tx) error {
		names, err := tx.Buckets()
		if err != nil {
			return err
		}
		for _, name := range names {
			b := tx.Bucket(name)
			err := b.ForEachPrefix(nil, func(k, v []byte) error { return b.Put(bytes.Clone(k), v) })
			if err != nil {
				return err
			}
		}
		for _, b := range tx.buckets {
			b.sums = true
		}
		tx.sums = true
		return nil
	})
	if err != nil {
		return fmt.Errorf("add checksums: %w", err)
	}
	s.sums = true
	return nil
}

// View calls f in a read-only transaction, which sees one state, whatever is committed meanwhile. Keep it
// short: a long one keeps the writer from reusing space. f must not wait for an Update, which may
// deadlock. [ErrClosed] is returned when the store is closed, and [ErrCorrupt] when the file is or may be damaged
// (see [Store.Suspect]): then what f has read is not valid.
func (s *Store) View(f func(*Tx) error) error {
	return s.run(func() error {
		t, err := s.snapshot(true)
		if err != nil {
			return err
		}
		defer s.rollback(t.tx)
		defer t.release()
		if err := f(t); err != nil {
			return err
		}
		return s.Suspicion() // another transaction may have found it meanwhile
	})
}

// snapshot begins a read-only transaction of the file with the tables over it. That of a view sees the state of now until
// it is released, that of the one Update until it changes it.
func (s *Store) snapshot(view bool) (*Tx, error) {
	s.begin.Lock()
	defer s.begin.Unlock()
	tx, err := s.beginLocked(false)
	if err != nil {
		return nil, err
	}
	t := &Tx{tx: tx, sums: s.sums, filter: s.filter, levels: s.mem.levels()}
	if view && len(t.levels) > 0 {
		t.levels[0].views.Add(1)
	}
	return t, nil
}

// Update calls f in a write transaction and commits it. Only one runs at a time. If f fails or panics, or the commit
// fails, nothing is changed. [ErrClosed] is returned when the store is closed, and [ErrCorrupt] when the file is or may
// be damaged.
//
// The commit writes to the file, with an fsync unless Options.NoSync is set. With Options.Memory it changes the table
// in memory, and Views see the change at once. Then Update waits while the table is full, and fails with [ErrBehind]
// if that takes long, or with the error of writing the table to the file. After such an error each Update fails until
// the table could be written; it tries that itself.
func (s *Store) Update(f func(*Tx) error) error {
	if s.mem == nil {
		return s.updateFile(f)
	}
	if err := s.room(); err != nil {
		return err
	}
	return s.run(func() error { return s.updateMemory(f) })
}

// updateFile is an Update that writes to the file.
func (s *Store) updateFile(f func(*Tx) error) error {
	return s.run(func() error {
		s.updates.Lock()
		defer s.updates.Unlock()
		return s.write(func(tx *bbolt.Tx) (sums bool, err error) {
			t := &Tx{tx: tx, writable: true, scratch: &s.scratch, sums: s.sums, filter: s.filter}
			defer t.drop()
			if err := f(t); err != nil {
				return false, err
			}
			return t.sums, t.flush()
		})
	})
}

// write calls f in a write transaction of the file and commits it. f reports whether rows have checksums. Only one
// call runs at a time.
func (s *Store) write(f func(*bbolt.Tx) (sums bool, err error)) error {
	if err := s.unchanged(); err != nil { // as of now, and not of before the wait
		return s.Suspect(err)
	}
	tx, err := s.beginTx(true)
	if err != nil {
		return err
	}
	committed := false
	defer func() {
		if !committed {
			s.rollback(tx)
		}
	}()
	sums, err := f(tx)
	if err != nil {
		return err
	}
	return s.writing(func() error {
		defer guard()
		if sums && !s.marked {
			if _, err := tx.CreateBucketIfNotExists([]byte(sumsBucket)); err != nil {
				return fmt.Errorf("mark checksums: %w", err)
			}
		}
		committed = true // after an error too: bbolt has rolled back
		id := int64(tx.ID())
		err := tx.Commit()
		if err == nil {
			s.committed.Store(id)
		}
		s.marked = s.marked || sums && err == nil
		return err
	})
}

// beginTx begins a transaction of the file. Only one caller at a time may write to the file.
func (s *Store) beginTx(writable bool) (*bbolt.Tx, error) {
	s.begin.Lock()
	defer s.begin.Unlock()
	return s.beginLocked(writable)
}

// beginLocked is beginTx for a caller that has the lock of begin.
func (s *Store) beginLocked(writable bool) (*bbolt.Tx, error) {
	if err := s.Suspicion(); err != nil {
		return nil, err
	}
	defer func() {
		if v := recover(); v != nil { // before begin is unlocked, so that nobody waits for bbolt's locks
			panic(&damage{s.Suspect(asDamage(v))})
		}
	}()
	last := s.committed.Load()
	tx, err := s.db.Begin(writable)
	if err != nil {
		return nil, fmt.Errorf("begin transaction: %w", err)
	}
	id := int64(tx.ID())
	if writable {
		id--
	}
	if id < last { // bbolt takes the state before it
		s.rollback(tx)
		return nil, s.Suspect(broken("the header of the last commit is damaged"))
	}
	return tx, nil
}

// rollback ends a transaction without a commit. It is deferred, and must not hide another panic.
func (s *Store) rollback(tx *bbolt.Tx) {
	defer func() {
		if v := recover(); v != nil {
			s.Suspect(asDamage(v)) //nolint:errcheck // the transaction has its own error
		}
	}()
	_ = tx.Rollback() // of a transaction that is not committed
}

// run calls f unless the file is or may be damaged, and keeps a damaged file from crashing the process: reading beyond
// the end of a truncated file is a memory fault, which can't be recovered by default.
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
		if found := Damage(r); found != nil {
			err = s.Suspect(found)
			return
		}
		panic(r)
	}()
	if err := s.Suspicion(); err != nil {
		return err
	}
	if err := s.unchanged(); err != nil {
		return s.Suspect(err)
	}
	err = f()
	var found *damage
	if errors.As(err, &found) { // f has recovered from the panic
		err = s.Suspect(found)
	}
	return err
}

// Verify reads the whole file. [ErrCorrupt] is returned when it can't be read or its keys are out of order.
// It may take long for a large file.
func (s *Store) Verify() error {
	return s.View(func(tx *Tx) error {
		_, err := Digest(tx)
		return err
	})
}

// Sync writes to disk all that was committed, also what is in memory only and what was not synced because of
// Options.NoSync.
func (s *Store) Sync() error {
	if err := s.Flush(); err != nil {
		return err
	}
	return s.run(s.db.Sync)
}

// Durable ends Options.NoSync: it syncs what was not synced, and from then on each commit is synced.
func (s *Store) Durable() error {
	err := s.run(func() error {
		return s.aloneInFile(func() error {
			if err := s.db.Sync(); err != nil {
				return err
			}
			s.db.NoSync = false
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("sync store: %w", err)
	}
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
	return disk.SyncDir(filepath.Dir(path))
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
	if err := s.Flush(); err != nil {
		return 0, err
	}
	err = s.run(func() error {
		tx, err := s.beginTx(false)
		if err != nil {
			return err
		}
		defer s.rollback(tx)
		defer guard()
		n, err = tx.WriteTo(w)
		return err
	})
	if err != nil {
		return n, fmt.Errorf("copy store: %w", err)
	}
	return n, nil
}

// flushTimeout bounds how long Close writes to the file what is in memory only.
const flushTimeout = 30 * time.Second

// Close waits for running transactions, writes to the file what is in memory only, and closes the file. It is
// idempotent. After an error of writing the file is closed as well; it is valid, as of an earlier Update. [ErrHangs] is
// returned when a transaction has not ended within Options.CloseTimeout, when writing takes longer than 30 s, or when a
// damaged file has left bbolt's locks locked: then the file can be opened again, but its memory map stays until the
// process ends.
func (s *Store) Close() (err error) {
	s.close.Do(func() {
		alone, closed := make(chan struct{}), make(chan error, 1)
		go func() {
			defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
			defer func() {
				if v := recover(); v != nil {
					closed <- asDamage(v)
				}
			}()
			s.open.Lock()
			close(alone)
			s.filter.close()
			err := s.stopFlushes()
			s.mu.Lock()
			if s.Suspicion() == nil && s.unchanged() == nil && !s.db.NoSync {
				s.markClean()
			}
			s.mu.Unlock()
			closed <- errors.Join(err, s.db.Close())
		}()
		wait := s.opts.CloseTimeout
		if s.Suspicion() != nil {
			wait = min(wait, time.Second)
		}
		end := time.NewTimer(wait)
		defer end.Stop()
		select {
		case <-alone:
			if s.mem != nil && s.Suspicion() == nil {
				end.Reset(flushTimeout)
			}
			alone = nil
		case err = <-closed:
			return
		case <-end.C:
		}
		if alone == nil {
			select {
			case err = <-closed:
				return
			case <-end.C:
			}
		}
		s.mu.Lock()         // from here on the file may be that of another store
		s.Suspect(ErrHangs) //nolint:errcheck // what still runs gets it
		s.mu.Unlock()
		err = errors.Join(ErrHangs, unlock(s.file))
	})
	if err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}
