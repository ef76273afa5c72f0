package pages_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// monday is the start of a Monday in UTC.
var monday = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

// receive applies n messages of the page that were stored at the same time.
func (f *fixture) receive(at time.Time, n int) {
	f.t.Helper()
	f.applyAt(at, n, message(page, at.UnixMilli()))
}

// applyAt applies an event n times, with different ids, all stored at the same time.
func (f *fixture) applyAt(at time.Time, n int, e domain.Event) {
	f.t.Helper()
	require.NoError(f.t, f.st.Update(func(tx *store.Tx) error {
		for range n {
			f.seq++
			e.ID = fmt.Sprint(f.seq)
			if err := pages.New().Apply(tx, streams.Stored{Event: e, Seq: f.seq, At: at}); err != nil {
				return err
			}
		}
		return nil
	}))
}

func (f *fixture) rhythm() pages.Rhythm {
	f.t.Helper()
	r, err := pages.ReadRhythm(f.st, page)
	require.NoError(f.t, err)
	return r
}

func TestRhythmByHourOfWeek(t *testing.T) {
	f := newFixture(t)
	for day := range 21 { // 10 per hour on working days from 8 to 18, for three weeks
		if day%7 > 4 {
			continue
		}
		for hour := 8; hour < 18; hour++ {
			f.receive(monday.AddDate(0, 0, day).Add(time.Duration(hour)*time.Hour+30*time.Minute), 10)
		}
	}
	r := f.rhythm()
	assert.True(t, r.Enough)
	assert.Equal(t, uint64(1500), r.Events)
	next := monday.AddDate(0, 0, 21)
	day := func(d, from, to int) float64 {
		at := next.AddDate(0, 0, d)
		return r.Expected(at.Add(time.Duration(from)*time.Hour), at.Add(time.Duration(to)*time.Hour))
	}
	assert.InDelta(t, 100, day(0, 0, 24), 1)
	assert.InDelta(t, 0, day(0, 18, 32), 0.001, "a night")
	assert.InDelta(t, 0, day(5, 0, 48), 0.001, "a weekend")
	assert.InDelta(t, 5, r.Expected(next.Add(9*time.Hour+15*time.Minute), next.Add(9*time.Hour+45*time.Minute)), 0.1)
	assert.InDelta(t, 5000, r.Expected(next, next.AddDate(0, 0, 70)), 50)
	assert.Zero(t, r.Expected(next, next.Add(-time.Hour)))
	assert.Positive(t, r.Expected(time.Time{}, next))
}

func TestRhythmOfShortHistory(t *testing.T) {
	f := newFixture(t)
	f.receive(monday, 19)
	assert.False(t, f.rhythm().Enough)
	f.receive(monday.Add(10*time.Minute), 29)
	r := f.rhythm()
	assert.True(t, r.Enough)
	assert.InDelta(t, 2, r.Expected(monday.Add(time.Hour), monday.Add(2*time.Hour)), 0.001,
		"the events of a burst are spread over a day")

	for day := range 3 { // by the hour of the day
		f.receive(monday.AddDate(0, 0, day).Add(12*time.Hour), 24)
	}
	r = f.rhythm()
	noon := monday.AddDate(0, 0, 4).Add(12 * time.Hour)
	assert.InDelta(t, 24, r.Expected(noon, noon.Add(time.Hour)), 0.001)
	assert.Zero(t, r.Expected(noon.Add(time.Hour), noon.Add(2*time.Hour)))
}

func TestRhythmIgnoresOldWeeks(t *testing.T) {
	f := newFixture(t)
	for week := range 30 {
		n := 1000 // the rate of the old weeks
		if week >= 20 {
			n = 10
		}
		f.receive(monday.AddDate(0, 0, 7*week), n)
	}
	r := f.rhythm()
	assert.InDelta(t, 10, r.Expected(monday.AddDate(0, 0, 210), monday.AddDate(0, 0, 217)), 2)
	require.NoError(t, f.st.View(func(tx *store.Tx) error {
		return tx.Bucket("rhythm").ForEachPrefix(nil, func(_, row []byte) error {
			assert.LessOrEqual(t, len(row), 64)
			return nil
		})
	}))
}

