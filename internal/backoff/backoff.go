// Package backoff waits for a time or until a context ends, with a growing pause between attempts.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Sleep waits for d and returns nil, or returns the context's error as soon as the context ends.
func Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
	return ctx.Err()
}

// After returns the pause after the nth failed attempt in a row: first after the first failure,
// doubled with each further one, and never more than limit.
func After(n int, first, limit time.Duration) time.Duration {
	return min(first<<min(max(n-1, 0), 20), limit)
}

// Jitter returns d less a random part of at most half of it, so that callers that failed at the
// same time don't retry at the same time.
func Jitter(d time.Duration) time.Duration {
	half := d / 2
	return half + rand.N(d-half+1)
}

// Backoff counts the attempts of a loop and waits between them. It is not safe for concurrent use.
type Backoff struct {
	// Min is the first pause. The pause doubles with each further attempt, up to Max.
	Min, Max time.Duration

	attempts int
}

// Wait waits for the next pause and returns nil, or returns the context's error as soon as the
// context ends.
func (b *Backoff) Wait(ctx context.Context) error {
	b.attempts++
	return Sleep(ctx, After(b.attempts, b.Min, b.Max))
}

// Reset makes the next pause the first one again.
func (b *Backoff) Reset() { b.attempts = 0 }
