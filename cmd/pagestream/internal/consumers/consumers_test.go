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
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/embedded"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// users are the users of the embedded server, as in the running program.
type users struct{ s *embedded.Server }

func (u users) SetUser(name, key, stream, durable string) error {
	return u.s.SetUser(embedded.User{Name: name, PublicKey: key, Stream: stream, Consumer: durable})
}
func (u users) RemoveUser(name string) { u.s.RemoveUser(name) }
func (u users) URL() string            { return "nats://" + u.s.Addr() }

// fixture is a stream with the read model of pages, and consumers.
type fixture struct {
	*streamstest.Server
	*Consumers

	model *projections.Runner
	n     int // number of stored events
}

// newFixture starts a fixture whose fillers run.
func newFixture(t *testing.T, change ...func(*Options)) *fixture {
	t.Helper()
	r := newStream(t)
	r.Consumers = r.node(t, change...)
	r.run(t, r.Consumers)
	return r
}

// newStream starts a fixture without consumers.
func newStream(t *testing.T, change ...func(*embedded.Options)) *fixture {
	t.Helper()
	s := streamstest.Run(t, append([]func(*embedded.Options){
		func(o *embedded.Options) { o.Sync, o.Listen = embedded.SyncInterval, "127.0.0.1:0" },
	}, change...)...)
	r := &fixture{Server: s}
	identity := s.Stream(t, streams.Spec{})
	var err error
	r.model, err = projections.NewRunner(pages.New(), projections.RunnerOptions{
		Dir: t.TempDir(), JS: s.JS, Stream: streams.Name, Identity: identity,
	})
	require.NoError(t, err)
	r.background(t, r.model.Run)
	t.Cleanup(func() { assert.NoError(t, r.model.Close()) })
	return r
}

// node returns the consumers of one more node, with a connection of its own.
func (r *fixture) node(t *testing.T, change ...func(*Options)) *Consumers {
	t.Helper()
	js, err := jetstream.New(r.Connection(t))
	require.NoError(t, err)
	tail := streams.NewTail(js, streams.TailOptions{})
	t.Cleanup(func() { assert.NoError(t, tail.Close()) })
	o := Options{JS: js, Stream: streams.Name, Tail: tail, Pages: r.model, Users: users{r.Embedded()}}
	for _, f := range change {
		f(&o)
	}
	return New(o)
}

// run runs the fillers of a node until the returned function is called or the test ends.
func (r *fixture) run(t *testing.T, c *Consumers) (stop func()) {
	t.Helper()
	return r.background(t, c.Run)
}

func (r *fixture) background(t *testing.T, f func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { assert.NoError(t, f(ctx)) })
	stop = func() { cancel(); running.Wait() }
	t.Cleanup(stop)
	return stop
}

// of returns a consumer by its name.
func (r *fixture) of(t *testing.T, name string) Consumer {
	t.Helper()
	list, err := r.List(t.Context())
	require.NoError(t, err)
	i := slices.IndexFunc(list, func(c Consumer) bool { return c.Name == name })
	require.GreaterOrEqual(t, i, 0, name)
	return list[i]
}

// filled waits until everything that is stored now was looked at for a consumer.
func (r *fixture) filled(t *testing.T, name string) Consumer {
	t.Helper()
	return r.filledWithin(t, name, streamstest.Limit)
}

func (r *fixture) filledWithin(t *testing.T, name string, limit time.Duration) Consumer {
	t.Helper()
	var c Consumer
	streamstest.Eventually(t, limit, func() error {
		if c = r.of(t, name); c.Filled < c.Head {
			return fmt.Errorf("%s is filled up to %d of %d", name, c.Filled, c.Head)
		}
		return nil
	})
	return c
}

// lags waits until a consumer is filled and has so many events to read. The server counts an event for a consumer
// a moment after it was stored.
func (r *fixture) lags(t *testing.T, name string, want int) Consumer {
	t.Helper()
	c := r.filled(t, name)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if c = r.of(t, name); c.Lag != uint64(want) {
			return fmt.Errorf("%s has a lag of %d, not %d", name, c.Lag, want)
		}
		return nil
	})
	return c
}

