package store_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/projections/store"
)

// wideRow is a row of a usual size that is encoded.
type wideRow struct{ n uint64 }

var wide = bytes.Repeat([]byte("w"), 300)

func (r *wideRow) AppendBinary(b []byte) ([]byte, error) {
	return append(binary.BigEndian.AppendUint64(b, r.n), wide...), nil
}

func (r *wideRow) UnmarshalBinary(b []byte) error {
	r.n = binary.BigEndian.Uint64(b)
	return nil
}

// traffic changes a store as the events of live traffic do: each has a row with a random key, one behind all others,
// one of 5,000 that change again and again, and a counter.
type traffic struct {
	random *rand.Rand
	n      uint64
}

func newTraffic() *traffic { return &traffic{random: rand.New(rand.NewPCG(1, 2))} }

func (w *traffic) apply(s *store.Store, events int) error {
	return s.Update(func(tx *store.Tx) error {
		for range events {
			w.n++
			ids, rows, hot, counts := tx.Bucket("ids"), tx.Bucket("rows"), tx.Bucket("hot"), tx.Bucket("counts")
			rows.Ascending()
			key := store.Key("104000000000001", w.random.Uint64(), w.random.Uint64())
			if ids.Has(key) {
				return errors.New("a random key exists")
			}
			of := store.Key("104000000000001", uint64(w.random.IntN(5000)))
			row, _, err := store.GetRow[wideRow](hot, of)
			if err != nil {
				return err
			}
			row.n += w.n
			err = errors.Join(ids.Put(key, store.Uint64(w.n)), store.EncodeRow(rows, store.Key(w.n), &wideRow{w.n}),
				store.PutRow(hot, of, row), counts.Add([]byte("n"), 1))
			if err != nil {
				return err
			}
		}
		return store.WriteMeta(tx, store.Meta{Seq: w.n})
	})
}

// BenchmarkUpdate applies 100 events in one operation, with a table in memory that is written to the file after each
// 60 operations. With "view", the table is read meanwhile.
func BenchmarkUpdate(b *testing.B) {
	for _, viewed := range []bool{false, true} {
		name := "alone"
		if viewed {
			name = "view"
		}
		b.Run(name, func(b *testing.B) {
			s := openMemory(b, filepath.Join(b.TempDir(), "a.db"), func(o *store.Options) { o.Memory = 256 << 20 })
			w, n := newTraffic(), 0
			b.ReportAllocs()
			for b.Loop() {
				var err error
				if viewed {
					err = s.View(func(*store.Tx) error { return w.apply(s, 100) })
				} else {
					err = w.apply(s, 100)
				}
				require.NoError(b, err)
				if n++; n%60 == 0 {
					b.StopTimer()
					require.NoError(b, s.Flush())
					b.StartTimer()
				}
			}
		})
	}
}

// BenchmarkFlush writes 5,000 rows with random keys to the file in one operation, which has 200,000 at the beginning.
// The file is not synced. Give it the number of operations (-benchtime 60x): the file grows.
func BenchmarkFlush(b *testing.B) {
	s := openMemory(b, filepath.Join(b.TempDir(), "a.db"), func(o *store.Options) { o.Memory = 256 << 20 })
	random, value := rand.New(rand.NewPCG(1, 2)), bytes.Repeat([]byte("v"), 60)
	put := func(rows int) {
		require.NoError(b, s.Update(func(tx *store.Tx) error {
			for range rows {
				key := store.Key("104000000000001", random.Uint64(), random.Uint64())
				if err := tx.Bucket("ids").Put(key, value); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	put(200_000)
	require.NoError(b, s.Flush())
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		put(5000)
		b.StartTimer()
		require.NoError(b, s.Flush())
	}
}
