package profile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/projectionstest"
	"github.com/pagestream/pagestream/streams"
)

const (
	page  = domain.PageID("104")
	token = "EAAsecretsecretsecret"
)

// fakeGraph is a fake of Graph and of the tokens, with a clock.
type fakeGraph struct {
	mu       sync.Mutex
	now      time.Time
	asked    []string
	fail     error
	tokenErr error
	silent   bool
	during   func() // is called while Graph is asked
}

func (g *fakeGraph) set(f func(*fakeGraph)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f(g)
}

func (g *fakeGraph) calls() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.asked)
}

func (g *fakeGraph) clock() time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.now
}

func (g *fakeGraph) Access(_ context.Context, page domain.PageID) (meta.Access, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.tokenErr != nil {
		return meta.Access{}, fmt.Errorf("look for token of %s: %w", page, g.tokenErr)
	}
	return meta.Access{Page: page, App: "shop", Token: token}, nil
}

func (g *fakeGraph) Profile(
	_ context.Context, a meta.Access, contact domain.ContactID, instagram bool,
) (graph.Profile, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked = append(g.asked, fmt.Sprint(a.App, " ", a.Page, " ", contact, " ", instagram))
	if g.during != nil {
		g.during()
	}
	switch {
	case a.Token != token:
		return graph.Profile{}, errors.New("wrong token")
	case g.fail != nil:
		return graph.Profile{}, fmt.Errorf("call graph: %w", g.fail)
	case g.silent:
		return graph.Profile{Name: " "}, nil
	}
	return graph.Profile{Name: "Ann " + string(contact), Picture: "https://pic.example/" + string(contact)}, nil
}

func (r *fixture) connect() (*nats.Conn, error) { return r.Embedded().Connect("profile") }

func (r *fixture) reactor(change ...func(*Options)) (*Reactor, *fakeGraph) {
	g := &fakeGraph{now: time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)}
	o := Options{
		Connect: r.connect, JS: r.JS, Tokens: g, Graph: g, Publisher: r.Publisher, Conversations: r.Named("conversations"), Now: g.clock,
	}
	for _, f := range change {
		f(&o)
	}
	return New(o), g
}

// received returns the contact's nth message.
func received(contact domain.ContactID, n int) domain.Event {
	mid := fmt.Sprintf("m_%s_%d", contact, n)
	return domain.Event{
		ID: domain.DedupID("page", page, "msg", mid), Type: domain.MessageReceived, Page: page, Contact: contact,
		Time: time.UnixMilli(1_780_000_000_000 + int64(n)).UTC(),
		Data: domain.Data{Object: "page", Source: "webhook", Message: &domain.Message{MID: mid, Text: "hi"}},
	}
}

// handle stores an event and calls the reactor with it.
func (r *fixture) handle(t *testing.T, reactor *Reactor, e domain.Event) error {
	t.Helper()
	receipt := r.Publish(t, e)[0]
	ctx, cancel := projectionstest.Limited()
	defer cancel()
	return reactor.Handle(ctx, streams.Stored{Event: e, Seq: receipt.Seq, At: e.Time})
}

func (r *fixture) profiles(t *testing.T) (list []streams.Stored) {
	t.Helper()
	for _, e := range r.All(t) {
		if e.Type == domain.ContactProfiled {
			list = append(list, e)
		}
	}
	return list
}

func TestEachContactIsRequestedOnce(t *testing.T) {
	r := newFixture(t)
	reactor, g := r.reactor()
	for n := range 3 {
		require.NoError(t, r.handle(t, reactor, received("7", n)))
	}
	require.NoError(t, r.handle(t, reactor, received("8", 1)))
	assert.Equal(t, []string{"shop 104 7 false", "shop 104 8 false"}, g.asked)
	list := r.profiles(t)
	require.Len(t, list, 2)
	assert.Equal(t, domain.ContactID("7"), list[0].Contact)
	assert.Equal(t, &domain.Profile{Name: "Ann 7", Picture: "https://pic.example/7"}, list[0].Data.Profile)
	assert.Equal(t, g.now, list[0].Time)
	assert.NotContains(t, list[0].ID, ":7|", "the id names no person")
	c, err := conversations.Get(r.Named("conversations"), page, "7")
	require.NoError(t, err)
	assert.Equal(t, "Ann 7", c.Name)
	assert.Equal(t, Stats{Profiled: 2, Known: 2}, reactor.Stats())

	// Another node does not have this one's cache, but the same read model.
	other, g2 := r.reactor()
	require.NoError(t, r.handle(t, other, received("7", 4)))
	assert.Zero(t, g2.calls())
	// An old profile is read again.
	g2.set(func(g *fakeGraph) { g.now = g.now.Add(DefaultMaxAge + time.Hour) })
	require.NoError(t, r.handle(t, other, received("7", 5)))
	assert.Equal(t, 1, g2.calls())
	assert.Len(t, r.profiles(t), 3)
}

