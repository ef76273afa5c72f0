package hooks

import (
	"math/rand/v2"
	"time"
)

// backoff is the pause after the nth failed try: least at first, doubling up to
// most, and a random half of it taken off, so that pages that failed together
// don't come back together.
func backoff(n int, least, most time.Duration) time.Duration {
	wait := least
	for i := 1; i < n && wait < most; i++ {
		wait *= 2
	}
	wait = min(wait, most)
	half := wait / 2
	return half + rand.N(wait-half+1)
}
