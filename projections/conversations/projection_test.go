package conversations_test

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/conversations"
)

func TestConversationOfMessages(t *testing.T) {
	f := newFixture(t)
	f.apply(in("m1", "hello", 1000), out("m2", "hi there", 2000), in("m3", "thanks", 3000), in("m4", "bye", 4000))

	list := f.messages()
	require.Len(t, list, 4)
	assert.Equal(t, "hello", list[0].Text)
	assert.Equal(t, conversations.In, list[0].Direction)
	assert.Equal(t, conversations.Out, list[1].Direction)
	assert.Equal(t, "55", list[1].AppID)
	assert.Equal(t, []uint64{2}, list[1].Events)

	c := f.conversation()
	assert.Equal(t, uint64(3), c.In)
	assert.Equal(t, uint64(1), c.Out)
	assert.Equal(t, uint64(2), c.Unanswered)
	assert.Equal(t, ms(1000), c.FirstActivity)
	assert.Equal(t, ms(4000), c.LastActivity)
	assert.Equal(t, "bye", c.Last.Text)
	assert.Equal(t, "page", c.Object)
	assert.Equal(t, conversations.Counts{Conversations: 1, In: 3, Out: 1}, f.counts())

	f.apply(out("m5", "still here", 5000))
	assert.Zero(t, f.conversation().Unanswered)
}

// TestEchoIsStoredOnce checks that all copies of an echo have one row: they have the same
// mid.
func TestEchoIsStoredOnce(t *testing.T) {
	f := newFixture(t)
	echo := out("m1", "on its way", 1000)
	backfill := echo
	backfill.ID, backfill.Data.Source = "other", "backfill"
	f.apply(echo, backfill, echo)
	require.Len(t, f.messages(), 1)
	assert.Zero(t, f.counts().Conflicts)
	assert.Equal(t, uint64(1), f.conversation().Out)
}

func TestSameMIDWithOtherContentIsAConflict(t *testing.T) {
	f := newFixture(t)
	other := in("m1", "second", 1500)
	f.apply(in("m1", "first", 1000), other)
	require.Len(t, f.messages(), 1)
	m := f.message("m1")
	assert.Equal(t, "first", m.Text)
	assert.Equal(t, uint64(1), m.Conflicts)
	assert.Equal(t, []uint64{1, 2}, m.Events)
	assert.Equal(t, uint64(1), f.conversation().Conflicts)
	assert.Equal(t, uint64(1), f.counts().Conflicts)

	// Messages are compared with the original text, also after an edit.
	twin := in("m1", "first", 1000)
	twin.ID = "twin"
	f.apply(edit("m1", "edited", 1, 2000), twin)
	assert.Equal(t, uint64(1), f.message("m1").Conflicts)
}

func TestSameMIDOfTwoContacts(t *testing.T) {
	f := newFixture(t)
	f.apply(in("m1", "mine", 1000), withContact(in("m1", "yours", 1100), page, "7002"))
	assert.Equal(t, "mine", f.message("m1").Text)
	list, _, err := conversations.Messages(f.st, page, "7002", "", 0, false)
	require.NoError(t, err)
	require.Len(t, list, 1, "the other message is stored")
	assert.Equal(t, "yours", list[0].Text)
	assert.Zero(t, f.counts().Conflicts, "each is the only one of its conversation")
}

func TestMessageWithoutMID(t *testing.T) {
	f := newFixture(t)
	e := in("", "", 1000)
	e.Data.Message.Unsupported = true
	f.apply(e, e, in("", "", 2000))
	list := f.messages()
	require.Len(t, list, 2)
	assert.True(t, list[0].Unsupported)
	assert.Equal(t, e.ID, list[0].ID)
}

func TestLateArrivalIsPlacedByTime(t *testing.T) {
	f := newFixture(t)
	f.apply(in("m1", "one", 1000), in("m3", "three", 9000), in("m2", "two", 3000))
	list := f.messages()
	require.Len(t, list, 3)
	assert.Equal(t, []string{"one", "two", "three"}, []string{list[0].Text, list[1].Text, list[2].Text})
	assert.Equal(t, []int64{0, 6000, 0}, []int64{list[0].LateMillis, list[1].LateMillis, list[2].LateMillis})
	c := f.conversation()
	assert.Equal(t, uint64(1), c.Late)
	assert.Equal(t, "three", c.Last.Text)
	assert.Equal(t, ms(9000), c.LastActivity)
	assert.Equal(t, uint64(1), f.counts().Late)

	history := in("m0", "zero", 500)
	history.Data.Source = "backfill"
	f.apply(history)
	assert.Zero(t, f.message("m0").LateMillis, "history is not late")
	assert.Equal(t, "zero", f.messages()[0].Text)

	f.apply(out("m4", "late answer", 2000))
	assert.Equal(t, uint64(2), f.conversation().Unanswered, "two and three are newer than the page's message")
}

