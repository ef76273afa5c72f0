package consumers

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/embedded"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// users are the users of the embedded server, as in the running program.
type users struct{ s *embedded.Server }

func (u users) SetUser(name, key, durable string) error {
	return u.s.SetUser(embedded.User{Name: name, PublicKey: key, Stream: streams.Name, Consumer: durable})
}
func (u users) RemoveUser(name string) { u.s.RemoveUser(name) }
func (u users) URL() string            { return "nats://" + u.s.Addr() }

// fixture is a stream with consumers and the pages of one company.
type fixture struct {
	*streamstest.Server
	*Consumers

	mu    sync.Mutex
	pages []domain.PageID // pages of the company acme
	n     int             // number of stored events
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	s := streamstest.Run(t, func(o *embedded.Options) { o.Sync, o.Listen = embedded.SyncInterval, "127.0.0.1:0" })
	s.Stream(t, streams.Spec{})
	r := &fixture{Server: s}
	pagesOf := func(company string) ([]domain.PageID, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if company != "acme" {
			return nil, nil
		}
		return slices.Clone(r.pages), nil
	}
	r.Consumers = New(Options{JS: s.JS, Stream: streams.Name, Users: users{s.Embedded()}, PagesOf: pagesOf})
	return r
}

// connect connects a page to acme.
func (r *fixture) connect(t *testing.T, page domain.PageID) {
	t.Helper()
	r.store(t, page, domain.PageConnected, 1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pages = append(r.pages, page)
}

func (r *fixture) store(t *testing.T, page domain.PageID, typ domain.Type, n int) {
	t.Helper()
	for range n {
		r.n++
		m, err := streams.Encode(domain.Event{ID: fmt.Sprint("e", r.n), Type: typ, Page: page})
		require.NoError(t, err)
		_, err = r.JS.PublishMsgAsync(m, jetstream.WithStallWait(streamstest.Limit))
		require.NoError(t, err)
	}
	select {
	case <-r.JS.PublishAsyncComplete():
	case <-time.After(streamstest.Limit):
		require.Fail(t, "not stored in time")
	}
}

// reader connects as an external program: with a plain NATS client and the seed.
func reader(t *testing.T, a Added) (*nats.Conn, jetstream.Consumer) {
	t.Helper()
	key, err := nats.NkeyOptionFromSeed(seedFile(t, a.Seed))
	require.NoError(t, err)
	nc, err := nats.Connect(a.URL, key)
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	c, err := js.Consumer(t.Context(), a.Stream, a.Durable)
	require.NoError(t, err)
	return nc, c
}

func read(t *testing.T, c jetstream.Consumer, n int) (seqs []uint64, pages map[string]int) {
	t.Helper()
	pages = map[string]int{}
	for len(seqs) < n {
		batch, err := c.Fetch(n-len(seqs), jetstream.FetchMaxWait(400*time.Millisecond))
		require.NoError(t, err)
		before := len(seqs)
		for m := range batch.Messages() {
			meta, err := m.Metadata()
			require.NoError(t, err)
			e, err := streams.Decode(m.Subject(), m.Headers(), m.Data(), meta.Sequence.Stream, meta.Timestamp)
			require.NoError(t, err)
			seqs = append(seqs, e.Seq)
			pages[string(e.Page)+" "+string(e.Type)]++
			require.NoError(t, m.Ack())
		}
		if len(seqs) == before {
			break
		}
	}
	return seqs, pages
}

func TestConsumerReadsItsPagesAndTypesOnly(t *testing.T) {
	r := newFixture(t)
	for _, page := range []domain.PageID{"100", "200"} {
		r.store(t, page, domain.PageConnected, 1)
		r.store(t, page, domain.MessageReceived, 5)
		r.store(t, page, domain.MessageRead, 2)
	}
	a, err := r.Add(t.Context(), Spec{Name: "crm", Pages: []domain.PageID{"100"}})
	require.NoError(t, err)
	_, c := reader(t, a)
	_, got := read(t, c, 20)
	assert.Equal(t, map[string]int{"100 message.received": 5, "100 message.read": 2}, got,
		"only the page's events, and no sealed token")

	b, err := r.Add(t.Context(), Spec{
		Name: "typed", All: true, Types: []domain.Type{domain.MessageRead, domain.PageConnected}, FromNow: true,
	})
	require.NoError(t, err)
	r.store(t, "200", domain.MessageRead, 1)
	r.store(t, "300", domain.PageConnected, 1)
	r.store(t, "300", domain.MessageReceived, 1)
	_, c = reader(t, b)
	_, got = read(t, c, 20)
	assert.Equal(t, map[string]int{"200 message.read": 1, "300 page.connected": 1}, got)

	list, err := r.List(t.Context())
	require.NoError(t, err)
	require.Len(t, list, 2)
	assert.Equal(t, "crm", list[0].Name)
	assert.Zero(t, list[0].Lag)
	assert.NotContains(t, fmt.Sprint(list), a.Seed)

	for want, s := range map[error]Spec{
		ErrName: {Name: "No Name", All: true}, ErrExists: {Name: "crm", All: true},
		ErrType:    {Name: "x", All: true, Types: []domain.Type{"message.*"}},
		ErrTooMany: {Name: "y", Pages: manyPages(2000)},
	} {
		_, err := r.Add(t.Context(), s)
		require.ErrorIs(t, err, want)
	}
	require.NoError(t, r.Remove(t.Context(), "crm"))
	require.ErrorIs(t, r.Remove(t.Context(), "crm"), ErrUnknown)
	require.ErrorIs(t, r.Remove(t.Context(), "../../x"), ErrUnknown)
	_, err = nats.Connect(a.URL, nats.Nkey(a.PublicKey, func([]byte) ([]byte, error) { return nil, nil }))
	require.Error(t, err)
}

// TestEveryPageMustBeSaid checks that no empty choice of pages or types is taken for all.
func TestEveryPageMustBeSaid(t *testing.T) {
	r := newFixture(t)
	for _, c := range []struct {
		want error
		spec Spec
	}{
		{ErrPages, Spec{}},
		{ErrPages, Spec{Pages: []domain.PageID{}}},
		{ErrPages, Spec{Pages: []domain.PageID{""}}},
		{ErrPages, Spec{Pages: []domain.PageID{"100", ""}}},
		{ErrPages, Spec{Pages: []domain.PageID{""}, Company: "acme"}},
		{ErrPages, Spec{All: true, Pages: []domain.PageID{"100"}}},
		{ErrPages, Spec{All: true, Company: "acme"}},
		{ErrType, Spec{All: true, Types: []domain.Type{}}},
		{ErrType, Spec{All: true, Types: []domain.Type{""}}},
	} {
		c.spec.Name = "x"
		_, err := r.Add(t.Context(), c.spec)
		require.ErrorIs(t, err, c.want, "%+v", c.spec)
	}
	list, err := r.List(t.Context())
	require.NoError(t, err)
	require.Empty(t, list)
}

// TestStoredSpecsKeepTheirMeaning checks that consumers of before there was All get every page, as they
// did, also after a refresh.
func TestStoredSpecsKeepTheirMeaning(t *testing.T) {
	r := newFixture(t)
	for name, spec := range map[string]string{
		"every": `{"name":"every"}`, "blank": `{"name":"blank","pages":[""],"known":[""]}`,
		"mixed": `{"name":"mixed","company":"acme","pages":[""],"known":["","100"]}`,
		"some":  `{"name":"some","pages":["100"],"known":["100"]}`,
		"firm":  `{"name":"firm","company":"acme"}`,
	} {
		_, err := r.JS.CreateConsumer(t.Context(), streams.Name, jetstream.ConsumerConfig{
			Durable: prefix + name, Metadata: map[string]string{metaKey: spec}, AckPolicy: jetstream.AckExplicitPolicy,
			FilterSubjects: streams.Filter("", domain.MessageReceived),
		})
		require.NoError(t, err)
	}
	_ = r.Refresh(t.Context()) // fails to set the users, which have no key here
	list, err := r.List(t.Context())
	require.NoError(t, err)
	require.Len(t, list, 5)
	for _, c := range list {
		all := c.Name != "some" && c.Name != "firm"
		assert.Equal(t, all, c.All, c.Name)
		config, err := r.config(c.Spec)
		require.NoError(t, err)
		assert.Equal(t, all, slices.Contains(config.FilterSubjects, "pagestream.*.message.*"), c.Name)
	}
}

func manyPages(n int) (out []domain.PageID) {
	for i := range n {
		out = append(out, domain.PageID(fmt.Sprint(1000+i)))
	}
	return out
}

// TestCompanyPagesAreFollowed checks that all events of a page that is added to a
// company are delivered, even if the refresh is late, and that a removed page is no
// longer delivered.
func TestCompanyPagesAreFollowed(t *testing.T) {
	r := newFixture(t)
	a, err := r.Add(t.Context(), Spec{Name: "acme", Company: "acme"})
	require.NoError(t, err)
	_, c := reader(t, a)
	r.store(t, "900", domain.MessageReceived, 3)
	seqs, _ := read(t, c, 1)
	assert.Empty(t, seqs, "a company without pages gets no events")
	r.connect(t, "100")
	r.store(t, "100", domain.MessageReceived, 5)
	require.NoError(t, r.Refresh(t.Context()))
	_, got := read(t, c, 20)
	assert.Equal(t, map[string]int{"100 message.received": 5}, got)
	// The next page is connected while events of the first are stored and read.
	r.connect(t, "200")
	r.store(t, "200", domain.MessageReceived, 4)
	r.store(t, "100", domain.MessageReceived, 4)
	_, got = read(t, c, 4)
	assert.Equal(t, map[string]int{"100 message.received": 4}, got)
	require.NoError(t, r.Refresh(t.Context()))
	_, got = read(t, c, 20)
	assert.Equal(t, 4, got["200 message.received"], "also the events before the consumer's position")
	r.mu.Lock()
	r.pages = []domain.PageID{"200"}
	r.mu.Unlock()
	require.NoError(t, r.Refresh(t.Context()))
	r.store(t, "100", domain.MessageReceived, 2)
	r.store(t, "200", domain.MessageReceived, 2)
	_, got = read(t, c, 20)
	assert.Equal(t, map[string]int{"200 message.received": 2}, got)
}

// TestReconnectedConsumerMissesNothing checks that a consumer which disconnected gets
// each event that was stored in the meantime exactly once.
func TestReconnectedConsumerMissesNothing(t *testing.T) {
	r := newFixture(t)
	a, err := r.Add(t.Context(), Spec{Name: "slow", Pages: []domain.PageID{"100"}})
	require.NoError(t, err)
	nc, c := reader(t, a)
	r.store(t, "100", domain.MessageReceived, 50)
	first, _ := read(t, c, 20)
	nc.Close()
	for range 20 {
		r.store(t, "100", domain.MessageReceived, 500)
		r.store(t, "200", domain.MessageReceived, 500)
	}
	list, err := r.List(t.Context())
	require.NoError(t, err)
	assert.EqualValues(t, 10_030, list[0].Lag)
	_, c = reader(t, a)
	rest, got := read(t, c, 10_030)
	assert.Len(t, rest, 10_030)
	assert.Equal(t, map[string]int{"100 message.received": 10_030}, got)
	all := slices.Concat(first, rest)
	assert.True(t, slices.IsSorted(all))
	assert.Len(t, slices.Compact(all), 10_050, "none missing, none twice")
}

// TestRunRestoresUsers checks that Run sets the users again after a restart, from the
// metadata of the JetStream consumers.
func TestRunRestoresUsers(t *testing.T) {
	r := newFixture(t)
	a, err := r.Add(t.Context(), Spec{Name: "crm", All: true})
	require.NoError(t, err)
	r.Embedded().RemoveUser("crm") // as in a new process, which has no users yet
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	key, err := nats.NkeyOptionFromSeed(seedFile(t, a.Seed))
	require.NoError(t, err)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		nc, err := nats.Connect(a.URL, key)
		if err == nil {
			nc.Close()
		}
		return err
	})
	cancel()
	require.NoError(t, <-done)
}

func seedFile(t *testing.T, seed string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "seed")
	require.NoError(t, os.WriteFile(path, []byte(seed), 0o600))
	return path
}
