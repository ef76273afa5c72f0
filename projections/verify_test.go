package projections_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

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
			if err := run.Close(); err != nil {
				t.Fatal(err)
			}
			s, err := store.Open(filepath.Join(srv.dir, "tally.db"), store.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Update(func(tx *store.Tx) error { return k.tamper(tx.Bucket("pages")) }); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			run = start(t, srv.runner(t, &tally{}))
			wait(t, run, 5)
			before := digest(t, run)
			out, err := run.Verify(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if out.Equal != (k.key == nil) || out.Seq != 5 || out.Live != before {
				t.Errorf("%+v", out)
			}
			if d := out.Difference; d != nil {
				if d.Bucket != "pages" || d.Key != hex.EncodeToString(k.key) ||
					d.What != k.what || !slices.Equal(d.Events.First, k.events) {
					t.Errorf("%+v", d)
				}
			} else if k.key != nil {
				t.Error("there is no difference")
			}
			if digest(t, run) != before || len(files(t, srv.dir)) != 1 {
				t.Errorf("something has changed: %v", files(t, srv.dir))
			}
		})
	}
}

func TestExplain(t *testing.T) {
	srv := newTestServer(t)
	run := start(t, srv.runner(t, &tally{}))
	var list []string
	for i := range 1000 {
		list = append(list, []string{"a", "b", "c"}[i%3])
	}
	wait(t, run, srv.store(t, eventsOf(list...)...))
	got, err := run.Explain(t.Context(), "pages", store.Key("b"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.Count != 333 || len(got.First) != 100 || len(got.Last) != 100 || got.First[0] != 2 || got.Last[99] != 998 {
		t.Errorf("%+v", got)
	}
	if _, err := run.Explain(t.Context(), "pages", store.Key("d"), nil); !errors.Is(err, projections.ErrNoRow) {
		t.Errorf("got %v", err)
	}
}