func TestChangesOfAMessage(t *testing.T) {
	tests := []struct {
		name   string
		events []domain.Event
		check  func(t *testing.T, f *fixture, m conversations.Message)
	}{
		{
			"the edit with the highest number wins",
			[]domain.Event{in("m", "a", 1000), edit("m", "c", 2, 3000), edit("m", "b", 1, 2000)},
			func(t *testing.T, f *fixture, m conversations.Message) {
				assert.Equal(t, "c", m.Text)
				assert.Equal(t, "a", m.Original)
				assert.Equal(t, []conversations.Edit{
					{Num: 1, Text: "b", Time: ms(2000)}, {Num: 2, Text: "c", Time: ms(3000)},
				}, m.Edits)
				assert.Equal(t, "c", f.conversation().Last.Text)
				assert.Equal(t, []uint64{1, 2, 3}, m.Events)
			},
		},
		{
			"edit 0.7 s before its message",
			[]domain.Event{edit("m", "b", 1, 1700), in("m", "a", 1000)},
			func(t *testing.T, f *fixture, m conversations.Message) {
				assert.Equal(t, "b", m.Text)
				assert.Equal(t, "a", m.Original)
				assert.Zero(t, f.conversation().Pending)
				assert.Zero(t, f.counts().Pending)
			},
		},
		{
			"unsend clears the text",
			[]domain.Event{in("m", "secret", 1000), edit("m", "secret too", 1, 1500), unsend("m", 2000)},
			func(t *testing.T, f *fixture, m conversations.Message) {
				assert.True(t, m.Deleted)
				assert.Equal(t, ms(2000), m.DeletedAt)
				assert.Empty(t, m.Text+m.Original+m.Edits[0].Text)
				assert.Empty(t, f.conversation().Last.Text)
				assert.True(t, f.conversation().Last.Deleted)
			},
		},
		{
			"unsend before its message",
			[]domain.Event{unsend("m", 2000), in("m", "secret", 1000)},
			func(t *testing.T, f *fixture, m conversations.Message) {
				assert.True(t, m.Deleted)
				assert.Empty(t, m.Text)
				assert.Empty(t, f.conversation().Last.Text)
			},
		},
		{
			"reactions of both participants",
			[]domain.Event{
				in("m", "a", 1000), react("m", "7001", "😀", 2000),
				react("m", "104", "👍", 2500), react("m", "7001", "😢", 3000),
			},
			func(t *testing.T, f *fixture, m conversations.Message) {
				require.Len(t, m.Reactions, 2)
				assert.Equal(t, "😢", m.Reactions["7001"].Emoji)
				assert.Equal(t, "👍", m.Reactions["104"].Emoji)
			},
		},
		{
			"unreact removes",
			[]domain.Event{in("m", "a", 1000), react("m", "7001", "😀", 2000), unreact("m", "7001", 3000)},
			func(t *testing.T, f *fixture, m conversations.Message) { assert.Empty(t, m.Reactions) },
		},
		{
			"unreact before its reaction",
			[]domain.Event{unreact("m", "7001", 3000), react("m", "7001", "😀", 2000), in("m", "a", 1000)},
			func(t *testing.T, f *fixture, m conversations.Message) { assert.Empty(t, m.Reactions) },
		},
		{
			"reactions of one millisecond: the later arrival",
			[]domain.Event{in("m", "a", 1000), react("m", "7001", "😀", 2000), react("m", "7001", "😢", 2000)},
			func(t *testing.T, f *fixture, m conversations.Message) {
				assert.Equal(t, "😢", m.Reactions["7001"].Emoji)
			},
		},
		{
			"delivery by mid before the echo",
			[]domain.Event{delivered(1500, 0, "m"), out("m", "a", 1000)},
			func(t *testing.T, f *fixture, m conversations.Message) { assert.Equal(t, ms(1500), m.DeliveredAt) },
		},
		{
			"delivery by watermark before the echo",
			[]domain.Event{delivered(5000, 1500), out("m", "a", 1000)},
			func(t *testing.T, f *fixture, m conversations.Message) {
				assert.Equal(t, ms(1500), m.DeliveredAt)
				assert.True(t, m.ReadAt.IsZero())
			},
		},
		{
			"the earliest receipt wins",
			[]domain.Event{out("m", "a", 1000), delivered(0, 3000), delivered(0, 2000), delivered(0, 4000)},
			func(t *testing.T, f *fixture, m conversations.Message) { assert.Equal(t, ms(2000), m.DeliveredAt) },
		},
		{
			"read implies delivered",
			[]domain.Event{out("m", "a", 1000), read(5000, 1000)},
			func(t *testing.T, f *fixture, m conversations.Message) {
				assert.Equal(t, ms(1000), m.ReadAt)
				assert.Equal(t, ms(1000), m.DeliveredAt)
			},
		},
		{
			"receipts don't change messages of the contact",
			[]domain.Event{in("m", "a", 1000), delivered(2000, 2000, "m"), read(3000, 3000)},
			func(t *testing.T, f *fixture, m conversations.Message) {
				assert.True(t, m.DeliveredAt.IsZero() && m.ReadAt.IsZero())
				assert.Equal(t, ms(2000), f.conversation().Delivered)
				assert.Equal(t, ms(3000), f.conversation().Read)
			},
		},
		{
			"read by mid before the echo",
			[]domain.Event{readMID(9000, "m"), out("m", "a", 1000)},
			func(t *testing.T, f *fixture, m conversations.Message) {
				assert.Equal(t, ms(9000), m.ReadAt)
				assert.Equal(t, ms(1000), f.conversation().Read)
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t)
			f.apply(tt.events...)
			tt.check(t, f, f.message("m"))
		})
	}
}

