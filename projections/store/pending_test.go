package store_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pagestream/pagestream/projections/store"
)

// counter is a row that can't be encoded if n is 13.
type counter struct{ n byte }

var errEncode = errors.New("can't encode")

func (c *counter) AppendBinary(b []byte) ([]byte, error) {
	if c.n == 13 {
		return b, errEncode
	}
	return append(b, "row"+string(rune('a'+c.n))...), nil
}

func (c *counter) UnmarshalBinary(b []byte) error {
	if len(b) != 4 {
		return errEncode
	}
	c.n = b[3] - 'a'
	return nil
}

// TestUpdateReadsItsOwnWrites makes the same random changes in a store and in maps, in transactions that are
// committed or rolled back, and compares them.
func TestUpdateReadsItsOwnWrites(t *testing.T) {
	dir, files := t.TempDir(), 0
	names := []string{"a", "b"}
	rapid.Check(t, func(t *rapid.T) {
		files++
		s, err := store.Open(filepath.Join(dir, fmt.Sprint(files)), store.Options{MapSize: 1 << 20, NoSync: true})
		require.NoError(t, err)
		defer s.Close()
		stored := map[string]map[string]string{"a": {}, "b": {}}
		for range rapid.IntRange(1, 4).Draw(t, "transactions") {
			model := map[string]map[string]string{}
			for name, rows := range stored {
				model[name] = maps.Clone(rows)
			}
			roll := rapid.Bool().Draw(t, "roll back")
			err := s.Update(func(tx *store.Tx) error {
				for range rapid.IntRange(0, 30).Draw(t, "steps") {
					name := rapid.SampledFrom(names).Draw(t, "bucket")
					if err := step(t, tx.Bucket(name), model[name]); err != nil {
						return err
					}
				}
				if roll {
					return errEncode
				}
				return nil
			})
			require.Equal(t, errors.Is(err, errEncode), roll, "update: %v", err)
			if !roll {
				stored = model
			}
			err = s.View(func(tx *store.Tx) error {
				for _, name := range names {
					checkEqual(t, tx.Bucket(name), stored[name])
				}
				return nil
			})
			require.NoError(t, err)
		}
	})
}

func step(t *rapid.T, b *store.Bucket, model map[string]string) error {
	k := rapid.StringMatching(`[a-d]{1,2}`).Draw(t, "key")
	key := []byte(k)
	switch rapid.IntRange(0, 8).Draw(t, "step") {
	case 0, 1:
		model[k] = rapid.SampledFrom([]string{"", "x", "12345678", "rowc"}).Draw(t, "value")
		return b.Put(key, []byte(model[k]))
	case 2:
		delete(model, k)
		return b.Delete(key)
	case 3:
		model[k] = string(store.Uint64(store.ToUint64([]byte(model[k])) + 7))
		return b.Add(key, 7)
	case 4:
		row := counter{byte(rapid.IntRange(0, 9).Draw(t, "n"))}
		model[k] = "row" + string(rune('a'+row.n))
		return store.PutRow(b, key, row)
	case 5:
		row, found, err := store.GetRow[counter](b, key)
		want, there := model[k]
		valid := len(want) == 4
		require.Equal(t, there && valid, found, "row %s", k)
		if found {
			require.Equal(t, want, "row"+string(rune('a'+row.n)), "row %s", k)
		}
		require.Equal(t, there && !valid, errors.Is(err, store.ErrCorrupt), "row %s", k)
	case 6:
		want, there := model[k]
		v := b.Get(key)
		require.Equal(t, there, b.Has(key), k)
		require.Equal(t, there, v != nil, k)
		require.Equal(t, want, string(v), k)
		if len(v) > 0 {
			v[0]++ // Get returned a copy, so this must change nothing
		}
	case 7:
		checkNeighbours(t, b, model, k)
	default:
		checkEqual(t, b, model)
	}
	return nil
}

