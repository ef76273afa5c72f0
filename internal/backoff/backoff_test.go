package backoff_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/internal/backoff"
)

func TestSleepEndsAfterItsDurationOrWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		require.NoError(t, backoff.Sleep(t.Context(), time.Minute))
		assert.Equal(t, time.Minute, time.Since(start))

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, backoff.Sleep(ctx, time.Hour), context.DeadlineExceeded)
		assert.Equal(t, time.Minute+time.Second, time.Since(start))

		for _, d := range []time.Duration{-time.Second, 0, time.Hour} {
			require.ErrorIs(t, backoff.Sleep(ctx, d), context.DeadlineExceeded, "the context has already ended")
			require.NoError(t, backoff.Sleep(t.Context(), min(d, 0)))
		}
		assert.Equal(t, time.Minute+time.Second, time.Since(start))
	})
}

func TestWaitDoublesThePauseUntilReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := backoff.Backoff{Min: time.Second, Max: 5 * time.Second}
		for _, want := range []time.Duration{1, 2, 4, 5, 5, 0, 1, 2} {
			if want == 0 {
				b.Reset()
				continue
			}
			start := time.Now()
			require.NoError(t, b.Wait(t.Context()))
			assert.Equal(t, want*time.Second, time.Since(start))
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, b.Wait(ended), context.Canceled)
	})
}

func TestAfterIsNeverAboveItsLimit(t *testing.T) {
	assert.Equal(t, time.Second, backoff.After(-1, time.Second, time.Hour))
	assert.Equal(t, time.Second, backoff.After(1, time.Second, time.Hour))
	assert.Equal(t, 8*time.Second, backoff.After(4, time.Second, time.Hour))
	assert.Equal(t, time.Hour, backoff.After(1<<40, time.Second, time.Hour))
	assert.Equal(t, time.Second, backoff.After(1, time.Minute, time.Second))
}

func TestJitterStaysBetweenHalfAndTheWholePause(t *testing.T) {
	for n := range 100 {
		limit := min(time.Second<<min(max(n-1, 0), 30), time.Minute)
		for range 20 {
			got := backoff.Jitter(backoff.After(n, time.Second, time.Minute))
			assert.LessOrEqual(t, got, limit)
			assert.GreaterOrEqual(t, got, limit/2)
		}
	}
	assert.Zero(t, backoff.Jitter(0))
}
