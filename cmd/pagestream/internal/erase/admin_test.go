package erase

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/streams"
)

// Persons who connect pages, as Meta names them to the app.
const (
	alice = "10215241773831025"
	bob   = "10215999999999999"
)

// dropped remembers the secrets that were erased.
type dropped map[string]bool

func (d dropped) Drop(_ context.Context, page domain.PageID, ref string) error {
	d[string(page)+"/"+ref] = true
	return nil
}

// granted is an event that names who granted a page's token.
func granted(t domain.Type, page domain.PageID, connection, admin string, at time.Time) domain.Event {
	ref := fmt.Sprint("ref-", page, "-", at.Unix())
	return domain.Event{
		ID: fmt.Sprint(t, page, at.Unix()), Type: t, Page: page, Time: at,
		Data: domain.Data{App: "main", Connection: &domain.Connection{
			ConnectionID: connection, App: "main", AppID: "900", Company: "acme", Name: "Page " + string(page),
			Instagram: "ig" + string(page), Admin: admin, Secret: ref, Fields: []string{"messages"}, Scopes: []string{"pages"},
		}},
	}
}

// ended is the event that ends a connection.
func ended(page domain.PageID, connection string, at time.Time) domain.Event {
	return domain.Event{
		ID: fmt.Sprint("end", page, at.Unix()), Type: domain.PageDisconnected, Page: page, Time: at,
		Data: domain.Data{App: "main", Connection: &domain.Connection{ConnectionID: connection, App: "main"}},
	}
}

// admins is a fixture with an eraser of the data of persons who connected pages.
func admins(t *testing.T) (*fixture, *Admins, dropped, *[]meta.Erasure) {
	t.Helper()
	r, gone, recorded := newFixture(t), dropped{}, &[]meta.Erasure{}
	return r, NewAdmins(AdminsOptions{
		JS: r.JS, Connect: func() (*nats.Conn, error) { return r.Embedded().Connect("erase") },
		Publisher: r.Publisher, Pages: r.live.Named("pages"), Secrets: gone,
		Recorded: func(e meta.Erasure) error { *recorded = append(*recorded, e); return nil },
	}), gone, recorded
}

// TestEraseAdmin checks that the id of a person is deleted from events, files and models, that connections keep
// their history, that what somebody else has granted and what the person has granted since is kept, and that a
// rebuild has the digest of the live models.
func TestEraseAdmin(t *testing.T) {
	r, x, gone, recorded := admins(t)
	at := func(minute int) time.Time { return time.Date(2026, 6, 1, 12, minute, 0, 0, time.UTC) }
	r.Publish(t,
		granted(domain.PageConnected, "1", "c1", alice, at(0)),
		granted(domain.PageTokenRefreshed, "1", "c1", alice, at(1)),
		granted(domain.PageConnected, "2", "c2", bob, at(2)),
		granted(domain.PageTokenRefreshed, "2", "c2", alice, at(3)), // somebody else's page, with her token
		granted(domain.PageConnected, "3", "c3", alice, at(4)),
		granted(domain.PageConnected, "3", "c4", bob, at(5)), // she had it before
		ended("1", "c1", at(20)), ended("2", "c2", at(20)),
		granted(domain.PageConnected, "1", "c5", alice, at(30)), // a new connection
		granted(domain.PageTokenRefreshed, "1", "c5", alice, at(31)),
		granted(domain.PageConnected, "4", "c6", "", at(32)), // nobody is known
	)
	last := r.Settle(t, r.live)
	owner := func(page domain.PageID, seq uint64) pages.Ownership {
		o, err := pages.Owner(r.live.Named("pages"), page, seq)
		require.NoError(t, err)
		return o
	}
	var before []pages.Ownership
	for seq := range last {
		before = append(before, owner("1", seq+1), owner("2", seq+1), owner("3", seq+1))
	}
	a := meta.AdminErasure{Hash: domain.AdminHash("main", alice), Before: at(10), Request: "0123456789abcdef5000"}

	done, err := x.Erase(t.Context(), a)
	require.NoError(t, err)
	assert.Equal(t, 3, done.Pages)
	assert.Equal(t, 4, done.Events)
	assert.Equal(t, 4, done.Secrets)
	assert.Zero(t, done.Open)
	assert.WithinDuration(t, time.Now(), done.At, time.Minute)
	require.Len(t, *recorded, 1)
	assert.Equal(t, a, *(*recorded)[0].Admin)
	for _, seq := range []uint64{1, 2, 4, 5} {
		assert.False(t, r.stored(t, seq), seq)
	}
	for _, seq := range []uint64{3, 6, 7, 8, 9, 10, 11} {
		assert.True(t, r.stored(t, seq), seq)
	}
	assert.Len(t, gone, 4)
	assert.NotContains(t, gone, fmt.Sprint("1/ref-1-", at(31).Unix()))

	// A repeated request changes nothing and says the same.
	head := r.Settle(t, r.live)
	again, err := x.Erase(t.Context(), a)
	require.NoError(t, err)
	assert.Equal(t, done, again)
	assert.Equal(t, head, r.Settle(t, r.live))
	assert.Len(t, *recorded, 1)

	// The new connection has her id, the others a placeholder or Bob's.
	p, err := pages.Get(r.live.Named("pages"), "1")
	require.NoError(t, err)
	assert.Equal(t, alice, p.Admin)
	assert.Equal(t, at(30), p.AdminSince)
	p, err = pages.Get(r.live.Named("pages"), "2")
	require.NoError(t, err)
	assert.Equal(t, domain.ErasedAdmin, p.Admin)
	p, err = pages.Get(r.live.Named("pages"), "3")
	require.NoError(t, err)
	assert.Equal(t, bob, p.Admin)

	assert.Equal(t, r.digests(t, r.live), r.digests(t, r.build(t)))
	var after []pages.Ownership
	for seq := range last {
		after = append(after, owner("1", seq+1), owner("2", seq+1), owner("3", seq+1))
	}
	assert.Equal(t, before, after, "the connections keep their history")

	// Her second request also ends what is new.
	r.Publish(t, ended("1", "c5", at(40)))
	_, err = x.Erase(t.Context(), meta.AdminErasure{Hash: a.Hash, Before: at(50), Request: "other"})
	require.NoError(t, err)
	assert.False(t, r.onDisk(t, alice), "her id is in no file of the stream")
	assert.True(t, r.onDisk(t, bob))
	assert.Equal(t, r.digests(t, r.live), r.digests(t, r.build(t)))
	done, err = x.Done(t.Context(), a.Request)
	require.NoError(t, err)
	assert.Equal(t, again, done, "each request has its own numbers")
}