// TestWatermarkCoversToTheMillisecond checks that a watermark is in milliseconds. In
// seconds it would be in the year 50000 and cover everything.
func TestWatermarkCoversToTheMillisecond(t *testing.T) {
	const base = 1_648_581_633_000
	f := newFixture(t)
	f.apply(out("a", "1", base), out("b", "2", base+369), out("c", "3", base+370), delivered(base+400, base+369))
	assert.Equal(t, ms(base+369), f.message("a").DeliveredAt)
	assert.Equal(t, ms(base+369), f.message("b").DeliveredAt)
	assert.True(t, f.message("c").DeliveredAt.IsZero())

	f.apply(read(base+900, base+400))
	assert.Equal(t, ms(base+400), f.message("c").ReadAt)
	assert.Equal(t, ms(base+400), f.message("c").DeliveredAt)
	assert.Equal(t, ms(base+369), f.message("a").DeliveredAt, "the first receipt is kept")
	assert.Equal(t, []uint64{3, 5}, f.message("c").Events, "the row has the sequence of the receipt that covers it")

	f.apply(out("d", "between", base+100))
	assert.Equal(t, ms(base+369), f.message("d").DeliveredAt, "a late message that a receipt covers already")
	assert.Equal(t, ms(base+400), f.message("d").ReadAt)
}

// TestReadByMIDCoversEarlierMessages checks that a read receipt of Instagram, which names
// one message, covers the earlier ones as well.
func TestReadByMIDCoversEarlierMessages(t *testing.T) {
	f := newFixture(t)
	f.apply(out("a", "1", 1000), out("b", "2", 2000), out("c", "3", 3000), readMID(2500, "b"))
	assert.Equal(t, ms(2500), f.message("a").ReadAt)
	assert.Equal(t, ms(2500), f.message("b").ReadAt)
	assert.True(t, f.message("c").ReadAt.IsZero())
	assert.Equal(t, ms(2000), f.conversation().Read)
}

// TestReceiptCoversManyMessages checks that a receipt is applied to more rows than one
// chunk of a scan has.
func TestReceiptCoversManyMessages(t *testing.T) {
	f := newFixture(t)
	const n = 700
	var events []domain.Event
	for i := range int64(n) {
		events = append(events, out(fmt.Sprint("m", i), "x", 1000+i))
	}
	f.apply(events...)
	f.apply(read(9000, 1000+n-2))
	c := 0
	for cursor := ""; ; {
		list, next, err := conversations.Messages(f.st, page, contact, cursor, 300, false)
		require.NoError(t, err)
		for _, m := range list {
			if !m.ReadAt.IsZero() {
				c++
			}
		}
		if cursor = next; next == "" {
			break
		}
	}
	assert.Equal(t, n-1, c)
}

func TestReceiptsAreBounded(t *testing.T) {
	f := newFixture(t)
	for i := range int64(200) {
		f.apply(delivered(0, 1000+i*10))
	}
	f.apply(out("new", "x", 2901), out("old", "x", 1001))
	assert.Equal(t, ms(2910), f.message("new").DeliveredAt)
	assert.Equal(t, ms(1000+136*10), f.message("old").DeliveredAt, "the oldest of the last 64 is used")
}

