package erase

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/comments"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/projectionstest"
	"github.com/pagestream/pagestream/projections/subscriptions"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

const (
	page   = domain.PageID("104")
	other  = domain.PageID("105")
	person = domain.ContactID("7001")
	secret = "meet me at the old lighthouse"
)

// fixture is a real stream with every read model, and an eraser.
type fixture struct {
	*projectionstest.Rig
	live   projectionstest.Models
	eraser *Eraser
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	r := &fixture{Rig: projectionstest.NewRig(t)}
	r.live = r.build(t)
	r.Models = r.live
	r.Publisher = r.Publishing(t, index(r.live))
	r.eraser = New(Options{
		JS: r.JS, Connect: func() (*nats.Conn, error) { return r.Embedded().Connect("erase") },
		Publisher: r.Publisher, Conversations: r.live.Named("conversations"),
		Kept: Kept{Models: r.live, Parking: streams.NewParking(r.JS, streams.Name)},
	})
	return r
}

// build starts new read models, which read the stream from its first event.
func (r *fixture) build(t *testing.T) projectionstest.Models {
	t.Helper()
	return r.Build(t, func(m *projections.Runner) projections.Index { return deliveries.Index{Runner: m} },
		deliveries.New(), pages.New(), subscriptions.New(), conversations.New(), comments.New())
}

func index(m projectionstest.Models) deliveries.Index {
	return deliveries.Index{Runner: m.Named("deliveries")}
}

// run runs the eraser's reactor until the test ends.
func (r *fixture) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { assert.NoError(t, r.eraser.Run(ctx)) })
	t.Cleanup(func() { cancel(); running.Wait() })
}

// digests returns the digests of all models at the head of the stream.
func (r *fixture) digests(t *testing.T, m projectionstest.Models) map[string]string {
	t.Helper()
	last := r.Settle(t, m)
	out := map[string]string{}
	for _, one := range m {
		digest, meta, err := one.Digest()
		require.NoError(t, err)
		require.Equal(t, last, meta.Seq)
		out[one.Name()] = digest
	}
	return out
}

// stored reports whether the stream contains an event at seq.
func (r *fixture) stored(t *testing.T, seq uint64) bool {
	t.Helper()
	ctx, cancel := projectionstest.Limited()
	defer cancel()
	_, err := streams.Get(ctx, r.JS, streams.Name, seq)
	if err != nil {
		require.ErrorIs(t, err, streams.ErrNotFound)
	}
	return err == nil
}

// onDisk reports whether the stream's files contain s.
func (r *fixture) onDisk(t *testing.T, s string) bool {
	t.Helper()
	find := regexp.QuoteMeta(s)
	if strings.Trim(s, "0123456789") == "" {
		find = `(?:^|[^0-9])` + find + `(?:[^0-9]|$)` // the digits of an id may be in a time
	}
	return len(streamstest.FilesWith(t, regexp.MustCompile(find).Match, r.Dir)) > 0
}

func (r *fixture) erase(t *testing.T) Result {
	t.Helper()
	ctx, cancel := projectionstest.Limited()
	defer cancel()
	return r.eraseWithin(ctx, t)
}

func (r *fixture) eraseWithin(ctx context.Context, t *testing.T) Result {
	t.Helper()
	out, err := r.eraser.Erase(ctx, page, person)
	require.NoError(t, err)
	return out
}

// received is a message from a contact.
func received(page domain.PageID, contact domain.ContactID, mid, text string, ms int64) domain.Event {
	return domain.Event{
		ID: domain.DedupID("page", page, "message", mid), Type: domain.MessageReceived, Page: page, Contact: contact,
		Time: time.UnixMilli(ms).UTC(),
		Data: domain.Data{Object: "page", App: "shop", Message: &domain.Message{MID: mid, Text: text}},
	}
}

