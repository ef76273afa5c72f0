package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"go.etcd.io/bbolt"
)

// scrubRetry is how long Scrub waits between two tries while a View keeps an old state.
const scrubRetry = 5 * time.Millisecond

// Scrub overwrites the pages of the file that are free with zeros and syncs the file. bbolt only marks the
// pages of deleted and changed rows as free; their bytes stay in the file until the space is used again.
// After Scrub the file has the bytes of the present state alone.
//
// It first writes to the file what is in memory only, and drops the memory that Updates use again, so that nothing else
// has the bytes of before.
//
// Scrub waits for the Views that began before the last Update, or until the context ends. It reads the header
// of each page of the file, and no Update runs meanwhile.
func (s *Store) Scrub(ctx context.Context) error {
	for {
		if err := s.Flush(); err != nil { // most of it, while Updates still run
			return fmt.Errorf("overwrite free pages: %w", err)
		}
		var wait bool
		err := s.run(func() error { return s.aloneInFile(func() (err error) { wait, err = s.scrub(); return err }) })
		if err != nil {
			return fmt.Errorf("overwrite free pages: %w", err)
		}
		if !wait {
			return nil
		}
		select {
		case <-time.After(scrubRetry):
		case <-ctx.Done():
			return fmt.Errorf("overwrite free pages: %w", ctx.Err())
		}
	}
}

// scrub does what Scrub does, or nothing if a View still needs pages that are free; then it returns true.
func (s *Store) scrub() (wait bool, err error) {
	s.scratch = newScratch() // the old one may have bytes of rows
	// A write transaction begins with the release of the pages that no View needs any more. The number of
	// those that are still needed is known when it has ended.
	tx, err := s.beginTx(true)
	if err != nil {
		return false, err
	}
	id := tx.ID()
	if err := tx.Rollback(); err != nil {
		return false, err
	}
	if s.db.Stats().PendingPageN > 0 {
		return true, nil
	}
	file, err := os.OpenFile(s.Path(), os.O_RDWR, 0)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if tx, err = s.beginTx(true); err != nil { // so that no page is used meanwhile
		return false, err
	}
	defer func() { err = errors.Join(err, tx.Rollback()) }()
	if tx.ID() != id { // an Update came between
		return true, nil
	}
	size := s.db.Info().PageSize
	z := zeroer{store: s, file: file, page: int64(size), now: make([]byte, size), zeros: make([]byte, size)}
	if err := z.free(tx); err != nil {
		return false, err
	}
	if !z.wrote {
		return false, nil
	}
	return false, file.Sync()
}

// zeroer overwrites pages of a file.
type zeroer struct {
	store      *Store
	file       *os.File
	page       int64 // the size of a page
	now, zeros []byte
	wrote      bool
}

// free overwrites the pages that are free, and those after the last page.
func (z *zeroer) free(tx *bbolt.Tx) error {
	id := 0
	for {
		info, err := tx.Page(id)
		if err != nil {
			return err
		}
		if info == nil {
			break
		}
		if info.Type != "free" {
			id += 1 + info.OverflowCount
			continue
		}
		if err := z.zero(int64(id)); err != nil {
			return err
		}
		id++
	}
	stat, err := z.file.Stat()
	if err != nil {
		return err
	}
	for ; int64(id) < stat.Size()/z.page; id++ {
		if err := z.zero(int64(id)); err != nil {
			return err
		}
	}
	return nil
}

// zero overwrites a page, unless it is zero already.
func (z *zeroer) zero(id int64) error {
	if _, err := z.file.ReadAt(z.now, id*z.page); err != nil {
		return err
	}
	if bytes.Equal(z.now, z.zeros) {
		return nil
	}
	if err := z.store.unchanged(); err != nil {
		return z.store.Suspect(err)
	}
	z.wrote = true
	return z.store.writing(func() error {
		_, err := z.file.WriteAt(z.zeros, id*z.page)
		return err
	})
}