// connect connects a page for a company; "" disconnects it.
func (r *fixture) connect(t *testing.T, page domain.PageID, company string) {
	t.Helper()
	e := domain.Event{Type: domain.PageConnected, Page: page, Data: domain.Data{Connection: &domain.Connection{
		ConnectionID: "c", Company: company, App: "main", Secret: "s-" + string(page),
	}}}
	if company == "" {
		e.Type, e.Data.Connection = domain.PageDisconnected, &domain.Connection{}
	}
	r.n++
	e.ID = fmt.Sprint("e", r.n)
	m, err := streams.Encode(e)
	require.NoError(t, err)
	_, err = r.JS.PublishMsg(t.Context(), m)
	require.NoError(t, err)
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
	t.Parallel()
	r := newFixture(t)
	for _, page := range []domain.PageID{"100", "200"} {
		r.store(t, page, domain.PageConnected, 1)
		r.store(t, page, domain.MessageReceived, 5)
		r.store(t, page, domain.MessageRead, 2)
	}
	a, err := r.Add(t.Context(), Spec{Name: "crm", Pages: []domain.PageID{"100"}})
	require.NoError(t, err)
	r.filled(t, "crm")
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
	r.filled(t, "typed")
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
		ErrTooMany: {Name: "y", Pages: manyPages(maxPages + 1)},
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
	t.Parallel()
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
		{ErrType, Spec{All: true, Types: []domain.Type{domain.ForeignReceived}}},
	} {
		c.spec.Name = "x"
		_, err := r.Add(t.Context(), c.spec)
		require.ErrorIs(t, err, c.want, "%+v", c.spec)
	}
	list, err := r.List(t.Context())
	require.NoError(t, err)
	require.Empty(t, list)
}

// TestStoredSpecsKeepTheirMeaning checks that consumers of before there were outboxes are converted when the
// program starts: they go on after what they have acknowledged, for the same user. Those of before there was
// All get every page, as they did.
func TestStoredSpecsKeepTheirMeaning(t *testing.T) {
	t.Parallel()
	r := newStream(t)
	pair, err := nkeys.CreateUser()
	require.NoError(t, err)
	seed, err := pair.Seed()
	require.NoError(t, err)
	key, err := pair.PublicKey()
	require.NoError(t, err)
	r.store(t, "100", domain.MessageReceived, 10)
	r.store(t, "200", domain.MessageReceived, 10)
	for name, spec := range map[string]string{
		"every": `{"name":"every"}`, "blank": `{"name":"blank","pages":[""],"known":[""]}`,
		"mixed": `{"name":"mixed","company":"acme","pages":[""],"known":["","100"]}`,
		"some":  `{"name":"some","pages":["100"],"known":["100"],"public_key":"` + key + `"}`,
		"firm":  `{"name":"firm","company":"acme"}`,
	} {
		c, err := r.JS.CreateConsumer(t.Context(), streams.Name, jetstream.ConsumerConfig{
			Durable: legacyPrefix + name, Metadata: map[string]string{legacyKey: spec}, AckPolicy: jetstream.AckExplicitPolicy,
			FilterSubjects: streams.Filter("", domain.MessageReceived),
		})
		require.NoError(t, err)
		got, _ := read(t, c, 4)
		require.Equal(t, []uint64{1, 2, 3, 4}, got)
	}
	r.Consumers = r.node(t)
	r.run(t, r.Consumers)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		list, err := r.List(t.Context())
		if err == nil && len(list) < 5 {
			err = fmt.Errorf("%d of 5 are converted", len(list))
		}
		return err
	})
	r.store(t, "100", domain.MessageReceived, 1)
	for name, want := range map[string]int{"every": 17, "blank": 17, "mixed": 17, "some": 7, "firm": 0} {
		c := r.lags(t, name, want)
		assert.Equal(t, want == 17, c.All, name)
		_, err := r.JS.Consumer(t.Context(), streams.Name, legacyPrefix+name)
		require.ErrorIs(t, err, jetstream.ErrConsumerNotFound)
	}
	a := Added{Consumer: r.of(t, "some"), Seed: string(seed), URL: r.URL()}
	_, c := reader(t, a)
	got, _ := read(t, c, 20)
	assert.Equal(t, []uint64{5, 6, 7, 8, 9, 10, 21}, got)
}

