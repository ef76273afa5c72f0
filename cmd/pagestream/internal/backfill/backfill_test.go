package backfill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/messenger"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/projectionstest"
	"github.com/pagestream/pagestream/streams"
)

const (
	page    = domain.PageID("104")
	account = domain.PageID("17841400000000001")
	token   = "EAAsecretsecretsecret"
	secret  = "meet me at the station"
)

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// fakeGraph is a fake of Graph and of the tokens. Its cursors are positions by time,
// as Meta's are.
type fakeGraph struct {
	now     time.Time
	access  meta.Access
	denied  error
	lists   map[string][]graph.Conversation // by platform, Messages whole
	nested  int                             // how many messages are nested in the list
	perCall int
	calls   []string
	before  func(n int, call string) error // may fail the nth call, from 1
}

func newFakeGraph() *fakeGraph {
	return &fakeGraph{
		now: noon, access: meta.Access{Page: page, Token: token, App: "shop"}, nested: 2, perCall: 3,
		lists: map[string][]graph.Conversation{},
	}
}

func (g *fakeGraph) Access(_ context.Context, page domain.PageID) (meta.Access, error) {
	if g.denied != nil {
		return meta.Access{}, fmt.Errorf("look for %s: %w", page, g.denied)
	}
	return g.access, nil
}

func (g *fakeGraph) call(a meta.Access, call string) error {
	g.calls = append(g.calls, call)
	if a.App != "shop" || a.Page != page || a.Token != token {
		return errors.New("wrong access")
	}
	if g.before != nil {
		return g.before(len(g.calls), call)
	}
	return nil
}

func (g *fakeGraph) Conversations(
	_ context.Context, a meta.Access, platform, after string, limit int,
) ([]graph.Conversation, string, error) {
	if err := g.call(a, "conversations "+platform); err != nil {
		return nil, "", fmt.Errorf("call graph: %w", err)
	}
	list := slices.Clone(g.lists[platform])
	slices.SortStableFunc(list, func(a, b graph.Conversation) int { return b.Updated.Compare(a.Updated) })
	if after != "" {
		at, _ := strconv.ParseInt(after, 10, 64)
		list = slices.DeleteFunc(list, func(c graph.Conversation) bool { return c.Updated.Unix() >= at })
	}
	next := ""
	if len(list) > limit {
		list = list[:limit]
		next = strconv.FormatInt(list[limit-1].Updated.Unix(), 10)
	}
	for i := range list {
		list[i].Messages, list[i].After = part(list[i].Messages, 0, g.nested)
	}
	return list, next, nil
}

func (g *fakeGraph) Messages(
	_ context.Context, a meta.Access, conversation, after string,
) ([]graph.Message, string, error) {
	if err := g.call(a, "messages "+conversation); err != nil {
		return nil, "", fmt.Errorf("call graph: %w", err)
	}
	for _, list := range g.lists {
		for _, c := range list {
			if c.ID == conversation {
				from, _ := strconv.Atoi(after)
				messages, next := part(c.Messages, from, g.perCall)
				return messages, next, nil
			}
		}
	}
	return nil, "", &meta.Error{Code: 100}
}

func part(list []graph.Message, from, n int) ([]graph.Message, string) {
	if from+n >= len(list) {
		return slices.Clone(list[from:]), ""
	}
	return slices.Clone(list[from : from+n]), strconv.Itoa(from + n)
}

// addConversation adds a conversation whose messages were created the given minutes
// before noon, the newest first. Every other message is the page's.
func (g *fakeGraph) addConversation(platform string, own domain.PageID, contact string, minutes ...int) {
	c := graph.Conversation{ID: "t_" + contact}
	for i, m := range minutes {
		one := graph.Message{
			ID: fmt.Sprintf("m_%s_%d", contact, m), Created: noon.Add(-time.Duration(m) * time.Minute),
			From: contact, To: []string{string(own)}, Text: secret,
		}
		if (len(minutes)-i)%2 == 0 {
			one.From, one.To = string(own), []string{contact}
		}
		one.Raw, _ = json.Marshal(map[string]string{"id": one.ID, "message": one.Text})
		c.Messages = append(c.Messages, one)
	}
	c.Updated = c.Messages[0].Created
	g.lists[platform] = append(g.lists[platform], c)
}

