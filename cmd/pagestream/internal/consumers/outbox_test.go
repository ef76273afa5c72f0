package consumers

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/embedded"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// wanted returns the sequences of the events that a company's consumer must get, as the owners of the events say.
func (r *fixture) wanted(t *testing.T, company string) (seqs []uint64) {
	t.Helper()
	var list []streams.Stored
	last, err := streams.Read(t.Context(), r.JS, streams.ReadOptions{}, func(e streams.Stored) error {
		list = append(list, e)
		return nil
	})
	require.NoError(t, err)
	require.NoError(t, r.model.WaitFor(t.Context(), last))
	require.NoError(t, pages.Owners(r.model, func(owner pages.OwnerFunc) error {
		for _, e := range list {
			o, err := owner(e.Page, e.Seq)
			if err != nil {
				return err
			}
			if o.Company == company && e.Type == domain.MessageReceived {
				seqs = append(seqs, e.Seq)
			}
		}
		return nil
	}))
	return seqs
}

// stored returns the sequences of the events in an outbox, in its order.
func (r *fixture) stored(t *testing.T, a Consumer) (seqs []uint64) {
	t.Helper()
	st, err := r.JS.Stream(t.Context(), a.Stream)
	require.NoError(t, err)
	for seq := uint64(1); ; seq++ {
		m, err := st.GetMsg(t.Context(), seq, jetstream.WithGetMsgSubject("out."+a.Name+".*.*.*"))
		if err != nil {
			require.ErrorIs(t, err, jetstream.ErrMsgNotFound)
			return seqs
		}
		seq = m.Sequence
		seqs = append(seqs, sequenceOf(m.Header))
	}
}

// TestOutboxHasTheSameEvents checks that an event in an outbox has the headers and the data that it has in the
// stream, byte by byte, its sequence and its time, and that sealed tokens are left out.
func TestOutboxHasTheSameEvents(t *testing.T) {
	t.Parallel()
	r := newFixture(t)
	r.connect(t, "100", "acme")
	m, err := streams.Encode(domain.Event{
		ID: "x", Type: domain.MessageReceived, Page: "100", Contact: "ä 1", Time: time.Unix(1790000000, 0), Standby: true,
		Data: domain.Data{Message: &domain.Message{Text: "a sealed_token"}, Raw: []byte(`{"a" : 1.50}`)},
	})
	require.NoError(t, err)
	m.Header.Set("ce-other", "kept")
	_, err = r.JS.PublishMsg(t.Context(), m, jetstream.WithExpectLastSequence(1))
	require.NoError(t, err)
	r.store(t, "100", domain.ForeignReceived, 0)
	a, err := r.Add(t.Context(), Spec{Name: "crm", All: true, Types: domain.Types()[:1]})
	require.NoError(t, err)
	_, err = r.Add(t.Context(), Spec{Name: "admin", All: true, Types: []domain.Type{domain.PageConnected}})
	require.NoError(t, err)
	r.filled(t, "crm")
	r.filled(t, "admin")

	source, err := r.JS.Stream(t.Context(), streams.Name)
	require.NoError(t, err)
	want, err := source.GetMsg(t.Context(), 2)
	require.NoError(t, err)
	box, err := r.JS.Stream(t.Context(), a.Stream)
	require.NoError(t, err)
	got, err := box.GetMsg(t.Context(), 1)
	require.NoError(t, err)
	assert.Equal(t, want.Data, got.Data)
	own := func(k string, _ []string) bool { return strings.HasPrefix(k, "Nats-") && k != streams.HeaderMsgID }
	maps.DeleteFunc(want.Header, own)
	maps.DeleteFunc(got.Header, own)
	want.Header.Set(streams.HeaderSequence, "2")
	want.Header.Set(streams.HeaderStoredAt, want.Time.Format(time.RFC3339Nano))
	assert.Equal(t, want.Header, got.Header)
	e, err := streams.Decode(want.Subject, want.Header, want.Data, want.Sequence, want.Time)
	require.NoError(t, err)
	copied, err := streams.Decode(got.Subject, got.Header, got.Data, got.Sequence, got.Time)
	require.NoError(t, err)
	assert.Equal(t, e, copied)

	box, err = r.JS.Stream(t.Context(), StreamOf("admin"))
	require.NoError(t, err)
	got, err = box.GetMsg(t.Context(), 1)
	require.NoError(t, err)
	assert.NotContains(t, string(got.Data), "sealed")
	copied, err = streams.Decode(got.Subject, got.Header, got.Data, got.Sequence, got.Time)
	require.NoError(t, err)
	assert.Equal(t, &domain.Connection{ConnectionID: "c", Company: "acme", App: "main", Secret: "s-100"}, copied.Data.Connection)
}

