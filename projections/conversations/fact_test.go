package conversations_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
)

// untimed returns a postback whose item has neither a mid nor a time, of a delivery at
// the time at.
func untimed(title string, at int64) domain.Event {
	return event(domain.PostbackReceived, at, domain.Data{
		Fact: "hash of " + title, EntryTime: at, Postback: &domain.Postback{Title: title},
	})
}

func TestAnEditWithoutTextChangesNothing(t *testing.T) {
	without := func(num, at int64) domain.Event {
		return event(domain.MessageEdited, at, domain.Data{Edit: &domain.Edit{MID: "m_1", Num: num}})
	}
	for name, events := range map[string][]domain.Event{
		"after the message":  {in("m_1", "see you at six", 1000), without(0, 2000)},
		"before the message": {without(0, 500), in("m_1", "see you at six", 1000)},
		"with a number":      {in("m_1", "see you at six", 1000), without(3, 2000)},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.apply(events...)
			m := f.message("m_1")
			require.Equal(t, "see you at six", m.Text)
			require.Empty(t, m.Edits)
			c := f.conversation()
			require.Equal(t, "see you at six", c.Last.Text)
			require.Equal(t, time.UnixMilli(1000).UTC(), c.LastActivity, "nobody did anything")
		})
	}
	f := newFixture(t)
	f.apply(in("m_1", "see you at six", 1000), edit("m_1", "", 1, 2000))
	require.Empty(t, f.message("m_1").Text, "an edit to an empty text is an edit")
}

func TestAnEqualFactIsFoldedForAsLongAsMetaRepeatsDeliveries(t *testing.T) {
	window := domain.RedeliveryWindow.Milliseconds()
	for name, c := range map[string]struct {
		events []domain.Event
		want   int
	}{
		"again":                    {[]domain.Event{untimed("A", 1000), untimed("A", 9000)}, 1},
		"in another order":         {[]domain.Event{untimed("A", 9000), untimed("A", 1000)}, 1},
		"at the end of the window": {[]domain.Event{untimed("A", 1000), untimed("A", 1000+window)}, 1},
		"after the window":         {[]domain.Event{untimed("A", 1000), untimed("A", 1001+window)}, 2},
		"a delivery of two, again": {
			[]domain.Event{untimed("A", 1000), untimed("B", 1000), untimed("A", 9000), untimed("B", 9000)}, 2,
		},
		"three, each after the window": {
			[]domain.Event{untimed("A", 1000), untimed("A", 1001+window), untimed("A", 1002+2*window)}, 3,
		},
		"over the bound of a window": {[]domain.Event{untimed("A", window-1), untimed("A", window+1)}, 1},
		"of an item with a time":     {[]domain.Event{in("m_1", "x", 1000), in("m_2", "x", 1000)}, 2},
		"with a message in between":  {[]domain.Event{untimed("A", 1000), in("m_1", "x", 2000), untimed("A", 3000)}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			for i := range c.events {
				c.events[i].ID = name + string(rune('a'+i)) // each is an event of its own
			}
			f.apply(c.events...)
			require.Len(t, f.messages(), c.want)
		})
	}
}