func (r *fixture) filler(g *fakeGraph, change ...func(*Options)) *Filler {
	o := Options{
		Tokens: g, Graph: g, Publisher: r.Publisher, PerSecond: 10_000, Limit: 2, Now: func() time.Time { return g.now },
	}
	for _, f := range change {
		f(&o)
	}
	return New(o)
}

func fill(t *testing.T, f *Filler, since time.Duration) (Sum, error) {
	t.Helper()
	ctx, cancel := projectionstest.Limited()
	defer cancel()
	return f.Run(ctx, Request{Page: page, Since: noon.Add(-since)}, nil)
}

// webhook returns the events of Meta's delivery of a message.
func webhook(object string, own domain.PageID, m graph.Message) []domain.Event {
	to := m.To[0]
	echo := ""
	if m.From == string(own) {
		echo = `"is_echo":true,"app_id":55,`
	}
	body := fmt.Sprintf(
		`{"object":%q,"entry":[{"id":%q,"time":1,"messaging":[{"sender":{"id":%q},"recipient":{"id":%q},"timestamp":%d,"message":{%s"mid":%q,"text":%q}}]}]}`,
		object, own, m.From, to, m.Created.UnixMilli()+321, echo, m.ID, m.Text,
	)
	return messenger.Split([]byte(body), messenger.Options{App: "shop"}).Events
}

func TestFillingTwiceStoresOnce(t *testing.T) {
	r := newFixture(t)
	g := newFakeGraph()
	g.addConversation(Messenger, page, "7001", 1, 5, 9, 12, 15, 20, 70, 80)
	g.addConversation(Messenger, page, "7002", 30)
	g.addConversation(Messenger, page, "7003", 40, 50, 61)
	g.addConversation(Messenger, page, "7004", 60)
	g.addConversation(Messenger, page, "7005", 61, 90)
	g.addConversation(Messenger, page, "7006", 500)
	// Two of them were delivered.
	first := g.lists[Messenger][0].Messages
	r.Publish(t, webhook("page", page, first[1])...)
	r.Publish(t, webhook("page", page, first[2])...)

	var steps []Progress
	ctx, cancel := projectionstest.Limited()
	defer cancel()
	gap := Request{Page: page, Since: noon.Add(-time.Hour + 900*time.Millisecond)}
	sum, err := r.filler(g).Run(ctx, gap, func(p Progress) { steps = append(steps, p) })
	require.NoError(t, err)
	// 7005 was active, and 7003 wrote its first message, a minute before the gap.
	assert.Equal(t, Sum{Conversations: 4, Messages: 10, Stored: 8, Duplicates: 2}, sum)
	require.Len(t, steps, 4)
	assert.Equal(t, Messenger, steps[0].Platform)
	assert.Equal(t, noon.Add(-time.Minute), steps[0].Reached)
	assert.Equal(t, noon.Add(-time.Hour), steps[3].Reached)

	events := r.All(t)
	require.Len(t, events, 10)
	for _, e := range events[2:] {
		assert.Equal(t, "backfill", e.Data.Source)
		assert.Equal(t, "shop", e.Data.App)
		assert.JSONEq(t, fmt.Sprintf(`{"id":%q,"message":%q}`, e.Data.Message.MID, secret), string(e.Data.Raw))
	}
	for _, contact := range []domain.ContactID{"7001", "7003"} {
		var mine []streams.Stored
		for _, e := range events[2:] {
			if e.Contact == contact {
				mine = append(mine, e)
			}
		}
		assert.True(
			t, slices.IsSortedFunc(mine, func(a, b streams.Stored) int { return a.Time.Compare(b.Time) }), "oldest first",
		)
	}
	list, _, err := conversations.Messages(r.Named("conversations"), page, "7001", "", 0, false)
	require.NoError(t, err)
	require.Len(t, list, 6)
	for i, m := range list {
		assert.Equal(t, first[5-i].ID, m.MID)
		assert.Equal(t, first[5-i].From == string(page), m.Direction == conversations.Out)
	}

	again, err := fill(t, r.filler(g), time.Hour)
	require.NoError(t, err)
	assert.Zero(t, again.Stored)
	assert.Equal(t, 10, again.Duplicates)
	assert.Len(t, r.All(t), 10)
}