// conversation returns events of all kinds of the person, between events of others.
func conversation() []domain.Event {
	kind := func(t domain.Type, id string, ms int64, d domain.Data) domain.Event {
		d.Object = "page"
		return domain.Event{ID: id, Type: t, Page: page, Contact: person, Time: time.UnixMilli(ms).UTC(), Data: d}
	}
	return []domain.Event{
		received(page, person, "m1", secret, 1000),
		received(page, "7002", "m2", "good morning", 1500),
		received(other, person, "m3", "the same number on another page", 1600),
		kind(domain.MessageEchoed, "echo", 2000,
			domain.Data{Message: &domain.Message{MID: "m4", Text: "we reply: " + secret, Echo: true}}),
		kind(domain.MessageRead, "read", 2500, domain.Data{Read: &domain.Read{Watermark: 2200}}),
		kind(domain.MessageEdited, "edit", 2600, domain.Data{Edit: &domain.Edit{MID: "never", Text: new(secret), Num: 1}}),
		kind(domain.ContactProfiled, "profile", 2700, domain.Data{Profile: &domain.Profile{Name: "Ada " + secret}}),
		received(page, person, "m0", "older, and late", 500),
		kind(domain.MessageReceived, "odd", 2800, domain.Data{}),
	}
}

func TestErase(t *testing.T) {
	r := newFixture(t)
	r.run(t)
	receipts := r.Publish(t, conversation()...)
	require.True(t, r.onDisk(t, secret), "onDisk finds the text before the erasure")
	out := r.erase(t)
	kinds := map[string]int{"message": 5, "receipt": 1, "profile": 1}
	assert.Equal(t, Result{Events: 7, Seq: 10, Kinds: kinds}, out)
	for i, e := range conversation() {
		assert.Equal(t, e.Page != page || e.Contact != person, r.stored(t, receipts[i].Seq), "event %d", i)
	}
	assert.False(t, r.onDisk(t, secret), "the bytes are deleted as well")

	model := r.live.Named("conversations")
	r.digests(t, r.live)
	_, err := conversations.Get(model, page, person)
	require.ErrorIs(t, err, conversations.ErrErased)
	for _, c := range []struct {
		page    domain.PageID
		contact domain.ContactID
	}{{page, "7002"}, {other, person}} {
		list, _, err := conversations.Messages(model, c.page, c.contact, "", 0, false)
		require.NoError(t, err)
		assert.Len(t, list, 1)
	}
	counts, err := conversations.Count(model, page)
	require.NoError(t, err)
	assert.Equal(t, conversations.Counts{Conversations: 1, In: 1, Erased: 1}, counts)

	// The record does not identify the person.
	ctx, cancel := projectionstest.Limited()
	defer cancel()
	e, err := streams.Get(ctx, r.JS, streams.Name, out.Seq)
	require.NoError(t, err)
	assert.Empty(t, e.Contact)
	assert.NotContains(t, fmt.Sprintf("%+v %+v", e, e.Data.Erasure), string(person))

	// Traffic is counted as before, and rebuilt read models are equal.
	again := r.build(t)
	assert.Equal(t, r.digests(t, r.live), r.digests(t, again))
	p, err := pages.Get(again.Named("pages"), page)
	require.NoError(t, err)
	assert.Equal(t, uint64(9), p.Traffic.Events)

	// A redelivery is still a duplicate, for the old and the rebuilt models.
	twice := r.Publish(t, conversation()[0])[0]
	assert.NotEqual(t, streams.NotDuplicate, twice.Duplicate)
	assert.Equal(t, receipts[0].Seq, twice.Seq)
	for _, m := range []projectionstest.Models{r.live, again} {
		seqs, _, err := index(m).Seen([]string{conversation()[0].ID})
		require.NoError(t, err)
		assert.Equal(t, []uint64{receipts[0].Seq}, seqs, "the index still contains the id")
	}

	assert.Equal(t, Result{}, r.erase(t), "nothing is left to erase")
	// The person may write again, and can be erased again.
	r.Publish(t, received(page, person, "m9", "hello again", time.Now().Add(time.Minute).UnixMilli()))
	assert.Equal(t, 1, r.erase(t).Events)
	assert.Equal(t, r.digests(t, r.live), r.digests(t, r.build(t)))
}