// TestStoppedConsumerCatchesUp checks that a consumer that was stopped for 100,000 events (10,000 under the race
// detector), while some 200 times a page joins or leaves its company, gets each event of the company once and in
// order, and no others.
func TestStoppedConsumerCatchesUp(t *testing.T) {
	t.Parallel()
	n := streamstest.Volume(100_000, 10_000)
	if testing.Short() {
		n = 10_000
	}
	r := newFixture(t, func(o *Options) { o.busy = true })
	a, err := r.Add(t.Context(), Spec{Name: "acme", Company: "acme"})
	require.NoError(t, err)
	nc, _ := reader(t, a)
	nc.Close()
	random := rand.New(rand.NewPCG(1, 2))
	for stored := 0; stored < n; {
		page := domain.PageID(fmt.Sprint(100 + random.IntN(20)))
		r.connect(t, page, []string{"acme", "acme", "beta", ""}[random.IntN(4)])
		many := min(n-stored, 1+random.IntN(n/100))
		r.storeOn(t, many, func() domain.PageID { return domain.PageID(fmt.Sprint(100 + random.IntN(20))) })
		stored += many
	}
	began := time.Now()
	r.filledWithin(t, "acme", 4*streamstest.Limit)
	t.Logf("filled %d ms after the last event", time.Since(began).Milliseconds())
	want := r.wanted(t, "acme")
	require.Greater(t, len(want), n/10)
	r.lags(t, "acme", len(want))
	_, rd := reader(t, a)
	got, _ := read(t, rd, len(want)+1)
	require.Equal(t, want, got)
	assert.Equal(t, r.of(t, "acme").Filled, r.of(t, "acme").Seq)
}

// storeOn stores messages of pages.
func (r *fixture) storeOn(t *testing.T, n int, page func() domain.PageID) {
	t.Helper()
	for range n {
		r.n++
		m, err := streams.Encode(domain.Event{ID: fmt.Sprint("e", r.n), Type: domain.MessageReceived, Page: page()})
		require.NoError(t, err)
		_, err = r.JS.PublishMsgAsync(m, jetstream.WithStallWait(streamstest.Limit))
		require.NoError(t, err)
	}
	<-r.JS.PublishAsyncComplete()
}

// TestKilledFillersLoseAndDoubleNothing kills the filler at random moments, with its connection or without, while
// events are stored and the consumer reads. Another one goes on each time.
func TestKilledFillersLoseAndDoubleNothing(t *testing.T) {
	t.Parallel()
	r := newStream(t)
	r.Consumers = r.node(t)
	a, err := r.Add(t.Context(), Spec{Name: "acme", Company: "acme"})
	require.NoError(t, err)
	for i := range 5 {
		r.connect(t, domain.PageID(fmt.Sprint(100+i)), "acme")
	}
	_, rd := reader(t, a)
	var got []uint64
	var reading sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	reading.Go(func() {
		for ctx.Err() == nil {
			batch, err := rd.Fetch(50, jetstream.FetchMaxWait(200*time.Millisecond))
			if !assert.NoError(t, err) {
				return
			}
			for m := range batch.Messages() {
				if rand.IntN(3) == 0 {
					continue // it stays in the outbox, and is acknowledged below
				}
				got = append(got, sequenceOf(m.Headers()))
				assert.NoError(t, m.DoubleAck(t.Context())) // also of a batch that was read when it is over
			}
		}
	})
	for i := range streamstest.Volume(40, 16) {
		js, err := jetstream.New(r.Connection(t))
		require.NoError(t, err)
		node := r.node(t, func(o *Options) { o.JS = js })
		stop := r.run(t, node)
		r.storeOn(t, 200, func() domain.PageID { return domain.PageID(fmt.Sprint(100 + rand.IntN(8))) })
		time.Sleep(time.Duration(rand.IntN(120)) * time.Millisecond)
		if i%2 == 0 {
			js.Conn().Close() // it can't say anything more
		}
		stop()
	}
	r.run(t, r.node(t))
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if c := r.of(t, "acme"); c.Filled < c.Head {
			return fmt.Errorf("filled up to %d of %d", c.Filled, c.Head)
		}
		return nil
	})
	cancel()
	reading.Wait()
	rest := r.stored(t, a.Consumer)
	assert.True(t, slices.IsSorted(rest), "the order of the stream")
	all := slices.Concat(got, rest)
	slices.Sort(all)
	require.Equal(t, r.wanted(t, "acme"), all, "none missing, none twice")
}