func TestReadingStopsAtTheStartOfTheGap(t *testing.T) {
	r := newFixture(t)
	g := newFakeGraph()
	g.addConversation(Messenger, page, "1", 1)
	for i := range 40 {
		g.addConversation(Messenger, page, fmt.Sprint(100+i), 100+i)
	}
	sum, err := fill(t, r.filler(g), time.Hour)
	require.NoError(t, err)
	assert.Equal(t, 1, sum.Stored)
	// The list is read once for the gap, and once for what became active meanwhile.
	assert.Equal(t, []string{"conversations messenger", "conversations messenger"}, g.calls)
}

func TestUntil(t *testing.T) {
	r := newFixture(t)
	g := newFakeGraph()
	g.addConversation(Messenger, page, "7", 1, 10, 20, 30, 40, 50)
	ctx, cancel := projectionstest.Limited()
	defer cancel()
	gap := Request{Page: page, Since: noon.Add(-40 * time.Minute), Until: noon.Add(-20 * time.Minute)}
	sum, err := r.filler(g).Run(ctx, gap, nil)
	require.NoError(t, err)
	assert.Equal(t, Sum{Conversations: 1, Messages: 3, Stored: 3}, sum)
}

func TestBothPlatforms(t *testing.T) {
	r := newFixture(t)
	g := newFakeGraph()
	g.access.Instagram = account
	g.addConversation(Messenger, page, "7", 1)
	g.addConversation(Instagram, account, "9", 2, 3)
	was := g.lists[Instagram][0].Messages[0]
	r.Publish(t, webhook("instagram", account, was)...)
	sum, err := fill(t, r.filler(g), time.Hour)
	require.NoError(t, err)
	assert.Equal(t, Sum{Conversations: 2, Messages: 3, Stored: 2, Duplicates: 1}, sum)
	for _, e := range r.All(t) {
		if e.Contact == "9" {
			assert.Equal(t, account, e.Page)
			assert.Equal(t, "instagram", e.Data.Object)
		}
	}
}

// A conversation that becomes active while the list is read moves to its front, which
// the cursor has passed.
func TestConversationsActiveMeanwhileAreRead(t *testing.T) {
	r := newFixture(t)
	g := newFakeGraph()
	for i := range 5 {
		g.addConversation(Messenger, page, fmt.Sprint(7000+i), 10+i)
	}
	g.before = func(n int, _ string) error {
		if n == 2 {
			g.lists[Messenger][4].Updated = noon.Add(time.Second)
		}
		return nil
	}
	sum, err := fill(t, r.filler(g), time.Hour)
	require.NoError(t, err)
	assert.Equal(t, Sum{Conversations: 5, Messages: 5, Stored: 5}, sum)
}

func TestMessagesOfOneSecondKeepGraphsOrder(t *testing.T) {
	r := newFixture(t)
	g := newFakeGraph()
	g.addConversation(Messenger, page, "7", 1, 1, 1, 1)
	for i := range g.lists[Messenger][0].Messages {
		m := &g.lists[Messenger][0].Messages[i]
		m.ID = fmt.Sprint("m_", i)
		m.From, m.To = "7", []string{string(page)}
	}
	_, err := fill(t, r.filler(g), time.Hour)
	require.NoError(t, err)
	require.Len(t, r.All(t), 4)
	list, _, err := conversations.Messages(r.Named("conversations"), page, "7", "", 0, false)
	require.NoError(t, err)
	var mids []string
	for _, m := range list {
		mids = append(mids, m.MID)
	}
	assert.Equal(t, []string{"m_3", "m_2", "m_1", "m_0"}, mids)
}

func TestMessagesBeforeAFailureAreKept(t *testing.T) {
	for _, fail := range []error{
		io.ErrUnexpectedEOF, &meta.Error{Code: 190}, &meta.Error{Code: 10}, &meta.Error{Code: 613, After: time.Hour},
	} {
		r := newFixture(t)
		g := newFakeGraph()
		g.addConversation(Messenger, page, "7", 1)
		g.addConversation(Messenger, page, "8", 2, 3, 4, 5, 6, 7, 8)
		g.before = func(n int, _ string) error {
			if n == 3 { // the second call for messages of 8
				return fail
			}
			return nil
		}
		sum, err := fill(t, r.filler(g), time.Hour)
		require.ErrorIs(t, err, fail)
		assert.NotContains(t, err.Error(), token)
		assert.NotContains(t, err.Error(), secret)
		assert.Equal(t, Sum{Conversations: 1, Messages: 6, Stored: 6}, sum)
		sum, err = fill(t, r.filler(g), time.Hour)
		require.NoError(t, err)
		assert.Equal(t, Sum{Conversations: 2, Messages: 8, Stored: 2, Duplicates: 6}, sum)
		assert.Len(t, r.All(t), 8)
	}
}