// TestEraseComments checks that the comments and reactions of a contact who never wrote a
// message are erased, and that other comments stay.
func TestEraseComments(t *testing.T) {
	r := newFixture(t)
	r.run(t)
	change := func(t domain.Type, id string, contact domain.ContactID, d domain.Data) domain.Event {
		return domain.Event{ID: id, Type: t, Page: page, Contact: contact, Time: time.UnixMilli(1000).UTC(), Data: d}
	}
	comment := func(id, text string) domain.Data {
		return domain.Data{Comment: &domain.Comment{ID: id, Post: "104_9", Text: &text}}
	}
	r.Publish(t,
		change(domain.CommentReceived, "a", person, comment("1", secret)),
		change(domain.CommentReceived, "b", "7002", comment("2", "good morning")),
		change(domain.CommentHidden, "c", person, comment("2", secret)),
		change(domain.ReactionAdded, "d", person, domain.Data{
			PostReaction: &domain.PostReaction{Post: "104_9", Reaction: "like"},
		}),
	)
	assert.Equal(t, 3, r.erase(t).Events)
	assert.False(t, r.onDisk(t, secret))
	digests := r.digests(t, r.live)
	assert.Equal(t, digests, r.digests(t, r.build(t)))
	list, _, err := comments.List(r.live.Named("comments"), page, comments.Query{}, comments.Page{})
	require.NoError(t, err)
	require.Len(t, list, 1)
	assert.Equal(t, "good morning", list[0].Text)
	assert.Equal(t, comments.Visible, list[0].State)
	counts, err := comments.Count(r.live.Named("comments"), page)
	require.NoError(t, err)
	assert.Equal(t, comments.Counts{Posts: 1, Comments: comments.Tally{Visible: 1}, Erased: 1}, counts)
}

