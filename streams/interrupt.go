package streams

import (
	"context"
	"sync"
)

// Interruptible is work on a stream that is begun again when the stream may be another one. The zero value is ready. It is
// safe for concurrent use, but only one call of Do may run at a time.
type Interruptible struct {
	mu     sync.Mutex
	cancel context.CancelFunc
	ended  chan struct{}
}

// Do calls fn with a context that [Interruptible.Interrupt] ends too. It returns nil if the context ended, and otherwise
// the error of fn.
func (i *Interruptible) Do(ctx context.Context, fn func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan struct{})
	defer close(ended)
	i.mu.Lock()
	i.cancel, i.ended = cancel, ended
	i.mu.Unlock()
	err := fn(ctx)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// Interrupt ends the context of the call of Do that runs. The channel is closed when that call has ended; it is nil if
// there was none yet.
func (i *Interruptible) Interrupt() (ended <-chan struct{}) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.cancel != nil {
		i.cancel()
	}
	return i.ended
}
