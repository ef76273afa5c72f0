package streams

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Message is a message of the stream, decoded but for its data, and as it is stored. Other readers may
// share it, so callers must not modify it or what it points to.
type Message struct {
	// Stored is the event without its Data. If the message is malformed, only Seq is set.
	Stored
	// Malformed is nil if the message is an event, else the reason why it is not.
	Malformed error
	// Header and Body are the message's headers and data as they are stored.
	Header nats.Header
	Body   []byte
}

// message returns an arrival as a Message. It decodes the envelope if the arrival is not decoded yet.
func (a *arrival) message() Message {
	m := Message{Header: a.header, Body: a.data}
	if a.event != nil {
		m.Stored, m.Malformed = a.event.Stored, a.event.Malformed
		m.Data = Stored{}.Data
		return m
	}
	m.Stored, m.Malformed = decodeEnvelope(a.subject, m.Header.Get, a.seq, a.at)
	if m.Malformed != nil {
		m.Stored = Stored{Seq: a.seq}
	}
	return m
}

// FollowMessages is like [Follow], but calls f with the messages that are ready, at least one and at most
// some hundreds, and does not decode their data. While it reads the end of the stream it takes the
// messages from the tail, if that is not nil.
func FollowMessages(
	ctx context.Context, js jetstream.JetStream, stream string, from uint64, tail *Tail, f func([]Message) error,
) error {
	src := newSource(js, stream, []string{All}, max(from, 1)-1)
	var in feed = src
	if tail != nil {
		in = &tailFeed{tail: tail, source: src}
	}
	defer in.close()
	for {
		list, err := in.chunk(ctx)
		if len(list) > 0 {
			messages := make([]Message, len(list))
			for i, a := range list {
				messages[i] = a.message()
			}
			if err := f(messages); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
}

// SeqAt returns the sequence of the first event that was stored at a time or later. If there is no such
// event, the sequence is after the last event. It reads the stream up to that event: stored times are not in
// order if the clock was set back, so a search by halves could end after the first event.
func SeqAt(ctx context.Context, js jetstream.JetStream, stream string, at time.Time) (seq uint64, err error) {
	found := errors.New("found")
	last, err := each(ctx, js, ReadOptions{Stream: stream}, func(a *arrival) error {
		stored, err := StoredAt(a.header, a.at)
		if err != nil {
			stored = a.at // the message is malformed
		}
		if stored.Before(at) {
			return nil
		}
		seq = a.seq
		return found
	})
	if errors.Is(err, found) {
		return seq, nil
	}
	return last + 1, err
}

// maxClockStep is how far the clock may have been set back without an effect on [Between].
const maxClockStep = time.Hour

// Between returns the first and the last sequence between which all events are that were stored at since or
// later, and before until; there are other events between them too. A zero time is no bound. last is 0 if
// until is zero; there are no such events if last is less than first and until is not zero. It searches by halves, so
// an event may be missed if the clock was set back by more than an hour.
func Between(
	ctx context.Context, js jetstream.JetStream, stream string, since, until time.Time,
) (first, last uint64, err error) {
	st, err := lookUp(ctx, js, stream)
	if err != nil {
		return 0, 0, err
	}
	if !since.IsZero() {
		if first, err = near(ctx, st, since.Add(-maxClockStep)); err != nil {
			return 0, 0, err
		}
	}
	if !until.IsZero() {
		if last, err = near(ctx, st, until.Add(maxClockStep)); err != nil {
			return 0, 0, err
		}
		last--
	}
	return max(first, 1), last, nil
}

// near returns a sequence from 1 such that the message before it was stored before the time, and the one there
// was not. There are several if stored times are not in order.
func near(ctx context.Context, st jetstream.Stream, at time.Time) (uint64, error) {
	state := st.CachedInfo().State
	low, high := max(state.FirstSeq, 1), state.LastSeq+1
	for low < high {
		mid := low + (high-low)/2
		m, err := st.GetMsg(ctx, mid, jetstream.WithGetMsgSubject(">")) // the first one from there on
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
			high = mid
			continue
		case err != nil:
			return 0, fmt.Errorf("get sequence from %d: %w", mid, err)
		}
		stored, err := StoredAt(m.Header, m.Time)
		if err != nil {
			stored = m.Time // the message is malformed
		}
		if m.Sequence < high && stored.Before(at) {
			low = m.Sequence + 1
		} else {
			high = mid
		}
	}
	return low, nil
}