// TestTwoFillersAtOnce checks that the fillers of two nodes store each event once, in order, and that the second
// one goes on when the first one ends.
func TestTwoFillersAtOnce(t *testing.T) {
	t.Parallel()
	r := newFixture(t)
	other := r.run(t, r.node(t))
	a, err := r.Add(t.Context(), Spec{Name: "crm", All: true})
	require.NoError(t, err)
	for range 40 {
		r.store(t, "100", domain.MessageReceived, 50)
		time.Sleep(20 * time.Millisecond)
	}
	r.filled(t, "crm")
	want := make([]uint64, 2000)
	for i := range want {
		want[i] = uint64(i + 1)
	}
	require.Equal(t, want, r.stored(t, a.Consumer))
	other()
	r.store(t, "100", domain.MessageReceived, 50)
	r.filled(t, "crm")
	require.Len(t, r.stored(t, a.Consumer), 2050)
}

// TestFullOutboxWaits checks that a full outbox stops its filler only: events are stored all the same, and the
// consumer gets all of them when it reads. A full outbox can be rewound.
func TestFullOutboxWaits(t *testing.T) {
	t.Parallel()
	r := newStream(t, func(o *embedded.Options) { o.MaxPayload = 128 << 10 })
	r.Consumers = r.node(t, func(o *Options) { o.MaxBytes = 1 })
	r.run(t, r.Consumers)
	a, err := r.Add(t.Context(), Spec{Name: "slow", All: true})
	require.NoError(t, err)
	b, err := r.Add(t.Context(), Spec{Name: "other", All: true, FromNow: true})
	require.NoError(t, err)
	const n = 3000
	r.store(t, "100", domain.MessageReceived, n)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if c := r.of(t, "slow"); !c.Full || c.Filled == 0 || c.Filled >= n {
			return fmt.Errorf("not full, filled up to %d", c.Filled)
		}
		return nil
	})
	_, rd := reader(t, b)
	got, _ := readUntil(t, rd, n)
	require.Len(t, got, n, "the other consumer does not wait")
	st, err := r.JS.Stream(t.Context(), a.Stream)
	require.NoError(t, err)
	require.LessOrEqual(t, st.CachedInfo().State.Bytes, uint64(256<<10))

	c, err := r.Rewind(t.Context(), "slow", Target{Seq: 1})
	require.NoError(t, err)
	require.Zero(t, c.Seq)
	_, rd = reader(t, a)
	got, _ = readUntil(t, rd, n)
	require.Len(t, got, n)
	require.True(t, slices.IsSorted(got))
	require.Len(t, slices.Compact(got), n)
	require.False(t, r.filled(t, "slow").Full)
}

// readUntil reads n events, and waits for them.
func readUntil(t *testing.T, c jetstream.Consumer, n int) (seqs []uint64, pages map[string]int) {
	t.Helper()
	deadline := time.Now().Add(streamstest.Limit)
	for len(seqs) < n && time.Now().Before(deadline) {
		more, _ := read(t, c, n-len(seqs))
		seqs = append(seqs, more...)
	}
	return seqs, pages
}

