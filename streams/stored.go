package streams

import (
	"errors"
	"time"

	"github.com/pagestream/pagestream/domain"
)

// Stored is an event as the stream holds it.
type Stored struct {
	domain.Event
	// Seq is the event's sequence in the stream, from 1. It orders events.
	Seq uint64
	// At is when the stream stored the event, by the server's clock.
	At time.Time
}

// Errors when events are written.
var (
	// ErrUnavailable is returned when the stream can't store now: no connection, no
	// JetStream, a full disk. Nothing that was not acknowledged is promised to
	// be absent: a retry with the same events is safe.
	ErrUnavailable = errors.New("stream is unavailable")
	// ErrOverloaded is returned when too many events wait already.
	ErrOverloaded = errors.New("too many events wait to be stored")
	// ErrTooLarge is returned when an event is larger than the server takes.
	ErrTooLarge = errors.New("event is larger than the stream takes")
	// ErrInvalid is returned when an event can't be stored as it is: no id, no type.
	ErrInvalid = errors.New("event is not valid")
	// ErrConflict is returned when the page's last event is not the one that the
	// decision was made on.
	ErrConflict = errors.New("another decision on the page came first")
	// ErrClosed is returned when the publisher or subscriber was closed.
	ErrClosed = errors.New("closed")
)

// ErrMismatch is returned by [Ensure] when the stream is not what it should be and
// can't be made so without a loss.
var ErrMismatch = errors.New("stream is not as it should be; rename or restore it")

// Errors when events are read.
var (
	// ErrMalformed is returned when a message in the stream is no event of ours.
	ErrMalformed = errors.New("message is not an event")
	// ErrNotFound is returned when the stream has no event with that sequence.
	ErrNotFound = errors.New("no such event")
)
