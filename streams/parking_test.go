package streams_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// TestParkedEventBlocksItsConversation checks that an event that a reactor gives up on is parked, that the later
// events of its conversation wait and others don't, and that Redrive and Discard keep the order, also after a
// restart.
func TestParkedEventBlocksItsConversation(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t)
	s.Stream(t, streams.Spec{})
	var failing atomic.Bool
	failing.Store(true)
	r := &reactions{}
	o := reactorOptions(s)
	o.MaxDeliver = 3
	o.Parking = streams.NewParking(s.JS, streams.Name)
	o.Handle = streams.OnEvent(func(_ context.Context, e streams.Stored) error {
		if failing.Load() && (e.ID == "a1" || e.ID == "a3") {
			return errors.New("handler failed")
		}
		r.add(e.ID)
		return nil
	})
	publish := func(ids ...string) {
		t.Helper()
		for _, id := range ids {
			m, err := streams.Encode(domain.Event{
				ID: id, Type: domain.MessageReceived, Page: "100", Contact: domain.ContactID(id[:1]),
			})
			require.NoError(t, err)
			_, err = s.JS.PublishMsg(t.Context(), m)
			require.NoError(t, err)
		}
	}
	parked := func(want ...uint64) []streams.Parked {
		t.Helper()
		var list []streams.Parked
		streamstest.Eventually(t, streamstest.Limit, func() (err error) {
			list, err = o.Parking.List(t.Context(), "test")
			var seqs []uint64
			for _, p := range list {
				seqs = append(seqs, p.Seq)
			}
			if fmt.Sprint(seqs) != fmt.Sprint(want) {
				return fmt.Errorf("parked %v, want %v, %w", seqs, want, err)
			}
			return nil
		})
		return list
	}
	stop := react(t, o)
	publish("a1")
	first := parked(1)[0]
	assert.Equal(t, 3, first.Attempts)
	assert.Equal(t, "handler failed", first.Error)
	publish("b1", "a2", "b2", "a3", "a4")
	list := parked(1, 3, 5, 6)
	assert.EqualValues(t, 1, list[1].Behind)
	r.eventually(t, map[string]int{"b1": 1, "b2": 1})
	stop()

	// After a restart the parked events are known.
	o.Parking = streams.NewParking(s.JS, streams.Name)
	react(t, o)
	publish("a5", "b3")
	parked(1, 3, 5, 6, 7)
	r.eventually(t, map[string]int{"b1": 1, "b2": 1, "b3": 1})
	n, err := o.Parking.Redrive(t.Context(), "test", 1)
	require.NoError(t, err)
	assert.Zero(t, n, "it fails again")
	assert.Equal(t, 4, parked(1, 3, 5, 6, 7)[0].Attempts)
	n, err = o.Parking.Discard(t.Context(), "test", 1)
	require.NoError(t, err)
	assert.Equal(t, 1, n, "the events up to the next one that fails")
	assert.Zero(t, parked(5, 6, 7)[0].Behind)
	failing.Store(false)
	n, err = o.Parking.Redrive(t.Context(), "test", 5)
	require.NoError(t, err)
	assert.Equal(t, 3, n)
	parked()
	publish("a6")
	r.eventually(t, map[string]int{"b1": 1, "b2": 1, "b3": 1, "a2": 1, "a3": 1, "a4": 1, "a5": 1, "a6": 1})
	_, err = o.Parking.Redrive(t.Context(), "test", 5)
	require.ErrorIs(t, err, streams.ErrNotParked)
	_, err = o.Parking.Redrive(t.Context(), "other", 5)
	require.ErrorIs(t, err, streams.ErrNotParked)
}

// TestUnorderedReactorParksAtOnce checks that an error with ErrNoRetry parks an event after one attempt, that an
// unordered reactor handles the later events of the conversation, and that each parked event is redriven and discarded
// alone.
func TestUnorderedReactorParksAtOnce(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	var failing atomic.Bool
	failing.Store(true)
	r := &reactions{}
	o := reactorOptions(s)
	o.Unordered, o.Parking = true, streams.NewParking(s.JS, streams.Name)
	o.Handle = streams.OnEvent(func(_ context.Context, e streams.Stored) error {
		if failing.Load() && e.Seq != 2 {
			return fmt.Errorf("no permission: %w", streams.ErrNoRetry)
		}
		r.add(e.ID)
		return nil
	})
	react(t, o)
	events := messages("7", 4)
	publish(t, s, events)
	acknowledged(t, s, 4)
	list, err := o.Parking.List(t.Context(), "test")
	require.NoError(t, err)
	require.Len(t, list, 3)
	for _, p := range list {
		assert.Equal(t, 1, p.Attempts)
		assert.Zero(t, p.Behind)
		assert.Contains(t, p.Error, "no permission")
	}
	r.eventually(t, map[string]int{events[1].ID: 1})
	n, err := o.Parking.Redrive(t.Context(), "test", 1)
	require.NoError(t, err)
	assert.Zero(t, n, "it fails again")
	n, err = o.Parking.Discard(t.Context(), "test", 3)
	require.NoError(t, err)
	assert.Zero(t, n)
	failing.Store(false)
	n, err = o.Parking.Redrive(t.Context(), "test", 4)
	require.NoError(t, err)
	assert.Equal(t, 1, n, "only this one")
	list, err = o.Parking.List(t.Context(), "test")
	require.NoError(t, err)
	require.Len(t, list, 1)
	assert.EqualValues(t, 1, list[0].Seq)
	assert.Equal(t, 2, list[0].Attempts)
	r.eventually(t, map[string]int{events[1].ID: 1, events[3].ID: 1})
}