// TestEraseWhatMentionsTheContact checks that events without a contact are erased if the contact's id
// stands in them, and no others: items that have no typed form, deliveries that can't be read, leads.
func TestEraseWhatMentionsTheContact(t *testing.T) {
	r := newFixture(t)
	r.run(t)
	raw := func(t domain.Type, page domain.PageID, id, item string) domain.Event {
		return domain.Event{
			ID: id, Type: t, Page: page, Time: time.UnixMilli(1000).UTC(),
			Data: domain.Data{Object: "page", App: "shop", Raw: json.RawMessage(item)},
		}
	}
	unreadable := func(id, body string) domain.Event {
		return domain.Event{
			ID: id, Type: domain.DeliveryUnreadable, Page: domain.NoPage,
			Data: domain.Data{Unreadable: &domain.Unreadable{Reason: "not JSON", Body: []byte(body)}},
		}
	}
	foreign := raw(domain.ForeignReceived, page, "f1", `{"sender":{"id":"7001"},"text":"meet me at the old lighthouse"}`)
	foreign.Original, foreign.OriginalID, foreign.Data.AppID = domain.MessageReceived, "o1", "99"
	erased := []domain.Event{
		raw(domain.ChangeReceived, page, "c1", `{"value":{"user":"7001","text":"meet me at the old lighthouse"}}`),
		raw(domain.DeliveryUnrecognized, page, "u1", `{"who":7001,"text":"meet me at the old lighthouse"}`),
		unreadable("x1", `{"sender":"7001","text":"meet me at the old lighthouse"`),
		// The id follows an escape, or is written with escapes, in JSON, in JSON within its text, and in a form.
		raw(domain.ChangeReceived, page, "c5", `{"value":{"text":"call\n7001: meet me at the old lighthouse"}}`),
		raw(domain.ChangeReceived, page, "c6", `{"value":{"text":"call\u000A7001: meet me at the old lighthouse"}}`),
		raw(domain.DeliveryUnrecognized, page, "u2", `{"who":"\u00370\u00301","text":"meet me at the old lighthouse"}`),
		raw(domain.DeliveryUnrecognized, page, "u3", `{"payload":"{\"text\":\"\\t7001 meet me at the old lighthouse\"}"}`),
		unreadable("x3", `entry=%5B%7B%22sender%22%3A%227001%22%7D%5D&text=meet me at the old lighthouse`),
		raw(domain.PostbackReceived, page, "b1", `{"from":{"id":"7001"},"title":"meet me at the old lighthouse"}`),
		raw(domain.AccountLinked, page, "a1", `{"user":"7001","code":"meet me at the old lighthouse"}`),
		foreign,
		{ID: "l1", Type: domain.LeadReceived, Page: page, Data: domain.Data{Lead: &domain.Lead{ID: "7001"}}},
	}
	kept := []domain.Event{
		raw(domain.ChangeReceived, page, "c2", `{"value":{"user":"97001"}}`),
		raw(domain.ChangeReceived, page, "c3", `{"value":{"user":70012}}`),
		raw(domain.ChangeReceived, page, "c7", `{"value":{"text":"\n70011 \u0037\u0030010 n7001"}}`),
		unreadable("x4", `sender=%2270010%22`),
		raw(domain.ChangeReceived, other, "c4", `{"value":{"user":"7001"}}`),
		unreadable("x2", `{"sender":"170010"`),
		received(page, "7002", "m1", "I am not 7001", 1000),
		raw(domain.PolicyEnforced, page, "p1", `{"policy":"7001"}`),
	}
	gone, stay := r.Publish(t, erased...), r.Publish(t, kept...)
	out := r.erase(t)
	assert.Equal(t, map[string]int{"account": 1, "change": 3, "delivery": 5, "foreign": 1, "lead": 1, "postback": 1}, out.Kinds)
	for i, e := range gone {
		assert.False(t, r.stored(t, e.Seq), "%s", erased[i].ID)
	}
	for i, e := range stay {
		assert.True(t, r.stored(t, e.Seq), "%s", kept[i].ID)
	}
	assert.False(t, r.onDisk(t, secret))
	assert.Equal(t, r.digests(t, r.live), r.digests(t, r.build(t)))
	assert.Equal(t, Result{}, r.erase(t), "nothing is left to erase")
}

// TestEraseDuplicates checks that an event which is in the stream twice, so that the read models have dropped the second
// one, is erased completely.
func TestEraseDuplicates(t *testing.T) {
	r := newFixture(t)
	r.run(t)
	r.Publish(t, conversation()...)
	twice := func(e domain.Event) uint64 {
		t.Helper()
		m, err := streams.Encode(e)
		require.NoError(t, err)
		m.Header.Del(nats.MsgIdHdr) // JetStream has forgotten the id
		ack, err := r.JS.PublishMsg(t.Context(), m)
		require.NoError(t, err)
		return ack.Sequence
	}
	first, stays := twice(conversation()[0]), twice(conversation()[1])
	found := 0
	r.Settle(t, r.live)
	require.NoError(t, Find(t.Context(), r.JS, r.live.Named("conversations"), page, person, func(streams.Stored) error {
		found++
		return nil
	}))
	assert.Equal(t, 8, found)
	assert.Equal(t, 8, r.erase(t).Events)
	assert.False(t, r.stored(t, first))
	assert.True(t, r.stored(t, stays))
	assert.False(t, r.onDisk(t, secret))
	assert.Equal(t, r.digests(t, r.live), r.digests(t, r.build(t)))

	later := twice(conversation()[0]) // also when there is no first one any more
	assert.Equal(t, 1, r.erase(t).Events)
	assert.False(t, r.stored(t, later))
	assert.Equal(t, Result{}, r.erase(t), "nothing is left to erase")
	assert.Equal(t, r.digests(t, r.live), r.digests(t, r.build(t)))
}