// TestRewind checks that a rewound consumer gets the events from the target on again, in order and once, whether
// it has read everything or not, and that it can't be rewound past what it has not read.
func TestRewind(t *testing.T) {
	t.Parallel()
	r := newFixture(t)
	a, err := r.Add(t.Context(), Spec{Name: "crm", Pages: []domain.PageID{"100"}})
	require.NoError(t, err)
	_, rd := reader(t, a)
	const n = 600
	for range n / 2 {
		r.store(t, "100", domain.MessageReceived, 1)
		r.store(t, "200", domain.MessageReceived, 1)
	}
	r.filled(t, "crm")
	got, _ := read(t, rd, 200)
	require.Len(t, got, 200)
	require.Equal(t, got[199]+1, r.acked(t, "crm", n/2-200).Seq, "acknowledged up to before the next event")

	_, err = r.Rewind(t.Context(), "crm", Target{Seq: got[199] + 3})
	require.ErrorIs(t, err, ErrRewind)
	_, err = r.Rewind(t.Context(), "nobody", Target{Seq: 1})
	require.ErrorIs(t, err, ErrUnknown)
	_, err = r.Rewind(t.Context(), "crm", Target{At: time.Now().Add(time.Hour)})
	require.ErrorIs(t, err, ErrRewind)

	for _, target := range []uint64{50, 1, 301} {
		c, err := r.Rewind(t.Context(), "crm", Target{Seq: target})
		require.NoError(t, err)
		// Once the outbox has its next event, all before that counts as acknowledged.
		require.Contains(t, []uint64{target - 1, (target | 1) - 1}, c.Seq)
		r.store(t, "100", domain.MessageReceived, 1)
		r.filled(t, "crm")
		got, _ = read(t, rd, n)
		require.Equal(t, target|1, got[0])
		require.True(t, slices.IsSorted(got))
		require.Len(t, slices.Compact(slices.Clone(got)), len(got))
		require.Equal(t, r.of(t, "crm").Head, got[len(got)-1])
	}
	e, err := streams.Get(t.Context(), r.JS, streams.Name, 401)
	require.NoError(t, err)
	c, err := r.Rewind(t.Context(), "crm", Target{At: e.At})
	require.NoError(t, err)
	require.LessOrEqual(t, c.Seq, uint64(400))
	r.filled(t, "crm")
	got, _ = read(t, rd, n)
	require.Contains(t, got, uint64(401))
	require.NotContains(t, got, uint64(301))
}

