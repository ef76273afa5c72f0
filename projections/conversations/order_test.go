package conversations_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/store"
)

// TestArrivalOrderDoesNotMatter applies one set of events of a conversation in two
// orders, in transactions of any size. The rows must be equal except for the fields
// that depend on the order of arrival, and the receipts must be those of a model.
func TestArrivalOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var events []domain.Event
		type sent struct {
			mid string
			at  int64
		}
		var outs []sent
		type coverage struct{ upto, at int64 }
		var reads, deliveries []coverage
		named := map[string][]int64{} // deliveries by mid

		n := rapid.IntRange(1, 6).Draw(rt, "messages")
		times := rapid.SliceOfNDistinct(rapid.Int64Range(1000, 1040), n, n, rapid.ID).Draw(rt, "times")
		timeOf := map[string]int64{}
		for i, at := range times {
			mid := fmt.Sprint("m", i)
			timeOf[mid] = at
			if rapid.Bool().Draw(rt, "out") {
				outs = append(outs, sent{mid, at})
				events = append(events, out(mid, "text "+mid, at))
			} else {
				events = append(events, in(mid, "text "+mid, at))
			}
		}
		anyMID := rapid.Custom(func(rt *rapid.T) string {
			return fmt.Sprint("m", rapid.IntRange(0, n-1).Draw(rt, "mid"))
		})
		clock := int64(2000) // times are distinct, so that the order of arrival decides nothing
		for range rapid.IntRange(0, 14).Draw(rt, "changes") {
			clock++
			at := clock
			mid := anyMID.Draw(rt, "mid")
			switch rapid.IntRange(0, 8).Draw(rt, "kind") {
			case 0, 1:
				events = append(events, edit(mid, fmt.Sprint("edit ", at), rapid.Int64Range(1, 5).Draw(rt, "num"), at))
			case 2:
				events = append(events, unsend(mid, at))
			case 3:
				events = append(events, react(mid, rapid.SampledFrom([]string{"7001", "104"}).Draw(rt, "by"), fmt.Sprint(at), at))
			case 4:
				events = append(events, unreact(mid, rapid.SampledFrom([]string{"7001", "104"}).Draw(rt, "by"), at))
			case 5:
				watermark := rapid.Int64Range(990, 1050).Draw(rt, "watermark")
				events = append(events, read(at, watermark))
				reads = append(reads, coverage{watermark, watermark})
			case 6:
				watermark := rapid.Int64Range(990, 1050).Draw(rt, "watermark")
				events = append(events, delivered(at, watermark, mid))
				deliveries = append(deliveries, coverage{watermark, watermark})
				named[mid] = append(named[mid], watermark)
			case 7:
				events = append(events, delivered(at, 0, mid))
				named[mid] = append(named[mid], at)
			case 8:
				at = rapid.Int64Range(1000, 3000).Draw(rt, "seen")
				events = append(events, readMID(at, mid))
				reads = append(reads, coverage{timeOf[mid], at})
			}
		}
		if rapid.Bool().Draw(rt, "thread") {
			events = append(events, event(domain.ThreadPassed, 1500, domain.Data{Thread: &domain.Thread{NewOwner: "1"}}),
				event(domain.ThreadRequested, 1600, domain.Data{Thread: &domain.Thread{Requester: "2"}}),
				event(domain.ThreadTaken, 1700, domain.Data{Thread: &domain.Thread{NewOwner: "2"}}))
		}

		first := applyInPortions(t, rt, events)
		second := applyInPortions(t, rt, rapid.Permutation(events).Draw(rt, "order"))
		require.Empty(rt, cmp.Diff(first.messagesWithoutArrival(), second.messagesWithoutArrival()))
		require.Empty(rt, cmp.Diff(first.conversationWithoutArrival(), second.conversationWithoutArrival()))

		earliest := func(at int64, covers []coverage, more ...int64) (t time.Time) {
			for _, c := range covers {
				if c.upto >= at && (t.IsZero() || ms(c.at).Before(t)) {
					t = ms(c.at)
				}
			}
			for _, m := range more {
				if t.IsZero() || ms(m).Before(t) {
					t = ms(m)
				}
			}
			return t
		}
		for _, s := range outs {
			m := second.message(s.mid)
			require.Equal(rt, earliest(s.at, reads), m.ReadAt, "read of %s", s.mid)
			receipts := slices.Concat(deliveries, reads)
			require.Equal(rt, earliest(s.at, receipts, named[s.mid]...), m.DeliveredAt, "delivery of %s", s.mid)
		}
	})
}

// TestAnySplitGivesTheSameBytes applies the same events in transactions of different
// sizes.
func TestAnySplitGivesTheSameBytes(t *testing.T) {
	events := traffic(2000, 12)
	digest := func(portion int) string {
		f := newFixture(t)
		for batch := range slices.Chunk(events, portion) {
			f.apply(batch...)
		}
		var d string
		require.NoError(t, f.st.View(func(tx *store.Tx) (err error) {
			d, err = store.Digest(tx)
			return err
		}))
		return d
	}
	want := digest(len(events))
	for _, portion := range []int{1, 7, 333} {
		require.Equal(t, want, digest(portion), "%d per transaction", portion)
	}
}

// traffic returns n events of several contacts in turn: messages in both directions,
// receipts of each message from the page, and some edits, reactions, unsends and
// messages out of order.
func traffic(n, contacts int) []domain.Event {
	events := make([]domain.Event, 0, n)
	for i := range n {
		round, at := i/contacts, int64(1_000_000+i*10)
		mid := fmt.Sprintf("m_%d_%d", i%contacts, round)
		before := fmt.Sprintf("m_%d_%d", i%contacts, round-round%8)
		var e domain.Event
		switch round % 8 {
		case 0, 4:
			e = in(mid, "what does it cost to ship this to the islands?", at)
		case 1:
			e = out(mid, "we have to look that up, one moment please", at)
		case 2:
			e = delivered(at, at-5, fmt.Sprintf("m_%d_%d", i%contacts, round-1))
		case 3:
			e = read(at, at-5)
		case 5:
			e = edit(before, "what does it cost?", 1, at)
		case 6:
			e = react(before, "104", "👍", at)
		case 7:
			e = in(mid, "late", at-5000)
			if round%16 == 15 {
				e = unsend(before, at)
			}
		}
		events = append(events, withContact(e, page, domain.ContactID(fmt.Sprint("contact-", i%contacts))))
	}
	return events
}

// applyInPortions applies the events in transactions of random sizes.
func applyInPortions(t *testing.T, rt *rapid.T, events []domain.Event) *fixture {
	t.Helper()
	f := newFixture(t)
	f.t = rt
	for len(events) > 0 {
		n := rapid.IntRange(1, len(events)).Draw(rt, "portion")
		f.apply(events[:n]...)
		events = events[n:]
	}
	return f
}

// messagesWithoutArrival returns the messages without the fields that depend on the
// order of arrival.
func (f *fixture) messagesWithoutArrival() []conversations.Message {
	list := f.messages()
	for i := range list {
		m := &list[i]
		m.Seq, m.At, m.LateMillis, m.Events = 0, time.Time{}, 0, nil
		for by, r := range m.Reactions {
			r.Seq = 0
			m.Reactions[by] = r
		}
	}
	return list
}

// conversationWithoutArrival returns the conversation without the fields that depend on
// the order of arrival.
func (f *fixture) conversationWithoutArrival() conversations.Conversation {
	c := f.conversation()
	c.LastSeq, c.LastAt, c.Late = 0, time.Time{}, 0
	return c
}