// TestEraseWhatTheStreamHasLost checks that what read models have of a contact is removed also if the stream has lost the
// contact's events.
func TestEraseWhatTheStreamHasLost(t *testing.T) {
	r := newFixture(t)
	r.run(t)
	text := secret
	r.Publish(t, received(page, person, "m1", secret, 1000), received(page, "7002", "m2", "good morning", 1500),
		domain.Event{
			ID: "c1", Type: domain.CommentReceived, Page: page, Contact: person, Time: time.UnixMilli(2000).UTC(),
			Data: domain.Data{Comment: &domain.Comment{ID: "1", Post: "104_9", Text: &text}},
		})
	r.Settle(t, r.live)
	st, err := r.JS.Stream(t.Context(), streams.Name)
	require.NoError(t, err)
	for _, seq := range []uint64{1, 3} {
		require.NoError(t, st.SecureDeleteMsg(t.Context(), seq))
	}
	_, err = conversations.Get(r.live.Named("conversations"), page, person)
	require.NoError(t, err)
	lost := func() uint64 {
		found, err := streams.Lost(t.Context(), r.JS, streams.Name)
		require.NoError(t, err)
		return found.Events
	}
	require.EqualValues(t, 2, lost())

	assert.Equal(t, Result{Seq: 4, Kinds: map[string]int{}}, r.erase(t))
	r.Settle(t, r.live)
	_, err = conversations.Get(r.live.Named("conversations"), page, person)
	require.ErrorIs(t, err, conversations.ErrErased)
	list, _, err := comments.List(r.live.Named("comments"), page, comments.Query{}, comments.Page{})
	require.NoError(t, err)
	assert.Empty(t, list)
	_, err = conversations.Get(r.live.Named("conversations"), page, "7002")
	require.NoError(t, err)
	assert.EqualValues(t, 2, lost(), "the loss is still known")
	assert.Equal(t, Result{}, r.erase(t), "nothing is left to erase")
}

// TestEraseNeedsNoReactor checks that an erasure is carried out also if no reactor gets its record: all that they may have
// at once was given to one that was killed, and is not given to another one before some minutes have passed.
func TestEraseNeedsNoReactor(t *testing.T) {
	t.Parallel()
	r := newFixture(t)
	r.Publish(t, conversation()...)
	assert.Equal(t, 7, r.erase(t).Events)
	assert.False(t, r.onDisk(t, secret))
	assert.Equal(t, r.digests(t, r.live), r.digests(t, r.build(t)))
}

// TestEraseDeadLettersAndCopies checks that parked events and the copies that wait for consumers go with
// the events of a contact.
func TestEraseDeadLettersAndCopies(t *testing.T) {
	r := newFixture(t)
	r.run(t)
	var failed sync.WaitGroup
	failed.Add(2)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() {
		assert.NoError(t, streams.NewReactor(streams.ReactorOptions{
			Connect: func() (*nats.Conn, error) { return r.Embedded().Connect("failing") }, Stream: streams.Name,
			Filter: streams.Filter("", domain.MessageReceived)[0], Durable: "failing", MaxDeliver: 1, Unordered: true,
			Parking: r.eraser.opts.Parking, Timeout: time.Second,
			Handle: streams.OnEvent(func(_ context.Context, e streams.Stored) error {
				defer failed.Done()
				return fmt.Errorf("no object %s: %w", e.Contact, streams.ErrNoRetry)
			}),
		}).Run(ctx))
	})
	copies, err := r.JS.CreateStream(ctx, jetstream.StreamConfig{
		Name: streams.CopiesOf(streams.Name) + "crm", Subjects: []string{"copies.>"}, Retention: jetstream.WorkQueuePolicy,
	})
	require.NoError(t, err)
	events := []domain.Event{
		received(page, person, "m1", secret, 1000), received(page, "7002", "m2", "good morning", 1500),
	}
	for _, e := range events {
		m, err := streams.Encode(e)
		require.NoError(t, err)
		m.Subject = "copies." + string(e.Page)
		_, err = r.JS.PublishMsg(ctx, m)
		require.NoError(t, err)
	}
	r.Publish(t, events...)
	failed.Wait()
	streamstest.Eventually(t, streamstest.Limit, func() error {
		list, err := r.eraser.opts.Parking.List(ctx, "failing")
		if len(list) != 2 {
			return fmt.Errorf("%d events are parked: %w", len(list), err)
		}
		assert.Equal(t, person, list[0].Contact)
		assert.True(t, strings.HasPrefix(list[0].Error, "no object (contact): "), list[0].Error)
		return nil
	})
	out := r.erase(t)
	assert.Equal(t, 1, out.Events)
	assert.Equal(t, 1, out.DeadLetters)
	assert.Equal(t, 1, out.Copies)
	list, err := r.eraser.opts.Parking.List(ctx, "failing")
	require.NoError(t, err)
	require.Len(t, list, 1)
	assert.Equal(t, domain.ContactID("7002"), list[0].Contact)
	left, err := copies.Info(ctx)
	require.NoError(t, err)
	assert.EqualValues(t, 1, left.State.Msgs)
	assert.False(t, r.onDisk(t, secret))
	assert.False(t, r.onDisk(t, string(person)))
}