func TestPostback(t *testing.T) {
	pb := func(payload string, standby bool) domain.Event {
		e := event(domain.PostbackReceived, 1000, domain.Data{Postback: &domain.Postback{
			MID: "p", Title: "Start", Payload: payload, Referral: &domain.Referral{Ref: "ad"},
		}})
		e.Standby = standby
		return e
	}
	for _, order := range [][]domain.Event{{pb("GO", false), pb("", true)}, {pb("", true), pb("GO", false)}} {
		f := newFixture(t)
		f.apply(order...)
		m := f.message("p")
		require.Len(t, f.messages(), 1)
		assert.Equal(t, conversations.KindPostback, m.Kind)
		assert.Equal(t, "Start", m.Title)
		assert.Equal(t, "GO", m.Payload)
		assert.Equal(t, "ad", m.Referral.Ref)
		assert.False(t, m.Standby)
		assert.Zero(t, f.counts().Conflicts)
		assert.Equal(t, "Start", f.conversation().Last.Text)
	}
}

func TestThread(t *testing.T) {
	thread := func(k domain.Type, at int64, th domain.Thread) domain.Event {
		return event(k, at, domain.Data{Thread: &th})
	}
	pass := thread(domain.ThreadPassed, 2000, domain.Thread{PreviousOwner: "1", NewOwner: "2"})
	take := thread(domain.ThreadTaken, 4000, domain.Thread{PreviousOwner: "2", NewOwner: "1"})
	ask := thread(domain.ThreadRequested, 3000, domain.Thread{Requester: "3"})
	again := thread(domain.ThreadRequested, 5000, domain.Thread{Requester: "4"})
	roles := thread(domain.ThreadRolesChanged, 1000, domain.Thread{Roles: map[string][]string{"1": {"primary_receiver"}}})
	for _, order := range [][]domain.Event{
		{pass, ask, take, again, roles}, {again, take, roles, ask, pass}, {ask, again, pass, roles, take},
	} {
		f := newFixture(t)
		f.apply(order...)
		th := f.conversation().Thread
		assert.Equal(t, "1", th.Owner)
		assert.Equal(t, ms(4000), th.Since)
		assert.Equal(t, "4", th.Requester)
		assert.Equal(t, []string{"primary_receiver"}, th.Roles["1"])
	}
	f := newFixture(t)
	f.apply(pass, ask)
	assert.Equal(t, "3", f.conversation().Thread.Requester)
	f.apply(take)
	assert.Empty(t, f.conversation().Thread.Requester, "the owner changed after the request")
}

func TestStandby(t *testing.T) {
	f := newFixture(t)
	e := in("m1", "to the other app", 1000)
	e.Standby = true
	f.apply(e)
	assert.True(t, f.message("m1").Standby)
	assert.True(t, f.conversation().Standby)
	r := read(1500, 1500)
	r.Standby = true
	f.apply(out("m2", "x", 1200), r)
	assert.Equal(t, ms(1500), f.message("m2").ReadAt, "a standby receipt counts")
	assert.False(t, f.conversation().Standby)
}

func TestProfileAndOthers(t *testing.T) {
	f := newFixture(t)
	f.apply(in("m", "a", 1000),
		event(domain.ContactProfiled, 2000, domain.Data{Profile: &domain.Profile{Name: "Ada", Picture: "https://x/p"}}),
		event(domain.ContactProfiled, 3000, domain.Data{Profile: &domain.Profile{Name: "Ada L."}}),
		event(domain.ReferralReceived, 4000, domain.Data{Referral: &domain.Referral{Ref: "r", AdID: "9", Ads: &domain.AdsContext{Title: "t"}}}),
		event(domain.OptinReceived, 4500, domain.Data{Optin: &domain.Optin{Type: "one_time_notif_req"}}),
		event(domain.AccountLinked, 5000, domain.Data{AccountLink: &domain.AccountLink{Status: "linked"}}),
		event(domain.DeliveryUnrecognized, 6000, domain.Data{Kind: "game_play"}))
	c := f.conversation()
	assert.Equal(t, "Ada L.", c.Name)
	assert.Equal(t, "https://x/p", c.Picture, "a field that Graph left out is kept")
	assert.Equal(t, "9", c.Referral.AdID)
	assert.Equal(t, "one_time_notif_req", c.Optin.Type)
	assert.Equal(t, "linked", c.Account)
	assert.Equal(t, ms(6000), c.LastActivity)
	assert.Equal(t, uint64(1), c.In)
}

func TestIgnoredEvents(t *testing.T) {
	f := newFixture(t)
	test := in("m1", "x", 1000)
	test.Data.Test = true
	f.apply(test, withContact(in("m2", "x", 1000), domain.NoPage, contact),
		withContact(in("m3", "x", 1000), "", contact), withContact(in("m4", "x", 1000), page, ""),
		event(domain.PolicyEnforced, 1000, domain.Data{}),
		withContact(event(domain.PolicyEnforced, 1000, domain.Data{Policy: &domain.Policy{Action: "warning"}}), "200", ""))
	_, err := conversations.FindByMID(f.st, page, contact, "m1")
	require.ErrorIs(t, err, conversations.ErrNotFound)
	sum, err := conversations.Count(f.st, "")
	require.NoError(t, err)
	assert.Equal(t, uint64(1), sum.Conversations, "only the policy event with a contact")
	assert.Zero(t, sum.In)
}

