package streams

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
)

// Fingerprint identifies the event that a stream has at a sequence. It has nothing of the event's content.
type Fingerprint struct {
	Seq uint64 `json:"seq"`
	// ID is the [domain.IDKey] of the event's id, in hex, as a tombstone has it.
	ID string `json:"id"`
	// At is when the stream stored the event, in Unix milliseconds.
	At int64 `json:"at"`
}

// FingerprintOf returns the fingerprint of an event.
func FingerprintOf(e Stored) Fingerprint {
	return Fingerprint{Seq: e.Seq, ID: hex.EncodeToString(domain.IDKey(e.ID)), At: e.At.UnixMilli()}
}

// String returns the sequence, the beginning of the hash and the time.
func (f Fingerprint) String() string {
	if f.Seq == 0 {
		return "none"
	}
	at := time.UnixMilli(f.At).UTC().Format(time.RFC3339)
	return fmt.Sprintf("event %d (%s, stored %s)", f.Seq, f.ID[:min(len(f.ID), 8)], at)
}

// Trail has the fingerprints of the last event that a reader has read, and of some before, in order of their
// sequences. The further back, the greater are the distances: they double. So it has at most one fingerprint
// for each doubling of the stream's length, and 64 in all.
//
// A reader stores its trail together with its position. A position alone is a number, which another stream
// may have as well.
type Trail []Fingerprint

// With returns the trail after more events were read, in order. It does not modify t. Events that are not
// after the trail's last one are ignored.
func (t Trail) With(events ...*Stored) Trail {
	out := slices.Clone(t)
	if len(out) == 0 && len(events) > 0 {
		out = append(out, FingerprintOf(*events[0]))
	}
	// Of many events only those are taken that the trail would keep.
	for step := bits.Len(uint(len(events))); step >= 0; step-- {
		i := len(events) - 1<<step
		if i < 0 || len(out) > 0 && events[i].Seq <= out[len(out)-1].Seq {
			continue
		}
		out = append(out, FingerprintOf(*events[i]))
	}
	return out.thin()
}

// thin keeps the last fingerprint, and of those at a distance of 2^n to 2^(n+1)-1 from it the oldest.
func (t Trail) thin() Trail {
	if len(t) < 2 {
		return t
	}
	last := t[len(t)-1]
	out := t[:0]
	before := 0 // the class of the one before
	for _, f := range t[:len(t)-1] {
		if class := bits.Len64(last.Seq - f.Seq); class != before {
			out, before = append(out, f), class
		}
	}
	return append(out, last)
}

// Upto returns the part of the trail up to a sequence.
func (t Trail) Upto(seq uint64) Trail {
	i := slices.IndexFunc(t, func(f Fingerprint) bool { return f.Seq > seq })
	if i < 0 {
		return t
	}
	return t[:i:i]
}

// Compared is the result of comparing a trail with a stream.
type Compared struct {
	// Common is the last fingerprint before the first difference that the stream has too, zero if there is
	// none. Differs is the first one that the stream has otherwise, or ends before; zero if there is none.
	Common, Differs Fingerprint
	// Last is the stream's last sequence.
	Last uint64
}

// compareTimeout bounds one request of Compare, which is sent again meanwhile, see [askAgain]. It is as long as a busy
// server may take that has just started.
const compareTimeout = 10 * time.Second

// Compare compares the trail with a stream, whatever its name was. An erased event is the same if its
// tombstone has the hash of its id. A sequence within the stream that has neither an event nor a tombstone
// tells nothing: see [Lost]. It requests each event of the trail.
func (t Trail) Compare(ctx context.Context, js jetstream.JetStream, stream string) (out Compared, err error) {
	limited, cancel := context.WithTimeout(ctx, compareTimeout)
	st, err := lookUp(limited, js, stream)
	cancel()
	if err != nil {
		return out, fmt.Errorf("compare positions: %w", err)
	}
	out.Last = st.CachedInfo().State.LastSeq
	var erased map[uint64]string
	for _, f := range t {
		if f.Seq > out.Last {
			out.Differs = f
			return out, nil
		}
		limited, cancel := context.WithTimeout(ctx, compareTimeout)
		e, err := get(limited, st, f.Seq)
		cancel()
		same := err == nil && FingerprintOf(e) == f
		switch {
		case errors.Is(err, ErrNotFound):
			if erased == nil {
				if erased, err = tombstonesAt(ctx, js, stream, t); err != nil {
					return out, err
				}
			}
			id, found := erased[f.Seq]
			if !found {
				continue // it was lost
			}
			same = id == f.ID
		case err != nil && !errors.Is(err, ErrMalformed):
			return out, fmt.Errorf("compare positions: %w", err)
		}
		if !same {
			out.Differs = f
			return out, nil
		}
		out.Common = f
	}
	return out, nil
}

// tombstonesAt returns the hashes of the ids of the erased events that a trail has.
func tombstonesAt(ctx context.Context, js jetstream.JetStream, stream string, t Trail) (map[uint64]string, error) {
	out := map[uint64]string{}
	err := eachTombstone(ctx, js, stream, func(h domain.Tombstone) {
		if slices.ContainsFunc(t, func(f Fingerprint) bool { return f.Seq == h.Seq }) {
			out[h.Seq] = h.ID
		}
	})
	return out, err
}

// eachTombstone calls f with each tombstone of the stream's erasures.
func eachTombstone(ctx context.Context, js jetstream.JetStream, stream string, f func(domain.Tombstone)) error {
	o := ReadOptions{
		Stream: stream, Filters: Filter("", domain.ContactErased, domain.PageAdminErased),
		Malformed: func(uint64, error) error { return nil },
	}
	_, err := Read(ctx, js, o, func(e Stored) error {
		if e.Data.Erasure == nil {
			return nil
		}
		for _, h := range e.Data.Erasure.Events {
			if h.Seq < e.Seq {
				f(h)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read erasures: %w", err)
	}
	return nil
}