// TestErasedEventsLeaveOutboxes checks that erased events are deleted from an outbox, both by the eraser and by a
// filler that had read them before, and that those of others stay.
func TestErasedEventsLeaveOutboxes(t *testing.T) {
	t.Parallel()
	r := newFixture(t)
	a, err := r.Add(t.Context(), Spec{Name: "crm", All: true, Types: []domain.Type{domain.MessageReceived}})
	require.NoError(t, err)
	for i := range 20 {
		r.n++
		m, err := streams.Encode(domain.Event{
			ID: fmt.Sprint("e", r.n), Type: domain.MessageReceived, Page: "100", Contact: domain.ContactID(fmt.Sprint(i % 2)),
		})
		require.NoError(t, err)
		_, err = r.JS.PublishMsg(t.Context(), m)
		require.NoError(t, err)
	}
	r.filled(t, "crm")
	erasure := func(seqs ...uint64) domain.Event {
		x := domain.Erasure{Contact: domain.ContactHash("0"), Part: 1, Parts: 1}
		for _, seq := range seqs {
			x.Events = append(x.Events, domain.Tombstone{Seq: seq})
		}
		r.n++
		return domain.Event{
			ID: fmt.Sprint("e", r.n), Type: domain.ContactErased, Page: "100", Data: domain.Data{Erasure: &x},
		}
	}
	var erasing errgroup.Group
	listed := erasure(1, 3, 5, 6)
	for range 4 { // the reactor and the command do the same at once
		erasing.Go(func() error { return r.Erase(t.Context(), listed) })
	}
	require.NoError(t, erasing.Wait())
	left := r.stored(t, a.Consumer)
	assert.Len(t, left, 17)
	assert.NotContains(t, left, uint64(3))
	assert.Contains(t, left, uint64(6), "it is another contact's")
	m, err := streams.Encode(erasure(7, 9, 11, 13, 15, 17, 19))
	require.NoError(t, err)
	_, err = r.JS.PublishMsg(t.Context(), m)
	require.NoError(t, err)
	r.filled(t, "crm")
	assert.Equal(t, []uint64{2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 21}, r.stored(t, a.Consumer), "the last one is the erasure")
	// A filler that has read events before they were erased does not copy them after that.
	st, err := r.JS.Stream(t.Context(), r.opts.Stream)
	require.NoError(t, err)
	r.filling <- struct{}{}   // the filler waits for its turn
	const late, next = 22, 23 // after the events and the erasure
	r.store(t, "100", domain.MessageReceived, 1)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		list := st.ListConsumers(t.Context())
		for info := range list.Info() {
			if info.Delivered.Stream >= late {
				return nil
			}
		}
		return fmt.Errorf("event %d is not read yet: %w", late, list.Err())
	})
	require.NoError(t, st.SecureDeleteMsg(t.Context(), late))
	require.NoError(t, r.Erase(t.Context(), erasure(late)))
	<-r.filling
	r.store(t, "100", domain.MessageReceived, 1)
	r.filled(t, "crm")
	left = r.stored(t, a.Consumer)
	assert.NotContains(t, left, uint64(late))
	assert.Contains(t, left, uint64(next))

	_, rd := reader(t, a)
	got, _ := read(t, rd, 20)
	assert.Len(t, got, 12)
}

