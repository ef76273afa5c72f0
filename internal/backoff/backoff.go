// Package backoff waits: for a while or until a context ends, and with a growing
// pause between tries.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Sleep waits for d, or until the context ends, whose error it returns then.
func Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
	return ctx.Err()
}

// After returns the pause after the nth failed try in a row: least after the first,
// doubled with each further one, and never more than most.
func After(n int, least, most time.Duration) time.Duration {
	return min(least<<min(max(n-1, 0), 20), most)
}

// Jitter takes a random part off d, at most half of it, so that those who failed
// together don't come back together.
func Jitter(d time.Duration) time.Duration {
	half := d / 2
	return half + rand.N(d-half+1)
}

// Backoff counts the tries of a loop and waits between them. It is not safe for
// concurrent use.
type Backoff struct {
	// Min is the first pause. It doubles with each further one, up to Max.
	Min, Max time.Duration

	tries int
}

// Wait waits for the next pause, or until the context ends, whose error it returns
// then.
func (b *Backoff) Wait(ctx context.Context) error {
	b.tries++
	return Sleep(ctx, After(b.tries, b.Min, b.Max))
}

// Reset makes the next pause the first one again.
func (b *Backoff) Reset() { b.tries = 0 }
