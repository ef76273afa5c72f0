package streams

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/internal/backoff"
)

// ErrNotSame is returned by [Same] when two streams differ. The error says in what.
var ErrNotSame = errors.New("the streams differ")

// Extent is what a stream has.
type Extent struct {
	Messages uint64 `json:"messages"`
	First    uint64 `json:"first_seq"`
	Last     uint64 `json:"last_seq"`
	// Consumers is the number of its durable consumers.
	Consumers int `json:"consumers"`
	// Digest is the SHA-256 of all messages with their sequences, subjects, times and headers, in hex.
	Digest string `json:"digest"`
}

const (
	// sumsAtOnce is how many sums of messages are compared at once.
	sumsAtOnce = 512
	// sameTimeout bounds one request of Same, consumersTimeout how long a copy may take to have its consumers.
	sameTimeout      = 5 * time.Second
	expiring         = time.Minute // the longest time between the looks at both
	consumersTimeout = 2 * time.Minute
)

// Same compares a stream with its copy on another server, message by message, and the positions of their durable consumers.
// Nothing may be stored in either meanwhile. It returns what both have, or [ErrNotSame]. progress, if not nil, is
// called now and then with the sequence up to which they are the same. A copy in a cluster gets its consumers some
// time after its messages, and Same waits two minutes for them.
//
// Each server deletes by itself what has become too old. So if the stream has a MaxAge, messages that reach it
// within a minute are not compared, nor how far its consumers have read.
func Same(ctx context.Context, a, b jetstream.JetStream, stream string, progress func(seq uint64)) (
	out Extent, err error,
) {
	began := time.Now()
	var states [2]jetstream.StreamState
	var streams [2]jetstream.Stream
	for i, js := range []jetstream.JetStream{a, b} {
		if streams[i], err = js.Stream(ctx, stream); err != nil {
			return out, fmt.Errorf("compare stream %s: %w", stream, err)
		}
		states[i] = streams[i].CachedInfo().State
	}
	differ := func(what string, x, y any) error {
		return fmt.Errorf("stream %s: %s: %v and %v: %w", stream, what, x, y, ErrNotSame)
	}
	for i := range states { // an empty stream may begin at 0 or at 1
		states[i].FirstSeq = max(1, states[i].FirstSeq)
	}
	was, is := states[0], states[1]
	age := streams[0].CachedInfo().Config.MaxAge
	switch {
	case age == 0 && was.Msgs != is.Msgs:
		return out, differ("number of messages", was.Msgs, is.Msgs)
	case age == 0 && was.FirstSeq != is.FirstSeq:
		return out, differ("first sequence", was.FirstSeq, is.FirstSeq)
	case was.LastSeq != is.LastSeq:
		return out, differ("last sequence", was.LastSeq, is.LastSeq)
	}
	out = Extent{Messages: was.Msgs, First: was.FirstSeq, Last: was.LastSeq}
	since := time.Time{}
	if age > 0 {
		since = began.Add(expiring - age)
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	mine, theirs := summed(ctx, a, streams[0], since), summed(ctx, b, streams[1], since)
	all, n := sha256.New(), uint64(0)
	for {
		x, y := <-mine, <-theirs
		if err := cmp.Or(x.err, y.err, ctx.Err()); err != nil {
			return out, fmt.Errorf("compare stream %s: %w", stream, err)
		}
		for i := range max(len(x.sums), len(y.sums)) {
			if i >= len(x.sums) || i >= len(y.sums) || x.sums[i] != y.sums[i] {
				return out, differ("message", x.seq(i), y.seq(i))
			}
			all.Write(x.sums[i].sum[:])
			n++
		}
		if len(x.sums) == 0 {
			break
		}
		if progress != nil {
			progress(x.sums[len(x.sums)-1].seq)
		}
	}
	if age == 0 && n != out.Messages {
		return out, differ("number of messages", out.Messages, n)
	}
	out.Messages, out.Digest = n, hex.EncodeToString(all.Sum(nil))
	out.Consumers, err = sameConsumers(ctx, streams[0], streams[1], age == 0)
	return out, err
}

// messageSum is the hash of a message at a sequence.
type messageSum struct {
	seq uint64
	sum [sha256.Size]byte
}

// sums are the hashes of some messages in order; none means that there are no more.
type sums struct {
	sums []messageSum
	err  error
}

// seq returns the sequence of a message, or "none".
func (s sums) seq(i int) any {
	if i >= len(s.sums) {
		return "none"
	}
	return s.sums[i].seq
}

// summed reads a stream to its end and returns the hashes of its messages since a time, [sumsAtOnce] at once.
func summed(ctx context.Context, js jetstream.JetStream, st jetstream.Stream, since time.Time) <-chan sums {
	out := make(chan sums, 4)
	go func() {
		defer close(out)
		h := sha256.New()
		list := make([]messageSum, 0, sumsAtOnce)
		send := func(s sums) error {
			select {
			case out <- s:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		err := eachMessage(ctx, js, st, func(seq uint64, at time.Time, subject string, header nats.Header, data []byte) error {
			if at.Before(since) {
				return nil
			}
			list = append(list, messageSum{seq: seq, sum: sumOf(h, seq, at, subject, header, data)})
			if len(list) < sumsAtOnce {
				return nil
			}
			full := list
			list = make([]messageSum, 0, sumsAtOnce)
			return send(sums{sums: full})
		})
		if err == nil && len(list) > 0 {
			err = send(sums{sums: list})
		}
		if err != nil {
			_ = send(sums{err: err}) // or the reader has gone
		}
	}()
	return out
}

// eachMessage calls f with each message of a stream. A consumer on a stream that deletes what was read would change
// what it keeps, so such a stream, which is small, is read one message at a time.
func eachMessage(
	ctx context.Context, js jetstream.JetStream, st jetstream.Stream,
	f func(seq uint64, at time.Time, subject string, header nats.Header, data []byte) error,
) error {
	info := st.CachedInfo()
	if info.Config.Retention == jetstream.LimitsPolicy {
		_, err := each(ctx, js, ReadOptions{Stream: info.Config.Name}, func(m *arrival) error {
			return f(m.seq, m.at, m.subject, m.header, m.data)
		})
		return err
	}
	for seq := max(1, info.State.FirstSeq); seq <= info.State.LastSeq; seq++ {
		limited, cancel := context.WithTimeout(ctx, sameTimeout)
		m, err := st.GetMsg(limited, seq, jetstream.WithGetMsgSubject(">"))
		cancel()
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("get message %d: %w", seq, err)
		}
		if err := f(m.Sequence, m.Time, m.Subject, m.Header, m.Data); err != nil {
			return err
		}
		seq = m.Sequence
	}
	return nil
}

// sumOf returns the hash of a message.
func sumOf(
	h hash.Hash, seq uint64, at time.Time, subject string, header nats.Header, data []byte,
) (out [sha256.Size]byte) {
	h.Reset()
	var number [8]byte
	part := func(b []byte) {
		binary.BigEndian.PutUint64(number[:], uint64(len(b)))
		h.Write(number[:])
		h.Write(b)
	}
	for _, n := range []uint64{seq, uint64(at.UnixNano())} {
		binary.BigEndian.PutUint64(number[:], n)
		h.Write(number[:])
	}
	part([]byte(subject))
	for _, key := range slices.Sorted(maps.Keys(header)) {
		part([]byte(key))
		for _, value := range header[key] {
			part([]byte(value))
		}
	}
	part(data)
	h.Sum(out[:0])
	return out
}

// readerState is what a consumer reads and how far it has read.
type readerState struct {
	name, filter     string
	filters          []string
	ack              jetstream.AckPolicy
	deliver          jetstream.DeliverPolicy
	wait             time.Duration
	tries, most      int
	delivered, floor jetstream.SequenceInfo
	pending          int
}

// sameConsumers compares the consumers of two streams, with their positions or without, and returns how many there are.
func sameConsumers(ctx context.Context, a, b jetstream.Stream, positions bool) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, consumersTimeout)
	defer cancel()
	want, err := readers(ctx, a, positions)
	if err != nil {
		return 0, err
	}
	for pause := (backoff.Backoff{Min: 50 * time.Millisecond, Max: time.Second}); ; {
		have, err := readers(ctx, b, positions)
		if err == nil {
			x, y := difference(want, have)
			if x == y {
				return len(want), nil
			}
			err = fmt.Errorf("stream %s: consumers: %s and %s: %w", a.CachedInfo().Config.Name, x, y, ErrNotSame)
		}
		if pause.Wait(ctx) != nil {
			return 0, err
		}
	}
}