// TestUnusualContent checks that events of any type without their payload are counted and
// skipped, and that extreme values are accepted.
func TestUnusualContent(t *testing.T) {
	f := newFixture(t)
	for i, k := range domain.Types() {
		if k != domain.ContactErased {
			f.apply(event(k, int64(i)+1, domain.Data{}))
		}
	}
	assert.NotZero(t, f.counts().Incomplete)

	nan := math.NaN()
	e := in("m1", "a\xffb", 1000)
	e.Time = time.Date(90000, 1, 1, 0, 0, 0, 0, time.UTC)
	e.Data.Message.Attachments = []domain.Attachment{{Type: "location", Lat: &nan, Long: &nan}}
	old := in("m2", "x", 0)
	old.Time = time.Time{}
	longPage := domain.PageID(strings.Repeat("p", 70000))
	longContact := domain.ContactID("c\x00" + strings.Repeat("c", 70000))
	f.apply(e, old, delivered(1, math.MaxInt64), delivered(1, math.MinInt64), read(1, -5),
		withContact(in("m3", "x", 5), longPage, longContact))
	assert.Equal(t, 9999, f.message("m1").Time.Year())
	assert.Equal(t, f.message("m2").At, f.message("m2").Time, "without an event time, the time of storing is used")
	long, err := conversations.FindByMID(f.st, longPage, longContact, "m3")
	require.NoError(t, err)
	assert.Equal(t, "x", long.Text)
}

func TestHugeText(t *testing.T) {
	f := newFixture(t)
	huge := strings.Repeat("ж", 2<<20)
	f.apply(in("m1", huge, 1000))
	assert.Equal(t, huge, f.message("m1").Text)
	assert.Equal(t, strings.Repeat("ж", 120), f.conversation().Last.Text)
}

func TestPendingIsBounded(t *testing.T) {
	f := newFixture(t)
	for i := range int64(150) {
		f.apply(edit("absent", fmt.Sprint(i), i, 1000+i))
	}
	assert.Equal(t, uint64(100), f.conversation().Pending)
	assert.Equal(t, uint64(50), f.counts().Dropped)
	for i := range int64(400) {
		f.apply(delivered(2000+i, 0, fmt.Sprint("absent", i)))
	}
	assert.Equal(t, uint64(256), f.conversation().Pending)
	assert.Equal(t, uint64(256), f.counts().Pending)
	assert.Equal(t, uint64(50+100+400-256), f.counts().Dropped)

	// The oldest changes were dropped first, and the newest are applied.
	f.apply(out("absent399", "x", 1500), out("absent0", "x", 1500))
	assert.False(t, f.message("absent399").DeliveredAt.IsZero())
	assert.True(t, f.message("absent0").DeliveredAt.IsZero())
	assert.Equal(t, uint64(255), f.conversation().Pending)
}

// TestUnsendRemovesTextThatWaits checks that no text of an unsent message is stored:
// neither in edits that wait for it, nor if too many changes wait.
func TestUnsendRemovesTextThatWaits(t *testing.T) {
	f := newFixture(t)
	for i := range int64(100) {
		f.apply(edit("absent", "private", i, 1000+i))
	}
	require.True(t, f.contains("private"))
	f.apply(unsend("absent", 5000))
	assert.False(t, f.contains("private"))
	assert.Zero(t, f.counts().Dropped)
	f.apply(edit("absent2", "private", 1, 1), unsend("absent2", 2), edit("absent2", "private", 2, 3))
	assert.False(t, f.contains("private"))
	f.apply(in("absent", "private", 900), in("absent2", "private", 901))
	assert.False(t, f.contains("private"))
	assert.True(t, f.message("absent").Deleted && f.message("absent2").Deleted)
	assert.Zero(t, f.conversation().Pending)
}

func TestEventsOfARowAreBounded(t *testing.T) {
	f := newFixture(t)
	f.apply(in("m", "a", 1000))
	for i := range int64(99) {
		f.apply(react("m", "7001", "x", 2000+i))
	}
	assert.Len(t, f.message("m").Events, 64)
	assert.Equal(t, uint64(36), f.message("m").EventsOmitted)
}