func TestRateLimitsAreWaitedFor(t *testing.T) {
	r := newFixture(t)
	g := newFakeGraph()
	g.addConversation(Messenger, page, "7", 1, 2, 3, 4)
	g.before = func(n int, _ string) error {
		if n == 1 || n == 3 {
			return &meta.Error{Code: 80006, After: 10 * time.Millisecond}
		}
		return nil
	}
	sum, err := fill(t, r.filler(g), time.Hour)
	require.NoError(t, err)
	assert.Equal(t, 4, sum.Stored)
	// The number of attempts is limited.
	g.calls, g.before = nil, func(int, string) error { return &meta.Error{Code: 80006, After: time.Millisecond} }
	_, err = fill(t, r.filler(g), time.Hour)
	require.Error(t, err)
	assert.Len(t, g.calls, maxThrottled)
}

func TestTwoCallsASecond(t *testing.T) {
	r := newFixture(t)
	g := newFakeGraph()
	g.addConversation(Messenger, page, "7", 1, 2, 3, 4)
	began := time.Now()
	_, err := fill(t, r.filler(g, func(o *Options) { o.PerSecond = 0 }), time.Hour)
	require.NoError(t, err)
	assert.Len(t, g.calls, 3)
	assert.GreaterOrEqual(t, time.Since(began), 2*time.Second/DefaultPerSecond-20*time.Millisecond)
}

func TestErasedContactsAreLeftOut(t *testing.T) {
	r := newFixture(t)
	g := newFakeGraph()
	g.addConversation(Messenger, page, "7", 1, 2, 3, 4)
	g.addConversation(Messenger, page, "8", 5)
	f := r.filler(g, func(o *Options) {
		o.Erased = func(p domain.PageID, c domain.ContactID) (time.Time, bool, error) {
			return noon.Add(-2 * time.Minute), p == page && c == "7", nil
		}
	})
	sum, err := fill(t, f, time.Hour)
	require.NoError(t, err)
	assert.Equal(t, Sum{Conversations: 2, Messages: 5, Stored: 2, Erased: 3}, sum)
}

// TestContactsThatAreErasedMeanwhileAreLeftOut erases a contact after messages of it were read, and before those of the next
// page are.
func TestContactsThatAreErasedMeanwhileAreLeftOut(t *testing.T) {
	r := newFixture(t)
	g := newFakeGraph()
	g.addConversation(Messenger, page, "7", 1, 2, 3, 4)
	erased := false
	g.before = func(_ int, call string) error {
		erased = erased || call == "messages t_7"
		return nil
	}
	f := r.filler(g, func(o *Options) {
		o.Erased = func(domain.PageID, domain.ContactID) (time.Time, bool, error) { return g.now, erased, nil }
	})
	sum, err := fill(t, f, time.Hour)
	require.NoError(t, err)
	require.True(t, erased)
	assert.Equal(t, Sum{Conversations: 1, Messages: 4, Erased: 4}, sum)
	assert.Empty(t, r.All(t))
}

func TestUnusableMessages(t *testing.T) {
	r := newFixture(t)
	g := newFakeGraph()
	g.addConversation(Messenger, page, "7", 1, 2, 3, 4, 5, 6)
	list := g.lists[Messenger][0].Messages
	list[0].ID = ""
	list[1].Created = time.Time{}
	list[2].From = ""
	list[3].From, list[3].To = "8", []string{"9"} // neither is the page
	list[4].From, list[4].To = string(page), []string{string(page)}
	list[5].From, list[5].To = "7", nil // it can only be to the page
	sum, err := fill(t, r.filler(g), time.Hour)
	require.NoError(t, err)
	assert.Equal(t, Sum{Conversations: 1, Messages: 6, Stored: 1, Unusable: 5}, sum)
}

