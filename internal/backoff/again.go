package backoff

import (
	"context"
	"time"
)

// Again calls do, and while it has not returned once more after each interval, at the same time. It returns the first
// result and ends the context of the other calls. It is for a request that may be repeated, and whose answer is lost if
// the server that it was sent to is replaced meanwhile: waiting for it does not help, and a slow answer still counts.
func Again[T any](ctx context.Context, every time.Duration, do func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		value T
		err   error
	}
	first := make(chan result, 1)
	call := func() {
		v, err := do(ctx)
		select {
		case first <- result{v, err}:
		default: // another call was faster
		}
	}
	repeat := time.NewTicker(every)
	defer repeat.Stop()
	for {
		go call()
		select {
		case r := <-first:
			return r.value, r.err
		case <-repeat.C:
		case <-ctx.Done():
			var none T
			select {
			case r := <-first: // the call says what the end of the context kept it from
				return r.value, r.err
			case <-time.After(every):
				return none, ctx.Err()
			}
		}
	}
}
