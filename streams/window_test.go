package streams_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// TestWindowCoversOnlyWhatItCannotHaveForgotten checks which events need no index: those that happened well inside
// the dedup window, and after the start, whatever the clock does.
func TestWindowCoversOnlyWhatItCannotHaveForgotten(t *testing.T) {
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	const window, retry = 10 * time.Minute, 15 * time.Second // the margin is 75 s
	at := start.Add
	const minute, hour = time.Minute, time.Hour
	clock := func(at ...time.Duration) []time.Duration { return at }
	for name, c := range map[string]struct {
		clock []time.Duration // of the rounds; the last one is now
		ahead time.Duration   // the time of another event in the round before the last
		event time.Duration
		want  bool
	}{
		"just happened":                 {clock(5 * minute), 0, 5*minute - time.Second, true},
		"inside":                        {clock(5 * minute), 0, 2 * minute, true},
		"before the start":              {clock(5 * minute), 0, -time.Second, false},
		"about at the start":            {clock(5 * minute), 0, minute, false},
		"at the end of the window":      {clock(hour), 0, 50*minute + 30*time.Second, false},
		"before the window":             {clock(hour), 0, 10 * minute, false},
		"a little ahead":                {clock(hour), 0, hour + minute, true},
		"in the future":                 {clock(hour), 0, 2 * hour, false},
		"no time":                       {clock(hour), 0, -1 << 62, false},
		"clock an hour back":            {clock(2*hour, hour), 0, hour - time.Second, false},
		"clock an hour back, real time": {clock(2*hour, hour), 0, 2 * hour, false},
		"clock back, and right again":   {clock(2*hour, hour, 2*hour+3*minute), 0, 2*hour + 2*minute, true},
		"clock back, before it was":     {clock(2*hour, hour, 2*hour+3*minute), 0, 2*hour - 2*minute, false},
		"clock a day forward":           {clock(hour, 25*hour), 0, hour, false},
		"clock a day forward, and back": {clock(25*hour, hour), 0, hour - time.Second, false},
		"slow clock":                    {clock(hour, hour+time.Second), hour + 5*minute, hour - minute, false},
		"another event a little ahead":  {clock(hour, hour+time.Second), hour + minute, hour - minute, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := streams.NewWindow(window, retry, start)
			now := start
			for i, d := range c.clock {
				now = at(d)
				var ahead []time.Time
				if i == len(c.clock)-2 && c.ahead > 0 {
					ahead = append(ahead, at(c.ahead))
				}
				w.Look(now, ahead...)
			}
			event := at(c.event)
			if c.event < -1<<60 {
				event = time.Time{}
			}
			require.Equal(t, c.want, w.Has(now, event))
		})
	}
	off := streams.NewWindow(0, retry, start)
	off.Look(at(time.Hour))
	require.False(t, off.Has(at(time.Hour), at(time.Hour)), "no window is known")
}

// building is an index that is being built again: it has some ids.
type building struct{ seen }

func (b building) Seen(ids []string) ([]uint64, uint64, error) {
	seqs, _, _ := b.seen.Seen(ids)
	return seqs, 0, fmt.Errorf("at event 1 of 2: %w", streams.ErrIncomplete)
}

// TestIncompleteIndexRefusesOnlyWhatMayBeOld checks the publisher: an event that the index has is a duplicate, one
// that just happened is stored, once, and one that may have been stored before is refused.
func TestIncompleteIndexRefusesOnlyWhatMayBeOld(t *testing.T) {
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{Window: time.Minute})
	list := messages("100", 4)
	for i := range list {
		list[i].Time = time.Now().Add(-time.Hour)
	}
	publish(t, s, list[:1])
	const retry = time.Second
	o := streams.PublisherOptions{Seen: building{seen{list[0].ID: 1}}, Window: time.Minute, RetryFor: retry}
	p := publisher(t, s, o)
	r, err := p.Publish(t.Context(), list[:1])
	require.NoError(t, err)
	require.Equal(t, streams.ByIndex, r[0].Duplicate)
	refused := func(e domain.Event) {
		t.Helper()
		_, err := p.Publish(t.Context(), []domain.Event{e})
		require.ErrorIs(t, err, streams.ErrUnavailable)
		require.ErrorIs(t, err, streams.ErrIncomplete)
	}
	refused(list[1])
	list[1].Time = time.Time{}
	refused(list[1])
	streamstest.Eventually(t, streamstest.Limit, func() error { // after the start
		list[2].Time = time.Now().Add(time.Minute/10 + retry - 20*time.Millisecond)
		r, err = p.Publish(t.Context(), list[2:3])
		if err != nil && !errors.Is(err, streams.ErrIncomplete) {
			require.NoError(t, err)
		}
		return err
	})
	require.Equal(t, streams.NotDuplicate, r[0].Duplicate)
	again := publisher(t, s, o) // which does not remember it
	streamstest.Eventually(t, streamstest.Limit, func() error {
		list[2].Time = time.Now().Add(time.Minute/10 + retry - 20*time.Millisecond)
		r, err = again.Publish(t.Context(), list[2:3])
		return err
	})
	require.Equal(t, streams.ByWindow, r[0].Duplicate)
	require.Len(t, stored(t, s), 2)

	p = publisher(t, s, streams.PublisherOptions{Seen: building{}}) // no window is known
	list[3].Time = time.Now()
	refused(list[3])
}