func TestConcurrentNodesStoreOneEvent(t *testing.T) {
	r := newFixture(t)
	a, _ := r.reactor()
	b, _ := r.reactor()
	e := received("7", 1)
	seq := r.Publish(t, e)[0].Seq
	var both sync.WaitGroup
	for _, reactor := range []*Reactor{a, b} {
		both.Go(func() {
			ctx, cancel := projectionstest.Limited()
			defer cancel()
			assert.NoError(t, reactor.Handle(ctx, streams.Stored{Event: e, Seq: seq}))
		})
	}
	both.Wait()
	assert.Len(t, r.profiles(t), 1)
}

func TestEventsWithoutAProfileRequest(t *testing.T) {
	r := newFixture(t)
	reactor, g := r.reactor()
	test := received("7", 1)
	test.Data.Test = true
	echo := received("7", 2)
	echo.Type = domain.MessageEchoed
	nobody := received("", 3)
	nowhere := received("7", 4)
	nowhere.Page = domain.NoPage
	change := received("7", 5)
	change.Type = domain.ChangeReceived
	for _, e := range []domain.Event{test, echo, nobody, nowhere, change} {
		require.NoError(t, r.handle(t, reactor, e))
	}
	assert.Zero(t, g.calls())
	instagram := received("9", 6)
	instagram.Data.Object = "instagram"
	require.NoError(t, r.handle(t, reactor, instagram))
	assert.Equal(t, []string{"shop 104 9 true"}, g.asked)
	assert.Equal(t, "instagram", r.profiles(t)[0].Data.Object)
}

func TestMissingProfileIsNotAnEvent(t *testing.T) {
	for name, answer := range map[string]func(*fakeGraph){
		"nothing":              func(g *fakeGraph) { g.silent = true },
		"no profile, as code":  func(g *fakeGraph) { g.fail = &meta.Error{Code: 2018218} },
		"no profile":           func(g *fakeGraph) { g.fail = &meta.Error{Code: 100, Subcode: 2018218} },
		"no consent":           func(g *fakeGraph) { g.fail = &meta.Error{Code: 230} },
		"permission":           func(g *fakeGraph) { g.fail = &meta.Error{Code: 10} },
		"permission of an app": func(g *fakeGraph) { g.fail = &meta.Error{Code: 200} },
		"not visible":          func(g *fakeGraph) { g.fail = &meta.Error{Code: 100, Subcode: 33} },
	} {
		t.Run(name, func(t *testing.T) {
			r := newFixture(t)
			reactor, g := r.reactor()
			g.set(answer)
			require.NoError(t, r.handle(t, reactor, received("7", 1)))
			require.NoError(t, r.handle(t, reactor, received("7", 2)))
			assert.Equal(t, 1, g.calls(), "not asked again at once")
			assert.Empty(t, r.profiles(t))
			assert.Equal(t, Stats{NoProfile: 1, Known: 1}, reactor.Stats())
			g.set(func(g *fakeGraph) { g.now, g.fail, g.silent = g.now.Add(retryAfter), nil, false })
			require.NoError(t, r.handle(t, reactor, received("7", 3)))
			assert.Len(t, r.profiles(t), 1, "asked again a day later")
		})
	}
}

func TestPagesWithoutATokenAreSkipped(t *testing.T) {
	r := newFixture(t)
	reactor, g := r.reactor()
	n := 0
	hand := func() error { n++; return r.handle(t, reactor, received("7", n)) }
	for _, err := range []error{meta.ErrNotConnected, meta.ErrTokenDead, meta.ErrToken} {
		g.set(func(g *fakeGraph) { g.now, g.tokenErr = g.now.Add(meta.NoTokenWait), err })
		require.NoError(t, hand())
		g.set(func(g *fakeGraph) { g.tokenErr = io.ErrUnexpectedEOF })
		require.NoError(t, hand(), "nobody is asked for its token with each message")
	}
	g.set(func(g *fakeGraph) {
		g.now, g.tokenErr, g.fail = g.now.Add(meta.NoTokenWait), nil, &meta.Error{Code: 190, Subcode: 460}
	})
	require.NoError(t, hand())
	require.NoError(t, hand())
	assert.Equal(t, 1, g.calls(), "a dead token is not tried with each message")
	assert.Equal(t, Stats{NoToken: 8}, reactor.Stats())
	g.set(func(g *fakeGraph) { g.now, g.fail = g.now.Add(meta.DeadTokenWait), nil })
	require.NoError(t, hand())
	assert.Len(t, r.profiles(t), 1, "the contact is asked about when the token is well")
	g.set(func(g *fakeGraph) { g.tokenErr = io.ErrUnexpectedEOF })
	assert.ErrorIs(t, r.handle(t, reactor, received("8", 1)), io.ErrUnexpectedEOF)
}