func manyPages(n int) (out []domain.PageID) {
	for i := range n {
		out = append(out, domain.PageID(fmt.Sprint(1000+i)))
	}
	return out
}

// TestCompanyPagesAreFollowed checks that a company's consumer gets the events of a page from when it joins the
// company until it leaves, and no others.
func TestCompanyPagesAreFollowed(t *testing.T) {
	t.Parallel()
	r := newFixture(t)
	a, err := r.Add(t.Context(), Spec{Name: "acme", Company: "acme"})
	require.NoError(t, err)
	_, c := reader(t, a)
	r.store(t, "900", domain.MessageReceived, 3)
	r.store(t, "100", domain.MessageReceived, 3)
	r.filled(t, "acme")
	seqs, _ := read(t, c, 1)
	assert.Empty(t, seqs, "a company without pages gets no events")
	r.connect(t, "100", "acme")
	r.store(t, "100", domain.MessageReceived, 5)
	r.filled(t, "acme")
	_, got := read(t, c, 20)
	assert.Equal(t, map[string]int{"100 message.received": 5}, got, "none from before it joined")
	// The next page is connected while events of the first are stored and read.
	r.connect(t, "200", "acme")
	r.store(t, "200", domain.MessageReceived, 4)
	r.store(t, "100", domain.MessageReceived, 4)
	r.filled(t, "acme")
	_, got = read(t, c, 20)
	assert.Equal(t, map[string]int{"100 message.received": 4, "200 message.received": 4}, got)
	assert.Equal(t, []domain.PageID{"100", "200"}, r.of(t, "acme").Known)
	r.connect(t, "100", "beta")
	r.store(t, "100", domain.MessageReceived, 2)
	r.store(t, "200", domain.MessageReceived, 2)
	r.connect(t, "200", "")
	r.store(t, "200", domain.MessageReceived, 2)
	r.filled(t, "acme")
	_, got = read(t, c, 20)
	assert.Equal(t, map[string]int{"200 message.received": 2}, got)
}

// TestReconnectedConsumerMissesNothing checks that a consumer which disconnected gets
// each event that was stored in the meantime exactly once.
func TestReconnectedConsumerMissesNothing(t *testing.T) {
	t.Parallel()
	r := newFixture(t)
	a, err := r.Add(t.Context(), Spec{Name: "slow", Pages: []domain.PageID{"100"}})
	require.NoError(t, err)
	nc, c := reader(t, a)
	r.store(t, "100", domain.MessageReceived, 50)
	r.filled(t, "slow")
	first, _ := read(t, c, 20)
	nc.Close()
	burst := streamstest.Volume(500, 100)
	for range 20 {
		r.store(t, "100", domain.MessageReceived, burst)
		r.store(t, "200", domain.MessageReceived, burst)
	}
	left := 30 + 20*burst
	r.lags(t, "slow", left)
	_, c = reader(t, a)
	rest, got := read(t, c, left)
	assert.Len(t, rest, left)
	assert.Equal(t, map[string]int{"100 message.received": left}, got)
	all := slices.Concat(first, rest)
	assert.True(t, slices.IsSorted(all))
	assert.Len(t, slices.Compact(all), 20+left, "none missing, none twice")
}

// TestRunRestoresUsers checks that Run sets the users again after a restart, from
// what is stored.
func TestRunRestoresUsers(t *testing.T) {
	t.Parallel()
	r := newFixture(t)
	a, err := r.Add(t.Context(), Spec{Name: "crm", All: true})
	require.NoError(t, err)
	r.Embedded().RemoveUser("crm") // as in a new process, which has no users yet
	r.run(t, r.node(t))
	key, err := nats.NkeyOptionFromSeed(seedFile(t, a.Seed))
	require.NoError(t, err)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		nc, err := nats.Connect(a.URL, key)
		if err == nil {
			nc.Close()
		}
		return err
	})
}

func seedFile(t *testing.T, seed string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "seed")
	require.NoError(t, os.WriteFile(path, []byte(seed), 0o600))
	return path
}