// TestEraseAdminAfterACrash checks that a recorded erasure is carried out by the reactor, that a repeated request
// finishes it too, and that an erasure which lists another event deletes nothing.
func TestEraseAdminAfterACrash(t *testing.T) {
	r, x, _, _ := admins(t)
	at := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	r.Publish(t, granted(domain.PageConnected, "1", "c1", alice, at), granted(domain.PageConnected, "2", "c2", bob, at),
		ended("1", "c1", at.Add(time.Minute)))
	r.Settle(t, r.live)
	a := meta.AdminErasure{Hash: domain.AdminHash("main", alice), Before: at.Add(time.Hour), Request: "r1"}
	found, err := x.find(t.Context(), a)
	require.NoError(t, err)
	_, err = x.record(t.Context(), a.Request, "1", found["1"])
	require.NoError(t, err)
	done, err := x.Done(t.Context(), a.Request)
	require.NoError(t, err)
	assert.Equal(t, 1, done.Open)
	done, err = x.Erase(t.Context(), a)
	require.NoError(t, err)
	assert.Zero(t, done.Open)
	assert.Equal(t, 1, done.Events)

	e, err := streams.Get(t.Context(), r.JS, streams.Name, 2)
	require.NoError(t, err)
	forged := domain.NewTombstone(e.Event, 2, e.At)
	forged.ID = "00"
	r.Publish(t, domain.Event{
		ID: "forged", Type: domain.PageAdminErased, Page: "2",
		Data: domain.Data{Erasure: &domain.Erasure{Request: "r2", Part: 1, Parts: 1, Events: []domain.Tombstone{forged}}},
	})
	_, err = x.Erase(t.Context(), meta.AdminErasure{Hash: "nobody", Request: "r2"})
	require.NoError(t, err)
	assert.True(t, r.stored(t, 2))
}

// TestEraseAdminIsRecordedFirst checks that nothing is erased if the erasures file can't be written.
func TestEraseAdminIsRecordedFirst(t *testing.T) {
	r, x, _, _ := admins(t)
	at := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	r.Publish(t, granted(domain.PageConnected, "1", "c1", alice, at))
	full := errors.New("the disk is full")
	x.opts.Recorded = func(meta.Erasure) error { return full }
	a := meta.AdminErasure{Hash: domain.AdminHash("main", alice), Before: at.Add(1), Request: "r"}
	_, err := x.Erase(t.Context(), a)
	require.ErrorIs(t, err, full)
	assert.Equal(t, uint64(1), r.Settle(t, r.live))
}