func TestRhythmCountsOnlyDeliveries(t *testing.T) {
	f := newFixture(t)
	connected := connection(domain.PageConnected, monday.UnixMilli(), full)
	fetched := event(domain.MessageReceived, 1, domain.Data{Source: "backfill"})
	sent := event(domain.MessageEchoed, 1, domain.Data{Source: "send"})
	test := event(domain.MessageReceived, 1, domain.Data{Test: true})
	standby := event(domain.MessageReceived, 1, domain.Data{Source: "webhook"})
	standby.Standby = true
	for _, e := range []domain.Event{connected, fetched, sent, test} {
		f.applyAt(monday, 30, e)
	}
	assert.Zero(t, f.rhythm().Events)
	assert.True(t, f.page(page).Traffic.LastInboundAt.IsZero())
	f.applyAt(monday, 30, standby)
	assert.Equal(t, uint64(30), f.rhythm().Events)
	assert.Equal(t, monday, f.page(page).Traffic.FirstInboundAt)
	_, err := pages.ReadRhythm(f.st, "nobody")
	require.ErrorIs(t, err, pages.ErrNotFound)
}

func TestQuiet(t *testing.T) {
	f := newFixture(t)
	quiet := func(now, from time.Time) pages.Silence {
		s, err := pages.Quiet(f.st, page, pages.Watch{Now: now, From: from, Threshold: 20})
		require.NoError(t, err)
		return s
	}
	for hour := range 72 {
		f.receive(monday.Add(time.Duration(hour)*time.Hour), 10)
	}
	last := monday.Add(71 * time.Hour)
	assert.False(t, quiet(last.Add(100*time.Hour), time.Time{}).Silent, "the page is not connected")
	f.applyAt(last, 1, connection(domain.PageConnected, last.UnixMilli(), full))

	s := quiet(last.Add(time.Hour), time.Time{})
	assert.Equal(t, last, s.Since)
	assert.True(t, s.Enough)
	assert.False(t, s.Silent)
	s = quiet(last.Add(3*time.Hour), time.Time{})
	assert.True(t, s.Silent)
	assert.InDelta(t, 30, s.Expected, 1)
	assert.False(t, quiet(last.Add(3*time.Hour), last.Add(2*time.Hour)).Silent, "earlier silence does not count")

	// The silence of a page that was connected again starts with the connection.
	again := last.Add(1000 * time.Hour)
	f.applyAt(again, 1, connection(domain.PageDisconnected, again.UnixMilli(), domain.Connection{}))
	f.applyAt(again, 1, connection(domain.PageConnected, again.UnixMilli(), full))
	s = quiet(again.Add(time.Hour), time.Time{})
	assert.Equal(t, again, s.Since)
	assert.False(t, s.Silent)
	_, err := pages.Quiet(f.st, "nobody", pages.Watch{})
	require.ErrorIs(t, err, pages.ErrNotFound)
}

func TestTokenExpiryAndScopes(t *testing.T) {
	f := newFixture(t)
	first := full
	first.Expires, first.DataAccessExpires, first.Scopes = 5000, 9000, []string{"pages_messaging"}
	f.apply(connection(domain.PageConnected, 1000, first))
	p := f.page(page)
	assert.Equal(t, []time.Time{ms(5_000_000), ms(9_000_000)}, []time.Time{p.TokenExpires, p.DataAccessExpires})
	assert.Equal(t, first.Scopes, p.Scopes)

	f.apply(connection(domain.PageTokenInvalidated, 2000, domain.Connection{Code: 190, Subcode: 463, Reason: "expired"}),
		connection(domain.PageTokenRefreshed, 2500, domain.Connection{
			Resealed: true, Secret: "ref-k2",
		}))
	p = f.page(page)
	assert.Equal(t, pages.TokenInvalid, p.Token, "encrypting it with another key does not make it valid")
	assert.Equal(t, []int{190, 463}, []int{p.TokenCode, p.TokenSubcode})
	assert.Equal(t, ms(2000), p.TokenSince)
	s, err := pages.Credentials(f.st, page)
	require.NoError(t, err)
	assert.Equal(t, "ref-k2", s.Secret)

	// The same token is valid again and keeps its expiry times and scopes.
	f.apply(connection(domain.PageTokenRefreshed, 3000,
		domain.Connection{Secret: "ref-k2", Reason: "valid again"}))
	p = f.page(page)
	assert.Equal(t, pages.TokenValid, p.Token)
	assert.Zero(t, p.TokenCode+p.TokenSubcode)
	assert.Equal(t, ms(5_000_000), p.TokenExpires)

	f.apply(connection(domain.PageTokenRefreshed, 4000,
		domain.Connection{Secret: "ref-3", DataAccessExpires: 9500}))
	p = f.page(page)
	assert.True(t, p.TokenExpires.IsZero())
	assert.Equal(t, ms(9_500_000), p.DataAccessExpires)
	assert.Nil(t, p.Scopes)

	f.apply(connection(domain.PageTokenRefreshed, 4100, domain.Connection{Expires: 1 << 62}),
		connection(domain.PageDisconnected, 5000, domain.Connection{}))
	p = f.page(page)
	assert.True(t, p.TokenExpires.IsZero())
	assert.True(t, p.DataAccessExpires.IsZero())
}
