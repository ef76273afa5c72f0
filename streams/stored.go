package streams

import (
	"errors"
	"time"

	"github.com/pagestream/pagestream/domain"
)

// Stored is an event in the stream, with its sequence and time.
type Stored struct {
	domain.Event
	// Seq is the event's sequence in the stream, from 1. Sequences define the order of events.
	Seq uint64
	// At is when the stream stored the event, by the server's clock. For an imported event it is when the
	// event was first stored.
	At time.Time
	// Unique reports that the committer of a [Journal] knew all ids of the stream when it stored the event: no earlier
	// event has its id. Of other events this is not known.
	Unique bool
}

// Errors of writing events.
var (
	// ErrUnavailable is returned when the stream can't store events now: there is no connection, no
	// JetStream, or the disk is full. Some of the events may have been stored all the same; a retry
	// with the same events is safe.
	ErrUnavailable = errors.New("stream is unavailable")
	// ErrOverloaded is returned when too many events are already waiting.
	ErrOverloaded = errors.New("too many events are waiting to be stored")
	// ErrTooLarge is returned when an event is larger than the server accepts.
	ErrTooLarge = errors.New("event is larger than the stream accepts")
	// ErrInvalid is returned when an event can't be stored as it is, for example without an id or type.
	ErrInvalid = errors.New("event is not valid")
	// ErrConflict is returned when the page's last event is not the one that the decision was based on.
	ErrConflict = errors.New("another decision on the page came first")
	// ErrClosed is returned when the publisher, the subscriber or the connection was closed.
	ErrClosed = errors.New("closed")
)

// ErrMismatch is returned by [Ensure] when the stream's configuration is not the wanted one and can't
// be changed to it without losing events.
var ErrMismatch = errors.New("stream does not match its specification; rename or restore it")

// Errors of reading events.
var (
	// ErrMalformed is returned when a message is not an event that [Encode] made.
	ErrMalformed = errors.New("message is not an event")
	// ErrNotFound is returned when the stream has no event with that sequence.
	ErrNotFound = errors.New("no such event")
)
