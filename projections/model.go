package projections

import "context"

// Reader reads a read model and can wait for an event to be applied. [Runner]
// implements it.
type Reader interface {
	Viewer
	// WaitFor returns once every event up to seq is applied. If the context ends
	// first, it returns an error that wraps the context's error.
	WaitFor(ctx context.Context, seq uint64) error
}

// Model is a read model with its status. [Runner] implements it.
type Model interface {
	Reader
	// Status returns the position and the health of the read model.
	Status() Status
}

var _ Model = (*Runner)(nil)