// TestUserReadsItsOutboxOnly checks that a consumer's user gets no answer from the stream of all events, from other
// outboxes, or from what is stored beside them, and can't forge events.
func TestUserReadsItsOutboxOnly(t *testing.T) {
	t.Parallel()
	r := newFixture(t)
	r.connect(t, "100", "acme")
	r.store(t, "100", domain.MessageReceived, 5)
	r.store(t, "200", domain.MessageReceived, 5)
	a, err := r.Add(t.Context(), Spec{Name: "crm", Pages: []domain.PageID{"100"}})
	require.NoError(t, err)
	other, err := r.Add(t.Context(), Spec{Name: "other", All: true})
	require.NoError(t, err)
	st, err := r.JS.Stream(t.Context(), a.Stream)
	require.NoError(t, err)
	assert.EqualValues(t, 64<<20, st.CachedInfo().Config.MaxBytes, "the bound of the documentation")
	r.filled(t, "crm")
	r.filled(t, "other")
	nc, _ := reader(t, a)
	nc.SetErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}) // each attack is a violation
	var attacks []string
	for _, stream := range []string{streams.Name, a.Stream, other.Stream, Bucket} {
		for _, api := range []string{
			"STREAM.INFO.%s", "STREAM.MSG.GET.%s", "DIRECT.GET.%s", "STREAM.PURGE.%s", "STREAM.DELETE.%s", "STREAM.UPDATE.%s",
			"STREAM.SNAPSHOT.%s", "STREAM.MSG.DELETE.%s", "CONSUMER.NAMES.%s", "CONSUMER.LIST.%s", "CONSUMER.CREATE.%s",
			"CONSUMER.CREATE.%s.mine.>", "CONSUMER.DURABLE.CREATE.%s.mine", "CONSUMER.DELETE.%s.consumer-crm",
			"CONSUMER.PAUSE.%s.consumer-crm", "CONSUMER.RESET.%s.consumer-crm", "CONSUMER.MSG.NEXT.%s.position",
			"CONSUMER.INFO.%s.position", "CONSUMER.MSG.NEXT.%s.consumer-other",
		} {
			attacks = append(attacks, "$JS.API."+fmt.Sprintf(api, stream))
		}
		if stream != a.Stream {
			attacks = append(attacks, "$JS.API.CONSUMER.MSG.NEXT."+stream+".consumer-crm",
				"$JS.API.CONSUMER.INFO."+stream+".consumer-crm", "$JS.ACK."+stream+".consumer-crm.1.1.1.1.0")
		}
	}
	attacks = append(attacks, "$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$SYS.REQ.SERVER.PING",
		"pagestream.100.message.received", "out.crm.100.message.received", "out.crm.position", "out.other.100.message.received",
		"$KV."+bucket+".crm")
	lasts := func() (out []uint64) {
		for _, stream := range []string{streams.Name, a.Stream, other.Stream} {
			seq, err := streams.Last(t.Context(), r.JS, stream)
			require.NoError(t, err)
			out = append(out, seq)
		}
		return out
	}
	before, records := lasts(), r.revisions(t)
	var asking sync.WaitGroup
	var answered atomic.Int64
	for _, subject := range attacks {
		asking.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			m, err := nc.RequestWithContext(ctx, subject, []byte(`{"seq":1}`))
			if err == nil {
				answered.Add(1)
				assert.Fail(t, "answered", "%s: %s", subject, m.Data)
			}
		})
	}
	asking.Wait()
	require.Zero(t, answered.Load(), "of %d attacks", len(attacks))
	for _, reply := range []string{
		"pagestream.100.message.received", "out.crm.100.message.received", "out.crm.position", "out.other.100.message.received",
		"$KV." + bucket + ".crm", "$JS.API.STREAM.PURGE." + streams.Name,
	} {
		require.NoError(t, nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+a.Stream+"."+a.Durable, reply, []byte(`{"batch":1}`)))
		require.NoError(t, nc.PublishRequest("$JS.API.CONSUMER.INFO."+a.Stream+"."+a.Durable, reply, nil))
	}
	require.NoError(t, nc.Flush())
	r.store(t, "900", domain.MessageReceived, 1) // a later event than the forged ones would be
	before[0]++
	r.filled(t, "other")
	after := lasts()
	assert.Equal(t, before[0], after[0])
	assert.Equal(t, before[1], after[1])
	assert.Equal(t, before[2]+2, after[2], "the event and the position")
	assert.Equal(t, records, r.revisions(t))
	for _, subject := range []string{">", "pagestream.>", "out.>", "$JS.>", "_INBOX_other.>", "$SYS.>", "$KV.>"} {
		sub, err := nc.SubscribeSync(subject)
		if err != nil {
			continue
		}
		require.NoError(t, nc.Flush())
		r.store(t, "100", domain.MessageReceived, 1)
		m, err := sub.NextMsg(100 * time.Millisecond)
		assert.Error(t, err, "subscribed %s: %v", subject, m)
	}
}

// revisions returns the revision of each consumer's record. A copy of a position is stored at any time and is left out.
func (r *fixture) revisions(t *testing.T) map[string]uint64 {
	t.Helper()
	kv, err := r.JS.KeyValue(t.Context(), bucket)
	require.NoError(t, err)
	keys, err := kv.Keys(t.Context())
	require.NoError(t, err)
	out := make(map[string]uint64)
	for _, key := range keys {
		if strings.HasSuffix(key, "."+positionReader) {
			continue
		}
		entry, err := kv.Get(t.Context(), key)
		require.NoError(t, err)
		out[key] = entry.Revision()
	}
	require.NotEmpty(t, out)
	return out
}

// TestAddManyPages checks that a consumer of many pages is stored in one place, and needs no filter of a subject for each.
func TestAddManyPages(t *testing.T) {
	r := newFixture(t)
	began := time.Now()
	a, err := r.Add(t.Context(), Spec{Name: "many", Pages: manyPages(2000)})
	require.NoError(t, err)
	t.Logf("a consumer of 2,000 pages is added in %s", time.Since(began))
	r.store(t, "1999", domain.MessageReceived, 1)
	r.store(t, "999", domain.MessageReceived, 1)
	r.lags(t, "many", 1)
	assert.Len(t, r.of(t, "many").Known, 2000)
	info, err := r.JS.Consumer(t.Context(), a.Stream, a.Durable)
	require.NoError(t, err)
	assert.Empty(t, info.CachedInfo().Config.FilterSubjects)
}