// Graph does not return the old messages of some conversations.
func TestUnreadableConversationsAreCounted(t *testing.T) {
	r := newFixture(t)
	g := newFakeGraph()
	g.addConversation(Messenger, page, "7", 1, 2, 3, 4)
	g.addConversation(Messenger, page, "8", 5)
	g.before = func(_ int, call string) error {
		if call == "messages t_7" {
			return &meta.Error{Code: 100}
		}
		return nil
	}
	sum, err := fill(t, r.filler(g), time.Hour)
	require.NoError(t, err)
	assert.Equal(t, Sum{Conversations: 2, Messages: 3, Stored: 3, Unreadable: 1}, sum)

	assert.True(t, unreadable(fmt.Errorf("read: %w", &meta.Error{Code: 100, Subcode: 33})), "it is not there")
	passing := &meta.Error{Code: 100, Transient: true}
	for _, err := range []error{nil, io.ErrUnexpectedEOF, &meta.Error{Code: 230}, passing} {
		assert.False(t, unreadable(err))
	}
}

func TestConversationsWithoutNestedMessages(t *testing.T) {
	r := newFixture(t)
	g := newFakeGraph()
	g.nested = 0
	g.addConversation(Messenger, page, "7", 1, 2, 3, 4)
	sum, err := fill(t, r.filler(g), time.Hour)
	require.NoError(t, err)
	assert.Equal(t, 4, sum.Stored)
}

func TestContent(t *testing.T) {
	r := newFixture(t)
	g := newFakeGraph()
	g.addConversation(Messenger, page, "7", 1)
	m := &g.lists[Messenger][0].Messages[0]
	m.Text, m.Sticker, m.ReplyTo, m.Unsupported = "", "https://s.example/1.png", "m_0", true
	m.Attachments = []graph.Attachment{
		{Type: "image", URL: "https://a.example/1.png"}, {Type: "file", URL: "https://a.example/2.pdf", Name: "2.pdf"},
	}
	m.Raw = json.RawMessage(`{"not": `)
	_, err := fill(t, r.filler(g), time.Hour)
	require.NoError(t, err)
	got := r.All(t)[0].Data
	assert.Equal(t, &domain.Message{
		MID: "m_7_1", Unsupported: true, ReplyTo: &domain.ReplyTo{MID: "m_0"},
		Attachments: []domain.Attachment{
			{Type: "image", URL: "https://a.example/1.png"},
			{Type: "file", URL: "https://a.example/2.pdf", Title: "2.pdf"},
			{Type: "sticker", URL: "https://s.example/1.png"},
		},
	}, got.Message)
	assert.True(t, json.Valid(got.Raw), "the item stands in for what can't be kept")
}

// Property: the event of a message equals the event of its delivery, except for what
// Graph does not return.
func TestEventEqualsTheDeliveredOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		own, object, platform := page, "page", Messenger
		if rapid.Bool().Draw(t, "instagram") {
			own, object, platform = account, "instagram", Instagram
		}
		m := graph.Message{
			ID:      rapid.StringMatching(`m_[A-Za-z0-9_=+/-]{1,200}`).Draw(t, "mid"),
			Created: time.Unix(rapid.Int64Range(1_500_000_000, 2_000_000_000).Draw(t, "created"), 0).UTC(),
			From:    rapid.StringMatching(`[1-9][0-9]{3,16}`).Draw(t, "contact"), To: []string{string(own)},
			Text: rapid.StringMatching(`[ -~äß🎉]{0,50}`).Draw(t, "text"),
		}
		if rapid.Bool().Draw(t, "echo") {
			m.From, m.To[0] = m.To[0], m.From
		}
		text, _ := json.Marshal(m.Text)
		echo := ""
		if m.From == string(own) {
			echo = `"is_echo":true,`
		}
		body := fmt.Sprintf(
			`{"object":%q,"entry":[{"id":%q,"time":5,"messaging":[{"sender":{"id":%q},"recipient":{"id":%q},"timestamp":%d,"message":{%s"mid":%q,"text":%s}}]}]}`,
			object, own, m.From, m.To[0], m.Created.UnixMilli(), echo, m.ID, text,
		)
		want := messenger.Split([]byte(body), messenger.Options{App: "shop", Source: "backfill"}).Events[0]
		w := &walk{
			Filler:  New(Options{Tokens: newFakeGraph(), Graph: newFakeGraph(), Publisher: nothing{}}),
			Request: Request{Page: page}, access: meta.Access{App: "shop"},
		}
		got, ok, err := w.event(m, platform, own)
		require.NoError(t, err)
		require.True(t, ok, "the message is left out")
		want.Data.Raw, got.Data.Raw, want.Data.EntryTime = nil, nil, 0
		assert.Equal(t, want, got)
	})
}

