package store

import (
	"bytes"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// Buffered returns about how many bytes of changes an Update buffers.
func Buffered(tx *Tx) int { return tx.buffered }

// InMemory returns about how many bytes are in memory only.
func InMemory(s *Store) (n int) {
	s.begin.Lock()
	defer s.begin.Unlock()
	for _, t := range s.mem.levels() {
		n += t.bytes
	}
	return n
}

// WriteOld writes a file as versions without checksums did.
func WriteOld(t *testing.T, path string, buckets map[string]map[string]string) {
	t.Helper()
	db, err := bbolt.Open(path, fileMode, &bbolt.Options{FreelistType: bbolt.FreelistMapType})
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		for name, rows := range buckets {
			b, err := tx.CreateBucket([]byte(name))
			if err != nil {
				return err
			}
			for k, v := range rows {
				if err := b.Put([]byte(k), []byte(v)); err != nil {
					return err
				}
			}
		}
		return nil
	}))
	require.NoError(t, db.Close())
}

// InScratch reports whether the memory that Updates use again has the text.
func InScratch(s *Store, text string) bool {
	s.updates.Lock()
	defer s.updates.Unlock()
	return bytes.Contains(slices.Concat(s.scratch.row, s.scratch.values, []byte(s.scratch.keys.String())), []byte(text))
}

// Active returns the table in memory that Updates change, to compare it with that of another time.
func Active(s *Store) any {
	s.begin.Lock()
	defer s.begin.Unlock()
	return s.mem.active
}
