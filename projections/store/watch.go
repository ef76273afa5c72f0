package store

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"time"
)

// stamp is what a file looked like after the last write of its own process.
type stamp struct {
	size    int64
	changed time.Time
}

func stampOf(info os.FileInfo) stamp { return stamp{info.Size(), info.ModTime()} }

// wrote records what this process's last write has left. The caller has the lock of updates.
func (s *Store) wrote() {
	info, err := s.file.Stat()
	if err != nil {
		return // the next transaction finds it
	}
	left := stampOf(info)
	before := s.left.Swap(&left)
	if before != nil && left.size < before.size { // a file never shrinks
		s.Suspect(truncated(before.size, left.size)) //nolint:errcheck // the next transaction gets it
	}
}

func truncated(from, to int64) error {
	return fmt.Errorf("%w: the file was truncated from %d to %d bytes while it was in use", ErrCorrupt, from, to)
}

// writing calls f, which writes to the file. The caller has the lock of updates.
func (s *Store) writing(f func() error) error {
	s.writes.Add(1)
	defer s.writes.Add(-1)
	defer s.wrote()
	return f()
}

// unchanged fails if another process has written to the file, or has deleted it, since the last write of this one:
// bbolt reads the file through a memory map, and what it reads from a damaged one can end the process. It costs
// one system call. While this process writes, only a deletion is noticed.
func (s *Store) unchanged() error {
	before, busy := s.left.Load(), s.writes.Load() > 0
	info, err := s.file.Stat()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if deleted(info) {
		return fmt.Errorf("%w: the file was deleted while it was in use", ErrCorrupt)
	}
	if s.opts.AnyTime || busy || s.writes.Load() > 0 || s.left.Load() != before {
		return nil
	}
	switch now := stampOf(info); {
	case now.size < before.size:
		return truncated(before.size, now.size)
	case now.size != before.size || !now.changed.Equal(before.changed):
		return fmt.Errorf("%w: another process wrote to the file while it was in use", ErrCorrupt)
	}
	return nil
}

// Inspect compares the file with what this process has left, in a few system calls and without a transaction. An
// error wraps [ErrCorrupt] and is the same as that of [Store.Suspicion]. It finds a file that was deleted, replaced,
// truncated or written to, and damaged headers; it doesn't read the rest. [ErrClosed] is returned when the store is closed.
func (s *Store) Inspect() error {
	if !s.open.TryRLock() {
		return ErrClosed
	}
	defer s.open.RUnlock()
	if err := s.Suspicion(); err != nil {
		return err
	}
	if err := s.unchanged(); err != nil {
		return s.Suspect(err)
	}
	s.mu.Lock() // a rename is not noticed as a deletion
	defer s.mu.Unlock()
	there, err := os.Stat(s.path)
	if err == nil {
		mine, statErr := s.file.Stat()
		if statErr == nil && os.SameFile(there, mine) {
			c := checker{file: s.file}
			if _, err := c.meta(); err != nil { // it was written to during a write
				return s.Suspect(err)
			}
			return nil
		}
		return s.Suspect(fmt.Errorf("%w: the file was replaced by another one while it was in use", ErrCorrupt))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return s.Suspect(fmt.Errorf("%w: the file was deleted while it was in use", ErrCorrupt))
	}
	return nil // nothing is known
}

// Suspect refuses all transactions from now on with an error that wraps [ErrCorrupt] and err. It returns the error
// with which they are refused, which is that of the first call. A store never leaves this state: it has to be
// closed, its file checked, and opened again.
func (s *Store) Suspect(err error) error {
	if !errors.Is(err, ErrCorrupt) {
		err = fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	s.suspicion.CompareAndSwap(nil, &err)
	return *s.suspicion.Load()
}

// Suspicion returns why transactions are refused: the file was found damaged, or may be. It returns nil if they are
// not.
func (s *Store) Suspicion() error {
	if err := s.suspicion.Load(); err != nil {
		return *err
	}
	return nil
}

// A file that was closed by its process and not written to since has a modification time whose fraction of a second
// is a checksum of the rest and of the size. Every write sets another time, whoever writes. So a file that has to be
// checked is recognised without a file beside it, which could be lost or copied alone.

// cleanTime returns the modification time that marks a file of that size as closed by its process.
func cleanTime(size int64, at time.Time) time.Time {
	sec := at.Unix()
	sum := crc32.Checksum(fmt.Appendf(nil, "closed %d %d", size, sec), castagnoli)
	return time.Unix(sec, int64(sum)%int64(time.Second))
}

// closedClean reports whether the file was closed by its process and not written to since.
func closedClean(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.ModTime().Equal(cleanTime(info.Size(), info.ModTime()))
}

// markClean marks the file as closed by its process, unless the path is another file now. An error means that the
// file is checked when it is opened again.
func (s *Store) markClean() {
	there, err := os.Stat(s.path)
	mine, mineErr := s.file.Stat()
	if err == nil && mineErr == nil && os.SameFile(there, mine) {
		at := cleanTime(mine.Size(), mine.ModTime())
		_ = os.Chtimes(s.path, at, at)
	}
}