type nothing struct{}

func (nothing) Publish(context.Context, []domain.Event) ([]streams.Receipt, error) { return nil, nil }

// busy is a stream that is overloaded for a number of calls.
type busy struct {
	*streams.Publisher
	left int
}

func (b *busy) Publish(ctx context.Context, events []domain.Event) ([]streams.Receipt, error) {
	if b.left--; b.left >= 0 {
		return nil, fmt.Errorf("publish: %w", streams.ErrOverloaded)
	}
	return b.Publisher.Publish(ctx, events)
}

func TestOverloadPausesTheRun(t *testing.T) {
	r := newFixture(t)
	g := newFakeGraph()
	g.addConversation(Messenger, page, "7", 1)
	sum, err := fill(t, r.filler(g, func(o *Options) { o.Publisher = &busy{r.Publisher, 1} }), time.Hour)
	require.NoError(t, err)
	assert.Equal(t, 1, sum.Stored)
}

func TestLongConversationsAreStoredInParts(t *testing.T) {
	r := newFixture(t)
	g := newFakeGraph()
	g.perCall = 1000
	minutes := make([]int, maxMessages+2500)
	for i := range minutes {
		minutes[i] = i + 1
	}
	g.addConversation(Messenger, page, "7", minutes...)
	sum, err := fill(t, r.filler(g), 24*time.Hour*30)
	require.NoError(t, err)
	assert.Equal(t, len(minutes), sum.Stored)
}

func TestOneRunPerPage(t *testing.T) {
	r := newFixture(t)
	g := newFakeGraph()
	g.addConversation(Messenger, page, "7", 1)
	f := r.filler(g)
	var second error
	g.before = func(int, string) error {
		_, second = f.Run(t.Context(), Request{Page: page, Since: noon.Add(-time.Hour)}, nil)
		return nil
	}
	_, err := fill(t, f, time.Hour)
	require.NoError(t, err)
	require.ErrorIs(t, second, ErrRunning)
	g.before = nil
	_, err = fill(t, f, time.Hour)
	assert.NoError(t, err, "and then another")
}

func TestContextEndsTheRun(t *testing.T) {
	r := newFixture(t)
	g := newFakeGraph()
	g.addConversation(Messenger, page, "7", 1, 2, 3, 4)
	ctx, cancel := projectionstest.Limited()
	defer cancel()
	g.before = func(n int, _ string) error {
		cancel()
		return &meta.Error{Code: 613, After: time.Minute}
	}
	_, err := r.filler(g).Run(ctx, Request{Page: page, Since: noon.Add(-time.Hour)}, nil)
	assert.ErrorIs(t, err, context.Canceled)
}

func TestInvalidRequests(t *testing.T) {
	r := newFixture(t)
	g := newFakeGraph()
	for name, request := range map[string]Request{
		"no page":  {Since: noon},
		"no start": {Page: page},
		"backward": {Page: page, Since: noon, Until: noon.Add(-time.Minute)},
		"future":   {Page: page, Since: noon.Add(time.Hour)},
	} {
		_, err := r.filler(g).Run(t.Context(), request, nil)
		require.ErrorIs(t, err, ErrRequest, name)
	}
	for _, denied := range []error{meta.ErrNotConnected, meta.ErrTokenDead} {
		g.denied = denied
		_, err := fill(t, r.filler(g), time.Hour)
		require.ErrorIs(t, err, denied)
	}
	g.denied, g.access.Instagram = nil, account
	_, err := r.filler(g).Run(t.Context(), Request{Page: account, Since: noon.Add(-time.Hour)}, nil)
	require.ErrorIs(t, err, ErrRequest)
	require.ErrorContains(t, err, "fill the gap of page 104")
	assert.Empty(t, g.calls)
	assert.Panics(t, func() { New(Options{}) })
}
