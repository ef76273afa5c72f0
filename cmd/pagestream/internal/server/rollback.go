package server

import "sync"

// rollback tells the parts that remember something of the stream that it was replaced by one with other
// events. The zero value has no parts. Its methods are safe for concurrent use.
type rollback struct {
	mu    sync.Mutex
	parts []func(common uint64)
}

// tell adds a part. Its function must not wait for a read model.
func (r *rollback) tell(forget func(common uint64)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.parts = append(r.parts, forget)
}

// to tells all parts, in the order in which they were added, the last sequence up to which both streams
// are the same.
func (r *rollback) to(common uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, forget := range r.parts {
		forget(common)
	}
}
