package conversations_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

const (
	page    = domain.PageID("104")
	contact = domain.ContactID("7001")
)

// fixture is a store and the sequence of the last event applied to it.
type fixture struct {
	t   require.TestingT
	st  *store.Store
	seq uint64
}

// openFixture returns a fixture in a new file, for one check of a property. The function removes it.
func openFixture(t require.TestingT, path string) (f *fixture, remove func()) {
	st, err := store.Open(path, store.Options{NoSync: true})
	require.NoError(t, err)
	return &fixture{t: t, st: st}, func() {
		require.NoError(t, st.Close())
		require.NoError(t, os.Remove(path))
	}
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	st, err := store.Open(filepath.Join(t.TempDir(), "conversations.db"), store.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.Close()) })
	return &fixture{t: t, st: st}
}

// apply applies events in one transaction.
func (f *fixture) apply(events ...domain.Event) {
	p := conversations.New()
	err := f.st.Update(func(tx *store.Tx) error {
		for _, e := range events {
			f.seq++
			at := time.UnixMilli(1_800_000_000_000 + int64(f.seq)*1000).UTC()
			if err := p.Apply(tx, streams.Stored{Event: e, Seq: f.seq, At: at}); err != nil {
				return err
			}
		}
		return nil
	})
	require.NoError(f.t, err)
}

func (f *fixture) messages() []conversations.Message {
	list, next, err := conversations.Messages(f.st, page, contact, "", 500, false)
	require.NoError(f.t, err)
	require.Empty(f.t, next)
	return list
}

func (f *fixture) message(mid string) conversations.Message {
	m, err := conversations.FindByMID(f.st, page, contact, mid)
	require.NoError(f.t, err, "mid %s", mid)
	return m
}

func (f *fixture) conversation() conversations.Conversation {
	c, err := conversations.Get(f.st, page, contact)
	require.NoError(f.t, err)
	return c
}

func (f *fixture) counts() conversations.Counts {
	c, err := conversations.Count(f.st, page)
	require.NoError(f.t, err)
	return c
}

func ms(n int64) time.Time { return time.UnixMilli(n).UTC() }

func event(t domain.Type, at int64, d domain.Data) domain.Event {
	b, _ := json.Marshal(d)
	d.Object = "page"
	return domain.Event{
		ID:   domain.DedupID("page", page, "h", fmt.Sprintf("%x", sha256.Sum256(fmt.Appendf(b, "%s %d", t, at)))),
		Type: t, Page: page, Contact: contact, Time: ms(at), Data: d,
	}
}

func in(mid, text string, at int64) domain.Event {
	return event(domain.MessageReceived, at, domain.Data{Message: &domain.Message{MID: mid, Text: text}})
}

func out(mid, text string, at int64) domain.Event {
	m := &domain.Message{MID: mid, Text: text, Echo: true, AppID: "55"}
	return event(domain.MessageEchoed, at, domain.Data{Message: m})
}

func edit(mid, text string, num, at int64) domain.Event {
	return event(domain.MessageEdited, at, domain.Data{Edit: &domain.Edit{MID: mid, Text: &text, Num: num}})
}

func unsend(mid string, at int64) domain.Event {
	return event(domain.MessageDeleted, at, domain.Data{Message: &domain.Message{MID: mid, Deleted: true}})
}

func react(mid, sender, emoji string, at int64) domain.Event {
	r := &domain.Reaction{MID: mid, Action: "react", Reaction: "other", Emoji: emoji}
	return event(domain.MessageReacted, at, domain.Data{Sender: sender, Reaction: r})
}

func unreact(mid, sender string, at int64) domain.Event {
	r := &domain.Reaction{MID: mid, Action: "unreact"}
	return event(domain.MessageReacted, at, domain.Data{Sender: sender, Reaction: r})
}

func delivered(at, watermark int64, mids ...string) domain.Event {
	return event(domain.MessageDelivered, at, domain.Data{Delivery: &domain.Delivery{Watermark: watermark, MIDs: mids}})
}

func read(at, watermark int64) domain.Event {
	return event(domain.MessageRead, at, domain.Data{Read: &domain.Read{Watermark: watermark}})
}

func readMID(at int64, mid string) domain.Event {
	return event(domain.MessageRead, at, domain.Data{Read: &domain.Read{MID: mid}})
}

// withContact returns the event with another page and contact.
func withContact(e domain.Event, p domain.PageID, c domain.ContactID) domain.Event {
	e.Page, e.Contact = p, c
	e.ID += ":" + string(p) + ":" + string(c)
	return e
}

// each calls fn with all rows of the store.
func (f *fixture) each(fn func(bucket string, key, value []byte)) {
	require.NoError(f.t, f.st.View(func(tx *store.Tx) error {
		byPage, byKey := conversations.New().PagedBuckets()
		for _, name := range append(byPage, byKey...) {
			c := tx.Bucket(name).Cursor()
			for k, v := c.First(); k != nil; k, v = c.Next() {
				fn(name, k, v)
			}
		}
		return nil
	}))
}

// contains reports whether any key or value in the store contains s.
func (f *fixture) contains(s string) (found bool) {
	f.each(func(bucket string, k, v []byte) {
		pageKey := bucket == "counts" // the key is the page id
		found = found || !pageKey && bytes.Contains(k, []byte(s)) || bytes.Contains(v, []byte(s))
	})
	return found
}

// rows returns all rows of the store.
func (f *fixture) rows() map[string]string {
	all := map[string]string{}
	f.each(func(bucket string, k, v []byte) { all[bucket+" "+string(k)] = string(v) })
	return all
}