// TestCrashBeforeTheDeletion checks that after a crash between the record and the
// deletion, the reactor or a repeated erasure deletes the events.
func TestCrashBeforeTheDeletion(t *testing.T) {
	for name, rest := range map[string]func(*testing.T, *fixture){
		"reactor": func(t *testing.T, r *fixture) { r.run(t) },
		"erased once more": func(t *testing.T, r *fixture) {
			assert.Equal(t, Result{}, r.erase(t))
			assert.False(t, r.stored(t, 1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newFixture(t)
			r.Publish(t, conversation()...)
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			out, err := r.eraser.Erase(ctx, page, person)
			require.ErrorIs(t, err, ErrUnfinished)
			assert.Equal(t, uint64(10), out.Seq)
			require.True(t, r.stored(t, 1))
			before := r.digests(t, r.build(t))
			rest(t, r)
			streamstest.Eventually(t, streamstest.Limit, func() error {
				if r.stored(t, 1) || r.stored(t, 9) {
					return fmt.Errorf("not deleted")
				}
				return nil
			})
			assert.Equal(t, before, r.digests(t, r.build(t)), "before the deletion and after")
			assert.Equal(t, before, r.digests(t, r.live))
		})
	}
}

// racingPublisher stores an event of the person just before the record.
type racingPublisher struct {
	*streams.Publisher
	first []domain.Event
}

func (p *racingPublisher) Publish(ctx context.Context, events []domain.Event) ([]streams.Receipt, error) {
	if len(p.first) > 0 {
		if _, err := p.Publisher.Publish(ctx, p.first[:1]); err != nil {
			return nil, err
		}
		p.first = p.first[1:]
	}
	return p.Publisher.Publish(ctx, events)
}

func TestEventsStoredDuringAnErasureAreErased(t *testing.T) {
	r := newFixture(t)
	r.run(t)
	r.Publish(t, conversation()...)
	p := &racingPublisher{r.Publisher, []domain.Event{
		received(page, person, "m5", "and "+secret, 400), received(page, person, "m6", "more", 300),
	}}
	r.eraser.opts.Publisher = p
	assert.Equal(t, 9, r.erase(t).Events)
	assert.False(t, r.onDisk(t, secret))
	assert.Equal(t, r.digests(t, r.live), r.digests(t, r.build(t)))

	for i := range rounds + 1 {
		p.first = append(p.first, received(page, person, fmt.Sprint("n", i), "again", int64(i+1)))
	}
	r.Publish(t, received(page, person, "m7", "x", 200))
	ctx, cancel := projectionstest.Limited()
	defer cancel()
	_, err := r.eraser.Erase(ctx, page, person)
	require.ErrorIs(t, err, ErrBusy)
	assert.Equal(t, r.digests(t, r.live), r.digests(t, r.build(t)))
}

func TestEraseInSeveralParts(t *testing.T) {
	r := newFixture(t)
	r.eraser.opts.part = streamstest.Volume(partSize, 200)
	n := r.eraser.opts.part + 50
	r.run(t)
	var events []domain.Event
	for i := range n {
		events = append(events, received(page, person, fmt.Sprint("m", i), secret, int64(1000+i)))
		if i%50 == 0 {
			events = append(events, received(page, "7002", fmt.Sprint("o", i), "hm", int64(1000+i)))
		}
	}
	r.Publish(t, events...)
	// The server rewrites a block of the stream for each event that it overwrites.
	ctx, cancel := context.WithTimeout(t.Context(), 4*streamstest.Limit)
	defer cancel()
	assert.Equal(t, n, r.eraseWithin(ctx, t).Events)
	assert.False(t, r.onDisk(t, secret))
	assert.Equal(t, r.digests(t, r.live), r.digests(t, r.build(t)))
}

// TestForgedErasureDeletesNoOtherEvents checks that an erasure which lists events of
// others deletes only those of its contact.
func TestForgedErasureDeletesNoOtherEvents(t *testing.T) {
	r := newFixture(t)
	r.run(t)
	r.Publish(t, conversation()...)
	forged := &domain.Erasure{
		Contact: domain.ContactHash(person), Part: 1, Parts: 1,
		Events: []domain.Tombstone{{Seq: 2}, {Seq: 3}, {Seq: 10}, {Seq: 99}, {Seq: 1, Type: domain.MessageReceived}},
	}
	r.Publish(t, domain.Event{
		ID: "forged", Type: domain.ContactErased, Page: page, Data: domain.Data{Erasure: forged},
	})
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if r.stored(t, 1) {
			return fmt.Errorf("the reactor has not handled it")
		}
		return nil
	})
	for _, seq := range []uint64{2, 3, 10} {
		assert.True(t, r.stored(t, seq), "event %d", seq)
	}
	_, err := r.eraser.Erase(t.Context(), "", person)
	require.ErrorIs(t, err, ErrRequest)
}