// TestRestartKeepsOutboxes checks that outboxes, their positions and their consumers are there after a restart of
// the server.
func TestRestartKeepsOutboxes(t *testing.T) {
	t.Parallel()
	r := newStream(t, func(o *embedded.Options) { o.Listen = "" }) // connections of a listening server don't survive it
	r.Consumers = r.node(t, func(o *Options) { o.Users = nil })
	r.run(t, r.Consumers)
	a, err := r.Add(t.Context(), Spec{Name: "crm", All: true})
	require.NoError(t, err)
	r.store(t, "100", domain.MessageReceived, 50)
	r.filled(t, "crm")
	rd, err := r.JS.Consumer(t.Context(), a.Stream, a.Durable)
	require.NoError(t, err)
	got, _ := read(t, rd, 20)
	require.Len(t, got, 20)
	r.acked(t, "crm", 30)
	r.Halt(t)
	r.Start(t)
	r.store(t, "100", domain.MessageReceived, 50)
	c := r.lags(t, "crm", 80)
	require.EqualValues(t, 20, c.Seq)
	require.Len(t, r.stored(t, a.Consumer), 80)
}

// TestLostPosition checks that a filler goes on near where it was if the server has deleted the position of an
// outbox, as it sometimes does when it is killed: with events in the outbox after the newest, without after the
// position that was kept.
func TestLostPosition(t *testing.T) {
	t.Parallel()
	r := newStream(t)
	r.Consumers = r.node(t)
	a, err := r.Add(t.Context(), Spec{Name: "crm", All: true})
	require.NoError(t, err)
	lose := func() {
		st, err := r.JS.Stream(t.Context(), a.Stream)
		require.NoError(t, err)
		m, err := st.GetLastMsgForSubject(t.Context(), streams.OutboxPrefix+".crm.position")
		require.NoError(t, err)
		require.NoError(t, st.DeleteMsg(t.Context(), m.Sequence))
	}
	_, rd := reader(t, a)
	for _, empty := range []bool{false, true} {
		stop := r.run(t, r.node(t))
		r.store(t, "100", domain.MessageReceived, 30)
		c := r.filled(t, "crm")
		streamstest.Eventually(t, streamstest.Limit, func() error { // not every position is kept
			r.store(t, "100", domain.MessageReceived, 1)
			c = r.filled(t, "crm")
			kept, err := r.outbox(record{Spec: c.Spec}).kept(t.Context())
			if err == nil && kept.Seq < c.Filled {
				err = fmt.Errorf("the position %d is kept, not %d", kept.Seq, c.Filled)
			}
			return err
		})
		stop()
		if empty {
			got, _ := read(t, rd, int(c.Head))
			require.Len(t, got, int(c.Head))
			c = r.acked(t, "crm", 0)
		}
		lose()
		stop = r.run(t, r.node(t))
		r.store(t, "100", domain.MessageReceived, 10)
		c = r.lags(t, "crm", int(c.Lag)+10)
		stored := r.stored(t, c)
		assert.True(t, slices.IsSorted(stored))
		assert.Len(t, slices.Compact(slices.Clone(stored)), len(stored), "none twice")
		assert.Equal(t, c.Head, stored[len(stored)-1])
		stop()
	}
}

// acked waits until a consumer has so many events left.
func (r *fixture) acked(t *testing.T, name string, left uint64) Consumer {
	t.Helper()
	var c Consumer
	streamstest.Eventually(t, streamstest.Limit, func() error {
		c = r.of(t, name)
		if n := len(r.stored(t, c)); c.Lag != left || uint64(n) != left {
			return fmt.Errorf("%d events are left, %d in the outbox", c.Lag, n)
		}
		return nil
	})
	return c
}

