package projections

import "context"

// Reader reads a read model as of an event; a [Runner] is one.
type Reader interface {
	Viewer
	// WaitFor returns once the model holds every event up to seq, or with the
	// context's error.
	WaitFor(ctx context.Context, seq uint64) error
}

// Model is a read model with where it stands; a [Runner] is one.
type Model interface {
	Reader
	Status() Status
}

var _ Model = (*Runner)(nil)
