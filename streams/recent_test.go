package streams

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestRecentKnowsWhatItHasForgotten checks that every id with a sequence above forgotten is still there.
func TestRecentKnowsWhatItHasForgotten(t *testing.T) {
	var r recent
	const n = 5*recentGeneration/2 + 1
	indexed := func() uint64 { return math.MaxUint64 }
	time0 := time.Unix(1790000000, 0)
	at := func(seq uint64) time.Time { return time0.Add(time.Duration(seq^1) * time.Second) } // not quite in order
	for seq := uint64(1); seq <= n; seq++ {
		r.put(strconv.FormatUint(seq, 10), at(seq), seq, indexed)
		if seq%100 == 0 {
			r.put("0", time0, 1, indexed) // a duplicate of an old event
		}
	}
	require.Positive(t, r.forgotten)
	require.WithinDuration(t, at(r.forgotten), r.forgottenTime, time.Second)
	require.False(t, at(r.forgotten).After(r.forgottenTime))
	require.Less(t, r.forgotten, uint64(n-recentGeneration))
	for seq := r.forgotten + 1; seq <= n; seq++ {
		_, known := r.get(strconv.FormatUint(seq, 10))
		require.True(t, known, seq)
	}
}

// TestRecentWaitsForTheIndex keeps what the index does not have, up to a bound.
func TestRecentWaitsForTheIndex(t *testing.T) {
	var r recent
	upto := uint64(100)
	indexed := func() uint64 { return upto }
	seq := uint64(0)
	put := func() {
		seq++
		r.put(strconv.FormatUint(seq, 10), time.Time{}, seq, indexed)
	}
	for r.forgotten == 0 {
		put()
	}
	require.Equal(t, uint64(maxGenerations*recentGeneration+1), seq)
	require.Equal(t, uint64(recentGeneration), r.forgotten)
	upto = seq
	for range recentGeneration {
		put()
	}
	require.Len(t, r.generations, 2)
	_, known := r.get(strconv.FormatUint(upto, 10))
	require.True(t, known)
}

// TestFailedSaysWhetherTheStreamTakesEvents checks which errors of a publish are about its events alone.
func TestFailedSaysWhetherTheStreamTakesEvents(t *testing.T) {
	api := func(code jetstream.ErrorCode) error {
		return fmt.Errorf("commit batch: %w", &jetstream.APIError{ErrorCode: code})
	}
	for _, c := range []struct {
		err          error
		failed, full bool
	}{
		{nil, false, false},
		{api(codeDuplicateInBatch), false, false},
		{api(codeDuplicateConflict), false, false},
		{api(jetstream.JSErrCodeStreamMessageExceedsMaximum), false, false},
		{api(10077), true, true},
		{api(10023), true, true},
		{api(10076), true, false},
		{nats.ErrTimeout, true, false},
		{errors.New("x"), true, false},
	} {
		o := BatchObservation{Err: c.err}
		assert.Equal(t, c.failed, o.Failed() != nil, "%v", c.err)
		assert.Equal(t, c.full, o.Full(), "%v", c.err)
	}
}

func TestLargestBodyIsTheInverseOfLargestEvent(t *testing.T) {
	for _, body := range []int64{0, 1, 64 << 10, 15 << 20} {
		assert.Equal(t, body, LargestBody(LargestEvent(body)))
	}
	assert.Zero(t, LargestBody(0))
}