// TestHalfABatchIsGoneOnFrom checks that a filler goes on after the events of a batch of which the server kept the
// beginning only, and that a message that is no event of a filler does not stop it.
func TestHalfABatchIsGoneOnFrom(t *testing.T) {
	t.Parallel()
	r := newStream(t)
	r.Consumers = r.node(t)
	a, err := r.Add(t.Context(), Spec{Name: "crm", All: true})
	require.NoError(t, err)
	r.store(t, "100", domain.MessageReceived, 20)
	for seq := range 7 {
		m := nats.NewMsg("out.crm.100.message.received")
		m.Header.Set(streams.HeaderSequence, fmt.Sprint(seq+1))
		_, err := r.JS.PublishMsg(t.Context(), m)
		require.NoError(t, err)
	}
	stop := r.run(t, r.Consumers)
	r.filled(t, "crm")
	_, err = r.JS.Publish(t.Context(), "out.crm.100.message.received", nil)
	require.NoError(t, err)
	r.store(t, "100", domain.MessageReceived, 5)
	r.filled(t, "crm")
	want := make([]uint64, 0, 26)
	for i := range 25 {
		if i == 20 {
			want = append(want, 0)
		}
		want = append(want, uint64(i+1))
	}
	require.Equal(t, want, r.stored(t, a.Consumer))
	stop()
}

// TestNoSpaceIsSaid checks that a consumer is not added if there is no space for its stream.
func TestNoSpaceIsSaid(t *testing.T) {
	t.Parallel()
	r := newStream(t, func(o *embedded.Options) { o.MaxStore = 100 << 20 })
	r.Consumers = r.node(t)
	_, err := r.Add(t.Context(), Spec{Name: "one", All: true})
	require.NoError(t, err)
	_, err = r.Add(t.Context(), Spec{Name: "two", All: true})
	require.ErrorIs(t, err, ErrSpace)
	list, err := r.List(t.Context())
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.NoError(t, r.Remove(t.Context(), "one"))
	_, err = r.Add(t.Context(), Spec{Name: "two", All: true})
	require.NoError(t, err)
}

// TestRolledBackStreamIsCopiedAgain replaces the stream by an older copy that goes on with other events: a
// consumer gets those, whether its filler runs meanwhile or is started afterwards.
func TestRolledBackStreamIsCopiedAgain(t *testing.T) {
	for _, stopped := range []bool{true, false} {
		t.Run(fmt.Sprintf("stopped %t", stopped), func(t *testing.T) {
			// The connections of a server that listens don't survive its restart.
			r := newStream(t, func(o *embedded.Options) { o.Listen = "" })
			c := r.node(t, func(o *Options) { o.Users = nil })
			stop := r.run(t, c)
			r.Consumers = c
			a, err := r.Add(t.Context(), Spec{Name: "crm", All: true})
			require.NoError(t, err)
			r.store(t, "100", domain.MessageReceived, 50)
			r.filled(t, "crm")
			dir := filepath.Join(r.Dir, "jetstream", "$G", "streams", streams.Name)
			r.Halt(t)
			older := t.TempDir()
			require.NoError(t, os.CopyFS(older, os.DirFS(dir)))
			r.Start(t)
			r.store(t, "100", domain.MessageReceived, 30) // they get lost
			r.filled(t, "crm")
			if stopped {
				stop()
			}
			r.Halt(t)
			require.NoError(t, os.RemoveAll(dir))
			require.NoError(t, os.CopyFS(dir, os.DirFS(older)))
			r.Start(t)
			r.store(t, "200", domain.MessageReceived, 40)
			if stopped {
				r.run(t, c)
			} else {
				c.Recheck()
			}
			box, err := r.JS.Stream(t.Context(), a.Stream)
			require.NoError(t, err)
			streamstest.Eventually(t, streamstest.Limit, func() error {
				others := map[uint64]int{}
				for seq := uint64(1); ; seq++ {
					m, err := box.GetMsg(t.Context(), seq, jetstream.WithGetMsgSubject("out.crm.*.*.*"))
					if err != nil {
						break
					}
					if seq = m.Sequence; strings.HasPrefix(m.Subject, "out.crm.200.") {
						others[sequenceOf(m.Header)]++
					}
				}
				for seq := uint64(51); seq <= 90; seq++ {
					// What a running filler copied before it was told is copied again.
					if others[seq] == 0 || stopped && others[seq] > 1 {
						return fmt.Errorf("event %d is there %d times", seq, others[seq])
					}
				}
				return nil
			})
		})
	}
}
