package backoff_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/internal/backoff"
)

// TestAgain checks that a request whose answer is lost is sent again, that the first result counts, and that the
// context ends the wait.
func TestAgain(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	n, err := backoff.Again(t.Context(), time.Millisecond, func(ctx context.Context) (int64, error) {
		n := calls.Add(1)
		if n < 3 { // lost
			<-ctx.Done()
			return 0, ctx.Err()
		}
		return n, nil
	})
	require.NoError(t, err)
	require.GreaterOrEqual(t, n, int64(3))

	refused := errors.New("refused")
	_, err = backoff.Again(t.Context(), time.Hour, func(context.Context) (int, error) { return 0, refused })
	require.ErrorIs(t, err, refused)

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = backoff.Again(ctx, time.Millisecond, func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() })
	require.ErrorIs(t, err, context.DeadlineExceeded)
}