// lateJournal deletes events at once, and is not done with them before proceed is closed, like a journal that overwrites
// what it has deleted.
type lateJournal struct {
	*fixture

	calls   atomic.Int32
	proceed chan struct{}
}

func (*lateJournal) Flush(context.Context) error { return nil }

func (j *lateJournal) Erase(ctx context.Context, seqs []uint64, match func(streams.Stored) bool) (int, error) {
	n, err := streams.Erase(ctx, j.JS, streams.Name, seqs, match)
	j.calls.Add(1)
	<-j.proceed
	return n, err
}

// TestEraseWaitsForTheBytes lets the reactor delete the events and not overwrite them yet.
func TestEraseWaitsForTheBytes(t *testing.T) {
	t.Parallel()
	r := newFixture(t)
	j := &lateJournal{fixture: r, proceed: make(chan struct{})}
	r.eraser.opts.Journal = j
	r.Publish(t, received(page, person, "m1", secret, 1000))
	r.Settle(t, r.live)
	r.run(t)
	ctx, cancel := projectionstest.Limited()
	defer cancel()
	answered, failed := make(chan Result, 1), make(chan error, 1)
	go func() {
		out, err := r.eraser.Erase(ctx, page, person)
		answered <- out
		failed <- err
	}()
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if n := j.calls.Load(); n < 2 {
			return fmt.Errorf("%d calls: the events are deleted, and the answer waits for none", n)
		}
		return nil
	})
	require.Empty(t, answered, "it has answered before the bytes are gone")
	close(j.proceed)
	require.Equal(t, 1, (<-answered).Events)
	require.NoError(t, <-failed)
}
