package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/projections/store"
)

// TestRowsShareNoBytes writes rows of many sizes, so that slabs end in the middle of Updates, with Updates that fail in
// between, and compares all of them with a map: in memory, after flushes and in the file that is opened again.
func TestRowsShareNoBytes(t *testing.T) {
	for name, memory := range map[string]int{"memory": 64 << 20, "file": 0} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a.db")
			o := store.Options{NoSync: true, MapSize: 64 << 20, Memory: memory, FlushEvery: time.Hour}
			s, err := store.Open(path, o)
			require.NoError(t, err)
			random, want := rand.New(rand.NewPCG(3, 4)), map[string][]byte{}
			for n := range 40 {
				now, fails := map[string][]byte{}, n%4 == 1
				err := s.Update(func(tx *store.Tx) error {
					b := tx.Bucket("rows")
					for i := range 1 + random.IntN(60) {
						key := fmt.Appendf(nil, "%0*d", 1+random.IntN(50), random.IntN(300))
						if i == 0 { // longer than what a slab is for
							key = bytes.Repeat(key, 200)
						}
						value := bytes.Repeat([]byte{byte(random.Int())}, random.IntN(200)*random.IntN(30))
						if random.IntN(3) > 0 {
							require.NoError(t, b.Put(key, value))
						} else {
							value = store.Uint64(random.Uint64N(1000))
							require.NoError(t, errors.Join(b.Delete(key), b.Add(key, store.ToUint64(value)-1), b.Add(key, 1)))
						}
						now[string(key)] = value
					}
					if n%3 == 0 {
						b.Len() // writes early
					}
					if fails {
						return errEncode
					}
					return nil
				})
				require.Equal(t, fails, errors.Is(err, errEncode), "%v", err)
				if !fails {
					for key, value := range now {
						want[key] = value
					}
				}
				if n%10 == 9 {
					require.NoError(t, s.Flush())
				}
			}
			for _, again := range []bool{false, true} {
				if again {
					require.NoError(t, s.Close())
					require.NoError(t, store.CheckFile(t.Context(), path))
					s, err = store.Open(path, o)
					require.NoError(t, err)
				}
				require.NoError(t, s.View(func(tx *store.Tx) error {
					require.Equal(t, len(want), tx.Bucket("rows").Len())
					for key, value := range want {
						require.True(t, bytes.Equal(value, tx.Bucket("rows").Get([]byte(key))), "row %.60s", key)
					}
					return nil
				}))
			}
			require.NoError(t, s.Close())
		})
	}
}