// TestPagesWithTheSameContactIDAreSeparate checks that a contact id on three pages is three
// different contacts, and a mid three different messages.
func TestPagesWithTheSameContactIDAreSeparate(t *testing.T) {
	f := newFixture(t)
	pages := []domain.PageID{"1", "10", "104"}
	for i, p := range pages {
		f.apply(withContact(in("m", fmt.Sprint("to ", p), 1000+int64(i)), p, contact))
	}
	f.apply(withContact(edit("m", "changed", 1, 2000), "10", contact),
		withContact(event(domain.ContactErased, 9000, domain.Data{}), "1", contact))
	for _, p := range pages[1:] {
		list, _, err := conversations.List(f.st, p, "", 0)
		require.NoError(t, err)
		require.Len(t, list, 1)
		assert.Equal(t, p, list[0].Page)
	}
	m, err := conversations.FindByMID(f.st, "10", contact, "m")
	require.NoError(t, err)
	assert.Equal(t, "changed", m.Text)
	assert.Equal(t, "to 104", f.message("m").Text)
	_, err = conversations.FindByMID(f.st, "1", contact, "m")
	require.ErrorIs(t, err, conversations.ErrNotFound)
	_, err = conversations.Get(f.st, "1", contact)
	require.ErrorIs(t, err, conversations.ErrErased)
}

func TestErase(t *testing.T) {
	f := newFixture(t)
	const secret = "very-private"
	other := withContact(in("o", "stays", 1000), page, "7002")
	f.apply(in("m1", secret, 1000), out("m2", secret, 2000), in("", secret, 2500),
		read(2600, 2600), edit("absent", secret, 1, 3000),
		event(domain.ContactProfiled, 3000, domain.Data{Profile: &domain.Profile{Name: secret}}), other)
	require.True(t, f.contains(secret) && f.contains(string(contact)))
	f.apply(event(domain.ContactErased, 5000, domain.Data{}))

	assert.False(t, f.contains(secret), "no bucket has the text")
	assert.False(t, f.contains(string(contact)), "no bucket has the contact's id")
	_, err := conversations.Get(f.st, page, contact)
	require.ErrorIs(t, err, conversations.ErrErased)
	at, ok, err := conversations.ErasedAt(f.st, page, contact)
	require.NoError(t, err)
	assert.True(t, ok)
	assert.Equal(t, ms(5000), at)
	assert.Empty(t, f.messages())
	for _, mid := range []string{"m1", "m2"} {
		_, err = conversations.FindByMID(f.st, page, contact, mid)
		require.ErrorIs(t, err, conversations.ErrNotFound)
	}
	list, _, err := conversations.List(f.st, page, "", 0)
	require.NoError(t, err)
	require.Len(t, list, 1)
	assert.Equal(t, conversations.Counts{Conversations: 1, In: 1, Erased: 1}, f.counts())

	// Old events and profiles don't create the conversation again, a new message does.
	history := in("m1", secret, 1000)
	history.Data.Source = "backfill"
	f.apply(history, event(domain.ContactProfiled, 6000, domain.Data{Profile: &domain.Profile{Name: secret}}))
	assert.False(t, f.contains(secret))
	assert.Equal(t, uint64(1), f.counts().AfterErasure)
	f.apply(in("m9", "I am back", 7000), history)
	assert.Len(t, f.messages(), 1)
	assert.Equal(t, ms(5000), f.conversation().ErasedBefore)
	assert.Equal(t, uint64(2), f.counts().AfterErasure)
}

// TestForget checks that a forgotten page leaves nothing to show, and what an erasure of a contact needs.
func TestForget(t *testing.T) {
	f := newFixture(t)
	const text = "not shown any more"
	forgotten := domain.Event{Type: domain.PageForgotten, Page: page}
	f.apply(in("m1", text, 1000), out("m2", text, 2000), in("", text, 2500), read(2600, 2600), edit("absent", text, 1, 3000),
		event(domain.ContactProfiled, 3000, domain.Data{Profile: &domain.Profile{Name: text}}))
	for i := range int64(100) { // more than are kept with the conversation
		f.apply(in(fmt.Sprint("n", i), text, 4000+i), withContact(in(fmt.Sprint("p", i), text, i), page, domain.ContactID(fmt.Sprint(i))))
	}
	seqs, err := conversations.EventsOf(f.st, page, contact, 0, 1000)
	require.NoError(t, err)
	f.apply(forgotten)
	assert.False(t, f.contains(text))
	assert.False(t, f.contains(string(contact)))
	assert.Equal(t, conversations.Counts{}, f.counts())
	list, _, err := conversations.List(f.st, page, "", 0)
	require.NoError(t, err)
	assert.Empty(t, list)
	same, err := conversations.EventsOf(f.st, page, contact, 0, 1000)
	require.NoError(t, err)
	assert.Equal(t, seqs, same, "an erasure finds the events")
	assert.Len(t, same, 106)

	f.apply(in("m1", text, 1000), event(domain.ContactErased, 5000, domain.Data{}), forgotten, in("m0", text, 4000))
	assert.False(t, f.contains(text), "the contact is erased")
	assert.Equal(t, conversations.Counts{Erased: 1, AfterErasure: 1}, f.counts())
}