func TestDeadTokenCodes(t *testing.T) {
	r := newFixture(t)
	reactor, g := r.reactor()
	dead := []error{&meta.Error{Code: 190}, &meta.Error{Code: 102}, &meta.Error{Code: 104}, meta.ErrNotConnected}
	for n, fail := range dead {
		g.set(func(g *fakeGraph) { g.now, g.fail = g.now.Add(meta.DeadTokenWait), fail })
		require.NoError(t, r.handle(t, reactor, received("7", 2*n)))
		require.NoError(t, r.handle(t, reactor, received("7", 2*n+1)))
		assert.Equal(t, n+1, g.calls())
	}
	assert.Equal(t, Stats{NoToken: 8}, reactor.Stats())
}

func TestFailuresAreRetried(t *testing.T) {
	r := newFixture(t)
	reactor, g := r.reactor()
	for _, fail := range []error{io.ErrUnexpectedEOF, &meta.Error{Code: 2}} {
		g.set(func(g *fakeGraph) { g.fail = fail })
		require.ErrorIs(t, r.handle(t, reactor, received("7", 1)), fail)
	}
	g.set(func(g *fakeGraph) { g.fail = nil })
	require.NoError(t, r.handle(t, reactor, received("7", 1)))
	assert.Len(t, r.profiles(t), 1)
	assert.Equal(t, Stats{Failed: 2, Profiled: 1}, reactor.Stats())
}

func TestThrottlingIsPerPage(t *testing.T) {
	r := newFixture(t)
	reactor, g := r.reactor()
	g.set(func(g *fakeGraph) { g.fail = &meta.Error{Code: 80006, After: 5 * time.Minute} })
	for n := range 3 {
		var throttled *meta.ThrottledError
		require.ErrorAs(t, r.handle(t, reactor, received("7", n)), &throttled)
		assert.Equal(t, 5*time.Minute, throttled.RetryAfter())
		assert.Equal(t, page, throttled.Page)
	}
	assert.Equal(t, 1, g.calls(), "the page is left alone")
	g.set(func(g *fakeGraph) { g.fail = nil })
	other := received("8", 1)
	other.Page, other.ID = "105", "other"
	require.NoError(t, r.handle(t, reactor, other))
	assert.Equal(t, 2, g.calls(), "another page is not")
	g.set(func(g *fakeGraph) { g.now = g.now.Add(5 * time.Minute) })
	require.NoError(t, r.handle(t, reactor, received("7", 4)))
	assert.Equal(t, Stats{Throttled: 3, Profiled: 2}, reactor.Stats())
}

func TestErasedContactsAreNotRequested(t *testing.T) {
	r := newFixture(t)
	reactor, g := r.reactor()
	e := received("7", 1)
	seq := r.Publish(t, e)[0].Seq
	r.Publish(
		t, domain.Event{ID: "erase", Type: domain.ContactErased, Page: page, Contact: "7", Time: e.Time.Add(time.Hour)},
	)
	ctx, cancel := projectionstest.Limited()
	defer cancel()
	require.NoError(t, reactor.Handle(ctx, streams.Stored{Event: e, Seq: seq}))
	assert.Zero(t, g.calls())
	assert.Equal(t, Stats{Erased: 1}, reactor.Stats())
}

// TestErasedWhileGraphIsAsked checks that the name of a contact is not stored who is erased before Graph has answered.
func TestErasedWhileGraphIsAsked(t *testing.T) {
	r := newFixture(t)
	reactor, g := r.reactor()
	e := received("7", 1)
	seq := r.Publish(t, e)[0].Seq
	g.during = func() {
		_, err := streams.Erase(t.Context(), r.JS, streams.Name, []uint64{seq}, func(streams.Stored) bool { return true })
		assert.NoError(t, err)
	}
	require.NoError(t, reactor.Handle(t.Context(), streams.Stored{Event: e, Seq: seq, At: e.Time}))
	assert.Equal(t, 1, g.calls())
	assert.Empty(t, r.profiles(t))
	assert.Equal(t, Stats{Erased: 1}, reactor.Stats())
}

func TestErrorsHaveNoTokens(t *testing.T) {
	r := newFixture(t)
	reactor, g := r.reactor()
	g.set(func(g *fakeGraph) { g.fail = io.ErrUnexpectedEOF })
	err := r.handle(t, reactor, received("7", 1))
	require.Error(t, err)
	assert.False(t, strings.Contains(err.Error(), token) || strings.Contains(err.Error(), "Ann"))
}

func TestCacheIsBounded(t *testing.T) {
	m := newTimeCache(3)
	at := time.Unix(1, 0)
	for i := range 10 {
		m.Add(fmt.Sprint(i), at)
		m.Add("0", at.Add(time.Duration(i)))
		m.get("1") // reading does not change which key is dropped
	}
	assert.Equal(t, 3, m.Len())
	assert.Equal(t, at.Add(9), m.get("0"), "what was set last stays")
	assert.Equal(t, at, m.get("9"))
	assert.Zero(t, m.get("1"))
}

func TestNewPanicsWithoutRequiredOptions(t *testing.T) {
	assert.Panics(t, func() { New(Options{}) })
}
