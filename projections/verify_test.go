package projections_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// tally is a projection that counts events by page, in one row for each page.
type tally struct{ chain }

func (*tally) Name() string { return "tally" }

func (*tally) Apply(tx *store.Tx, e streams.Stored) error {
	b, key := tx.Bucket("pages"), store.Key(e.Page)
	return b.Put(key, store.Uint64(store.ToUint64(b.Get(key))+1))
}

// eventsOf returns one event for each page.
func eventsOf(pages ...string) (out []domain.Event) {
	for i, p := range pages {
		out = append(out, domain.Event{ID: fmt.Sprint(i, p), Type: domain.MessageReceived, Page: domain.PageID(p)})
	}
	return out
}

func TestVerify(t *testing.T) {
	t.Parallel()
	a, b, c := store.Key("a"), store.Key("b"), store.Key("c")
	for name, k := range map[string]struct {
		tamper func(*store.Bucket) error
		key    []byte
		what   string
		events []uint64
	}{
		"equal":   {func(*store.Bucket) error { return nil }, nil, "", nil},
		"differs": {func(k *store.Bucket) error { return k.Put(b, store.Uint64(7)) }, b, "differs", []uint64{2, 4}},
		"missing": {func(k *store.Bucket) error {
			return errors.Join(k.Delete(a), k.Put(b, nil))
		}, a, "missing", []uint64{1, 3, 5}},
		"extra": {func(k *store.Bucket) error { return k.Put(c, nil) }, c, "extra", nil},
	} {
		t.Run(name, func(t *testing.T) {
			srv := newTestServer(t)
			run := start(t, srv.runner(t, &tally{}))
			wait(t, run, srv.store(t, eventsOf("a", "b", "a", "b", "a")...))
			require.NoError(t, run.Close())
			s, err := store.Open(filepath.Join(srv.dir, "tally.db"), store.Options{})
			require.NoError(t, err)
			require.NoError(t, s.Update(func(tx *store.Tx) error { return k.tamper(tx.Bucket("pages")) }))
			require.NoError(t, s.Close())
			run = start(t, srv.runner(t, &tally{}))
			wait(t, run, 5)
			before := digest(t, run)
			out, err := run.Verify(t.Context(), nil)
			require.NoError(t, err)
			require.Equal(t, k.key == nil, out.Equal)
			require.Equal(t, uint64(5), out.Seq)
			require.Equal(t, before, out.Live)
			if d := out.Difference; d != nil {
				require.Equal(t, "pages", d.Bucket)
				require.Equal(t, hex.EncodeToString(k.key), d.Key)
				require.Equal(t, k.what, d.What)
				require.Equal(t, k.events, d.Events.First)
			} else {
				require.Nil(t, k.key, "there is no difference")
			}
			require.Equal(t, before, digest(t, run), "something has changed")
			require.Len(t, files(t, srv.dir), 1, "something has changed")
		})
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	run := start(t, srv.runner(t, &tally{}))
	var list []string
	for i := range 1000 {
		list = append(list, []string{"a", "b", "c"}[i%3])
	}
	wait(t, run, srv.store(t, eventsOf(list...)...))
	got, err := run.Explain(t.Context(), "pages", store.Key("b"), nil)
	require.NoError(t, err)
	require.Equal(t, 333, got.Count)
	require.Len(t, got.First, 100)
	require.Len(t, got.Last, 100)
	require.Equal(t, uint64(2), got.First[0])
	require.Equal(t, uint64(998), got.Last[99])
	_, err = run.Explain(t.Context(), "pages", store.Key("d"), nil)
	require.ErrorIs(t, err, projections.ErrNoRow)
}