func TestEraseUnknownAndTwice(t *testing.T) {
	f := newFixture(t)
	f.apply(event(domain.ContactErased, 5000, domain.Data{}), event(domain.ContactErased, 4000, domain.Data{}))
	at, ok, err := conversations.ErasedAt(f.st, page, contact)
	require.NoError(t, err)
	assert.True(t, ok)
	assert.Equal(t, ms(5000), at, "the newest erasure is kept")
}

func TestList(t *testing.T) {
	f := newFixture(t)
	const n = 25
	for i := range int64(n) {
		f.apply(withContact(in("m", "x", 1000+i), page, domain.ContactID(fmt.Sprint("c", i))))
	}
	f.apply(withContact(read(99999, 99999), page, "c3"))        // a receipt is not activity
	f.apply(withContact(out("e", "x", 50000), page, "c5"))      // to the front
	f.apply(withContact(in("late", "x", 10), page, "c7"))       // keeps its place
	f.apply(withContact(read(1, 1), page, "silent"))            // no activity: last
	f.apply(withContact(in("m", "x", 70000), "1042", "not us")) // another page, a longer id
	var got []domain.ContactID
	calls := 0
	for cursor := ""; ; {
		list, next, err := conversations.List(f.st, page, cursor, 7)
		require.NoError(t, err)
		require.LessOrEqual(t, len(list), 7)
		for _, c := range list {
			got = append(got, c.Contact)
		}
		calls++
		if cursor = next; next == "" {
			break
		}
	}
	want := []domain.ContactID{"c5"}
	for i := n - 1; i >= 0; i-- {
		if i != 5 {
			want = append(want, domain.ContactID(fmt.Sprint("c", i)))
		}
	}
	want = append(want, "silent")
	assert.Equal(t, want, got)
	assert.Equal(t, 4, calls)

	_, _, err := conversations.List(f.st, page, "!", 7)
	require.ErrorIs(t, err, conversations.ErrCursor)
	empty, next, err := conversations.List(f.st, "nobody", "", 7)
	require.NoError(t, err)
	assert.NotNil(t, empty)
	assert.Empty(t, empty)
	assert.Empty(t, next)
}

func TestListAll(t *testing.T) {
	f := newFixture(t)
	random := rand.New(rand.NewPCG(3, 4))
	var all []conversations.Conversation
	// Ids that are prefixes of others, and with zero bytes; several conversations have the same time.
	for _, p := range []domain.PageID{"1", "10", "104", "2", "1\x00", "a\x00b"} {
		for i := range 20 {
			c := domain.ContactID(fmt.Sprint(i))
			at := int64(1000 + random.IntN(12))
			f.apply(withContact(in("m"+string(p)+string(c), "x", at), p, c))
			if random.IntN(3) > 0 {
				f.apply(withContact(out("e"+string(p)+string(c), "x", at), p, c))
			}
			row, err := conversations.Get(f.st, p, c)
			require.NoError(t, err)
			all = append(all, row)
		}
	}
	for _, first := range []bool{false, true} {
		slices.SortFunc(all, func(a, b conversations.Conversation) int {
			if first && (a.Unanswered > 0) != (b.Unanswered > 0) {
				return cmp.Compare(b.Unanswered, a.Unanswered)
			}
			return cmp.Or(b.LastActivity.Compare(a.LastActivity), cmp.Compare(a.Page, b.Page), cmp.Compare(a.Contact, b.Contact))
		})
		for _, limit := range []int{1, 7, 120, 500} {
			var got []conversations.Conversation
			for cursor, n := "", 0; n < 200; n++ {
				list, next, err := conversations.ListAll(f.st, first, cursor, limit)
				require.NoError(t, err)
				require.LessOrEqual(t, len(list), limit)
				got = append(got, list...)
				if cursor = next; next == "" {
					break
				}
				_, _, err = conversations.ListAll(f.st, !first, cursor, limit)
				require.ErrorIs(t, err, conversations.ErrCursor, "a cursor of the other order")
			}
			require.Equal(t, all, got, "unanswered first: %v, by %d", first, limit)
		}
	}
	for _, cursor := range []string{"!", "AA", "AQ", "AQAAAA", "Aw", projections.EncodeCursor(make([]byte, 12))} {
		_, _, err := conversations.ListAll(f.st, cursor == "AQAAAA", cursor, 7)
		if cursor != "AA" { // the beginning
			require.ErrorIs(t, err, conversations.ErrCursor, cursor)
		}
	}
	empty, next, err := conversations.ListAll(newFixture(t).st, true, "", 7)
	require.NoError(t, err)
	assert.NotNil(t, empty)
	assert.Empty(t, empty)
	assert.Empty(t, next)
}