// checkNeighbours seeks a key and checks the keys before and after it.
func checkNeighbours(t *rapid.T, b *store.Bucket, model map[string]string, seek string) {
	keys := slices.Sorted(maps.Keys(model))
	at, _ := slices.BinarySearch(keys, seek)
	c := b.Cursor()
	for _, side := range []struct {
		to   int
		move func() (k, v []byte)
	}{{at + 1, c.Next}, {at - 1, c.Prev}} {
		k, _ := c.Seek([]byte(seek))
		require.Equal(t, k != nil, at < len(keys), "seek %s", seek)
		if k != nil {
			require.Equal(t, keys[at], string(k), "seek %s", seek)
		}
		if at == len(keys) {
			return
		}
		k, v := side.move()
		there := side.to >= 0 && side.to < len(keys)
		require.Equal(t, k != nil, there, "the neighbour of %s", seek)
		if there {
			require.Equal(t, keys[side.to], string(k), "the neighbour of %s", seek)
			require.Equal(t, model[keys[side.to]], string(v), "the neighbour of %s", seek)
		}
	}
}

func checkEqual(t *rapid.T, b *store.Bucket, model map[string]string) {
	got := map[string]string{}
	err := b.ForEachPrefix(nil, func(k, v []byte) error { got[string(k)] = string(v); return nil })
	require.NoError(t, err)
	require.Equal(t, model, got)
	require.Equal(t, len(model), b.Len())
	require.Equal(t, len(model) == 0, b.Empty())
}

func TestUpdateBuffersALimitedAmount(t *testing.T) {
	s, err := store.Open(filepath.Join(t.TempDir(), "a.db"), store.Options{NoSync: true})
	require.NoError(t, err)
	defer s.Close()
	const rows = 80
	value := bytes.Repeat([]byte("v"), 1<<20)
	err = s.Update(func(tx *store.Tx) error {
		for i := range uint64(rows) {
			if err := errors.Join(tx.Bucket("big").Put(store.Key(i), value), tx.Bucket("n").Add([]byte("n"), 1)); err != nil {
				return err
			}
			assert.Equal(t, i+1, store.ToUint64(tx.Bucket("n").Get([]byte("n"))))
			require.LessOrEqual(t, store.Buffered(tx), 66<<20)
		}
		return nil
	})
	require.NoError(t, err)
	err = s.View(func(tx *store.Tx) error {
		assert.Equal(t, rows, tx.Bucket("big").Len())
		return nil
	})
	require.NoError(t, err)
}

func TestRowThatCantBeEncodedFailsTheUpdate(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "a.db"))
	put(t, s, "b", "k", "rowa")
	for name, read := range map[string]func(b *store.Bucket){
		"not read":    func(*store.Bucket) {},
		"read by Get": func(b *store.Bucket) { b.Get([]byte("k")) },
		"read by Len": func(b *store.Bucket) { b.Len() },
	} {
		err := s.Update(func(tx *store.Tx) error {
			err := store.PutRow(tx.Bucket("b"), []byte("k"), counter{13})
			read(tx.Bucket("b"))
			return err
		})
		require.ErrorIs(t, err, errEncode, name)
	}
	require.NoError(t, s.View(func(tx *store.Tx) error {
		assert.Equal(t, "rowa", string(tx.Bucket("b").Get([]byte("k"))))
		return nil
	}))
}

func TestKeyLengthIsLimited(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "a.db"))
	for _, key := range []string{"", strings.Repeat("k", 32769)} {
		err := s.Update(func(tx *store.Tx) error {
			b := tx.Bucket("b")
			for _, err := range []error{
				b.Put([]byte(key), nil), b.Add([]byte(key), 1), store.PutRow(b, []byte(key), counter{}),
			} {
				require.ErrorIs(t, err, store.ErrKey, "a key of %d bytes", len(key))
			}
			return b.Delete([]byte(key))
		})
		require.NoError(t, err, "delete a key of %d bytes", len(key))
	}
	put(t, s, "b", strings.Repeat("k", 32768), "v")
}

func TestAppendJSONIsStableForInvalidUTF8(t *testing.T) {
	for _, text := range []string{"plain", "\xff", "a\xffb\xfe", `\ufffd`, "�"} {
		once, err := store.AppendJSON(nil, &text)
		require.NoError(t, err)
		var read string
		require.NoError(t, json.Unmarshal(once, &read))
		again, err := store.AppendJSON([]byte("b"), &read)
		require.NoError(t, err, text)
		require.Equal(t, "b"+string(once), string(again), text)
	}
}
