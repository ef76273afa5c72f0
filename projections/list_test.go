package projections_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/projectionstest"
	"github.com/pagestream/pagestream/projections/store"
)

// TestSelect reads lists in pages, in both directions.
func TestSelect(t *testing.T) {
	t.Parallel()
	s := projectionstest.Open(t, t.TempDir()+"/list.db")
	require.NoError(t, s.Update(func(tx *store.Tx) error {
		for _, k := range []string{"a1", "b1", "b2", "b3", "b4", "b5", "c1", "\xff\xff"} {
			if err := tx.Bucket("b").Put([]byte(k), []byte(k)); err != nil {
				return err
			}
		}
		for i := range uint64(25_000) {
			if err := tx.Bucket("many").Put(store.Uint64(i), nil); err != nil {
				return err
			}
		}
		return nil
	}))
	not := func(skip string) func(*store.Tx, []byte, []byte) (string, bool, error) {
		return func(_ *store.Tx, k, _ []byte) (string, bool, error) { return string(k), string(k) != skip, nil }
	}
	read := func(l projections.Listing, skip string) (all []string, pages int) {
		for {
			list, next, err := projections.Select(s, l, not(skip))
			require.NoError(t, err)
			require.NotNil(t, list)
			all = append(all, list...)
			pages++
			if l.Cursor = next; next == "" {
				return all, pages
			}
		}
	}
	for _, c := range []struct {
		prefix, skip string
		backwards    bool
		want         []string
		pages        int
	}{
		{"b", "", false, []string{"b1", "b2", "b3", "b4", "b5"}, 3},
		{"b", "", true, []string{"b5", "b4", "b3", "b2", "b1"}, 3},
		{"b", "b2", true, []string{"b5", "b4", "b3", "b1"}, 2},
		{"b", "b5", false, []string{"b1", "b2", "b3", "b4"}, 3},
		{"c", "", true, []string{"c1"}, 1},
		{"\xff", "", true, []string{"\xff\xff"}, 1},
		{"d", "", true, nil, 1},
		{"A", "", true, nil, 1},
		{"", "", true, []string{"\xff\xff", "c1", "b5", "b4", "b3", "b2", "b1", "a1"}, 4},
		{"", "", false, []string{"a1", "b1", "b2", "b3", "b4", "b5", "c1", "\xff\xff"}, 4},
	} {
		l := projections.Listing{Bucket: "b", Prefix: []byte(c.prefix), Limit: 2, Backwards: c.backwards}
		got, pages := read(l, c.skip)
		require.Equal(t, c.want, got, "%+v", c)
		require.Equal(t, c.pages, pages, "%+v", c)
	}
	none := func(*store.Tx, []byte, []byte) (string, bool, error) { return "", false, nil }
	list, next, err := projections.Select(s, projections.Listing{Bucket: "many"}, none)
	require.NoError(t, err)
	require.Empty(t, list)
	require.NotEmpty(t, next, "one call reads a limited number of rows")
	all, pages := read(projections.Listing{Bucket: "many", Limit: 500}, "")
	require.Len(t, all, 25_000)
	require.Equal(t, 50, pages)
	_, _, err = projections.Select(s, projections.Listing{Bucket: "b", Cursor: "!!"}, none)
	require.ErrorIs(t, err, projections.ErrCursor)
}

// FuzzCursor checks that a list which continues at any cursor, in either direction, has rows of its
// own prefix only, in order, and never begins again after a row.
func FuzzCursor(f *testing.F) {
	s := projectionstest.Open(f, f.TempDir()+"/list.db")
	require.NoError(f, s.Update(func(tx *store.Tx) error {
		for _, k := range []string{"a1", "b", "b1", "b2", "b3", "b\xff", "c1"} {
			if err := tx.Bucket("b").Put([]byte(k), nil); err != nil {
				return err
			}
		}
		return nil
	}))
	for _, at := range []string{"", "1", "2", "\xff", "\xff\xff", "\x00"} {
		f.Add(projections.EncodeCursor([]byte(at)), true)
		f.Add(projections.EncodeCursor([]byte(at)), false)
	}
	f.Add("!!", false)
	f.Add("YQ==", true)
	f.Fuzz(func(t *testing.T, cursor string, backwards bool) {
		list, next, err := projections.Select(s, projections.Listing{
			Bucket: "b", Prefix: []byte("b"), Cursor: cursor, Limit: 2, Backwards: backwards,
		}, func(_ *store.Tx, k, _ []byte) (string, bool, error) { return string(k), true, nil })
		if err != nil {
			require.ErrorIs(t, err, projections.ErrCursor)
			return
		}
		after, err := projections.DecodeCursor(cursor)
		require.NoError(t, err)
		for i, key := range list {
			require.Equal(t, "b", key[:1])
			if len(after) > 0 {
				require.Equal(t, backwards, key < "b"+string(after), key)
				require.NotEqual(t, "b"+string(after), key)
			}
			if i > 0 {
				require.Equal(t, backwards, key < list[i-1])
			}
		}
		if next != "" {
			at, err := projections.DecodeCursor(next)
			require.NoError(t, err)
			require.Equal(t, list[len(list)-1], "b"+string(at))
		}
	})
}