func TestMessagesPaging(t *testing.T) {
	f := newFixture(t)
	_, _, err := conversations.Messages(f.st, page, contact, "", 0, true)
	require.NoError(t, err, "an empty store has no buckets")
	const n = 23
	for i := range int64(n) {
		f.apply(in(fmt.Sprint("m", i), fmt.Sprint(i), 1000+i/2))
	}
	f.apply(withContact(in("x", "x", 1), page, "70"), withContact(in("y", "x", 1), page, "70011"))
	for _, newest := range []bool{false, true} {
		var got []string
		for cursor := ""; ; {
			list, next, err := conversations.Messages(f.st, page, contact, cursor, 5, newest)
			require.NoError(t, err)
			for _, m := range list {
				got = append(got, m.MID)
			}
			if cursor = next; next == "" {
				break
			}
		}
		var want []string
		for i := range n {
			if newest {
				i = n - 1 - i
			}
			want = append(want, fmt.Sprint("m", i))
		}
		assert.Equal(t, want, got)
	}
	_, _, err = conversations.Messages(f.st, page, contact, "YWJj", 5, false)
	require.ErrorIs(t, err, conversations.ErrCursor)
}

// TestRecentEventsAreMovedToTheBuckets checks that the events in a conversation's row and
// those that were moved to the buckets are one list, and that every message is found by
// its mid.
func TestRecentEventsAreMovedToTheBuckets(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		f, remove := openFixture(t, filepath.Join(dir, "c.db"))
		defer remove()
		st := f.st
		want, mids := []uint64{}, []string{}
		for i := range rapid.IntRange(0, 110).Draw(t, "events") {
			mid, at := fmt.Sprint("m", i), int64(1000+100*i)
			switch rapid.IntRange(0, 5).Draw(t, "kind") {
			case 0:
				f.apply(withContact(in(mid, "somebody else's", at), page, "7002"))
				continue
			case 1:
				f.apply(read(at, at))
			case 2:
				f.apply(in(mid, "late", 1)) // is counted in Late
				mids = append(mids, mid)
			case 3:
				f.apply(out(mid, "out", at))
				mids = append(mids, mid)
			default:
				f.apply(in(mid, "in", at))
				mids = append(mids, mid)
			}
			want = append(want, f.seq)
		}
		limit := rapid.IntRange(1, 40).Draw(t, "limit")
		got := []uint64{}
		for after := uint64(0); ; after = got[len(got)-1] {
			list, err := conversations.EventsOf(st, page, contact, after, limit)
			require.NoError(t, err)
			require.LessOrEqual(t, len(list), limit)
			if len(list) == 0 {
				break
			}
			got = append(got, list...)
		}
		require.Equal(t, want, got)
		for _, mid := range mids {
			require.Equal(t, mid, f.message(mid).MID)
		}
		f.apply(event(domain.ContactErased, 1_000_000, domain.Data{}))
		list, err := conversations.EventsOf(st, page, contact, 0, 500)
		require.NoError(t, err)
		require.Equal(t, want, append([]uint64{}, list...),
			"an erasure that lists no events keeps all of them for the next one")
		for _, mid := range mids {
			_, err := conversations.FindByMID(st, page, contact, mid)
			require.ErrorIs(t, err, conversations.ErrNotFound)
		}
	})
}

// TestErasedEventsLeaveNoTrace checks that the state after an erasure is the same whether the erased events were
// applied before or were already missing from the stream, also if later events had been packed with them.
func TestErasedEventsLeaveNoTrace(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		events := []domain.Event{}
		for i := range rapid.IntRange(0, 110).Draw(t, "events") {
			mid, at := fmt.Sprint("m", i), int64(1000+100*i)
			switch rapid.IntRange(0, 3).Draw(t, "kind") {
			case 0:
				events = append(events, read(at, at))
			case 1:
				events = append(events, in(mid, "late", 1))
			default:
				events = append(events, in(mid, "in", at))
			}
		}
		cut := rapid.IntRange(0, len(events)).Draw(t, "erased")
		erasure := &domain.Erasure{Contact: domain.ContactHash(contact)}
		for seq := range cut {
			erasure.Events = append(erasure.Events, domain.Tombstone{Seq: uint64(seq) + 1})
		}
		left := func(missing int) map[string]string {
			f, remove := openFixture(t, filepath.Join(dir, "c.db"))
			defer remove()
			f.seq = uint64(missing)
			f.apply(events[missing:]...)
			f.apply(event(domain.ContactErased, 1_000_000, domain.Data{Erasure: erasure}))
			return f.rows()
		}
		require.Equal(t, left(cut), left(0))
	})
}