// difference returns the first consumers that differ, as text. Both are empty if there are none.
func difference(a, b []readerState) (x, y string) {
	for i := range max(len(a), len(b)) {
		if x, y = "none", "none"; i < len(a) {
			x = fmt.Sprintf("%+v", a[i])
		}
		if i < len(b) {
			y = fmt.Sprintf("%+v", b[i])
		}
		if x != y {
			return x, y
		}
	}
	return "", ""
}

// readers returns the state of the durable consumers of a stream, by name.
func readers(ctx context.Context, st jetstream.Stream, positions bool) ([]readerState, error) {
	out := []readerState{}
	list := st.ListConsumers(ctx)
	for info := range list.Info() {
		c := info.Config
		if c.Durable == "" {
			continue
		}
		r := readerState{
			name: c.Durable, filter: c.FilterSubject, filters: c.FilterSubjects, ack: c.AckPolicy,
			deliver: c.DeliverPolicy, wait: c.AckWait, tries: c.MaxDeliver, most: c.MaxAckPending,
		}
		if positions {
			r.delivered, r.floor, r.pending = info.Delivered, info.AckFloor, info.NumAckPending
			for _, at := range []*jetstream.SequenceInfo{&r.delivered, &r.floor} {
				// Before the first message of the stream all positions are the same.
				at.Last, at.Stream = nil, max(at.Stream, max(1, st.CachedInfo().State.FirstSeq)-1)
			}
		}
		out = append(out, r)
	}
	if err := list.Err(); err != nil {
		return nil, fmt.Errorf("list consumers of stream %s: %w", st.CachedInfo().Config.Name, err)
	}
	slices.SortFunc(out, func(a, b readerState) int { return cmp.Compare(a.name, b.name) })
	return out, nil
}
