package projections

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/internal/flatjson"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// trailKey is the key of the trail in the bucket of the position. The trail is not part
// of the position, because it depends on how the events were split into transactions.
var trailKey = []byte("trail")

// trailRoom is how many fingerprints a trail has at most in a usual stream, of up to some billion events.
const trailRoom = 32

// trailSize is about how many bytes of a row one fingerprint has.
const trailSize = 96

// Rememberer is a [Projection] whose state shows which events are in it. With it, the
// last event that a read model and a replaced stream have in common is found exactly.
type Rememberer interface {
	// Remembers reports whether the event is in the state at its sequence.
	Remembers(tx *store.Tx, e streams.Stored) bool
}

// trailRow is the stored row of a trail. It is JSON, and nearly always written and read without encoding/json.
type trailRow struct{ streams.Trail }

// AppendBinary appends the row as JSON: the bytes are those of [store.AppendJSON].
func (r *trailRow) AppendBinary(b []byte) ([]byte, error) {
	w := flatjson.Writer{B: slices.Grow(b, trailSize*len(r.Trail))}
	for i, f := range r.Trail {
		if i == 0 {
			w.Raw(`[{"seq":`)
		} else {
			w.Raw(`,{"seq":`)
		}
		w.Uint(f.Seq)
		w.Raw(`,"id":`)
		w.Text(f.ID)
		w.Raw(`,"at":`)
		w.Int(f.At)
		w.Raw("}")
	}
	w.Raw("]")
	if w.Odd || len(r.Trail) == 0 {
		return store.AppendJSON(b, &r.Trail)
	}
	return w.B, nil
}

// UnmarshalBinary reads the JSON of a row.
func (r *trailRow) UnmarshalBinary(b []byte) error {
	in := flatjson.Read(b)
	r.Trail = make(streams.Trail, 0, trailRoom)
	in.Want("[")
	for more := true; more; more = in.Skip(",") {
		var f streams.Fingerprint
		in.Want(`{"seq":`)
		f.Seq = in.Uint()
		in.Want(`,"id":`)
		f.ID = string(in.Text())
		in.Want(`,"at":`)
		f.At = in.Int()
		in.Want("}")
		r.Trail = append(r.Trail, f)
	}
	in.Want("]")
	if !in.End() {
		r.Trail = nil
		return json.Unmarshal(b, &r.Trail)
	}
	return nil
}

// readTrail reads the trail of a read model. One of before there were trails has none.
func readTrail(tx *store.Tx) (streams.Trail, error) {
	r, _, err := store.GetRow[trailRow](tx.Bucket(store.MetaBucket), trailKey)
	if err != nil {
		return nil, fmt.Errorf("read trail: %w", err)
	}
	return r.Trail, nil
}

// writeTrail adds the events of a transaction to the trail.
func writeTrail(tx *store.Tx, read []*streams.Stored) error {
	if len(read) == 0 {
		return nil
	}
	t, err := readTrail(tx)
	if err != nil {
		return err
	}
	if err := store.EncodeRow(tx.Bucket(store.MetaBucket), trailKey, &trailRow{t.With(read...)}); err != nil {
		return fmt.Errorf("write trail: %w", err)
	}
	return nil
}

// difference is in what a read model and the stream differ.
type difference struct {
	why string // empty if they don't
	// common is the last sequence up to which they are the same, as far as is known.
	common uint64
	info   *jetstream.StreamInfo
	meta   store.Meta
	// unknown is set if the read model has no trail.
	unknown bool
}

// compare compares the position of a read model with the stream as it is now. It
// requests some dozens of events at most.
func (r *Runner) compare(ctx context.Context, v Viewer) (d difference, err error) {
	var trail streams.Trail
	err = v.View(func(tx *store.Tx) error {
		if d.meta, _, err = store.ReadMeta(tx); err != nil {
			return err
		}
		trail, err = readTrail(tx)
		return err
	})
	if err != nil {
		return d, err
	}
	// A position of an event that waits for others may be without a fingerprint, and one
	// that was changed by other means may be before the trail.
	trail = trail.Upto(d.meta.Seq)
	d.unknown = len(trail) == 0
	if d.info, err = r.streamInfo(ctx); err != nil {
		return d, err
	}
	c, err := trail.Compare(ctx, r.opts.JS, r.opts.Stream)
	if err != nil {
		return d, err
	}
	d.common = c.Common.Seq
	identity := streams.Identity(d.meta.Identity)
	switch {
	case identity.Name() != r.stream.Load().identity.Name():
		d.why, d.common = "it was built from another stream", 0
	case c.Differs.Seq == 0 && d.meta.Seq <= c.Last && (!d.unknown || identity == r.identityOf(d.info)):
		return d, nil
	case d.unknown && d.meta.Seq <= c.Last:
		d.why = "it was built from another stream"
	case d.meta.Seq > c.Last:
		d.why = fmt.Sprintf("it is at event %d, the stream ends at %d: an older stream was restored", d.meta.Seq, c.Last)
	default:
		d.why = fmt.Sprintf("the stream has another event %d than the one it was built from", c.Differs.Seq)
	}
	if d.common == 0 {
		d.why += "; no event is known to be in both"
		return d, nil
	}
	last := c.Common.String()
	if p, ok := r.projection.(Rememberer); ok {
		end := d.meta.Seq + 1
		if c.Differs.Seq > 0 {
			end = c.Differs.Seq
		}
		f, err := r.lastRemembered(ctx, v, p, c.Common, min(end, c.Last+1))
		if err != nil {
			return d, err
		}
		d.common, last = f.Seq, f.String()
	}
	d.why += "; the last that is known to be in both is " + last
	return d, nil
}

// identityOf returns the identity of the stream with that info, in the form in which the
// runner was given one.
func (r *Runner) identityOf(info *jetstream.StreamInfo) streams.Identity {
	if at := r.stream.Load(); streams.CreatedAt(info).Equal(at.created) {
		return at.identity
	}
	return streams.IdentityOf(info)
}

// lastRemembered returns the last event of the stream after the event from and before
// the sequence end that is in the read model, or from if none is. From some event on none
// is.
func (r *Runner) lastRemembered(
	ctx context.Context, v Viewer, p Rememberer, from streams.Fingerprint, end uint64,
) (streams.Fingerprint, error) {
	st, err := r.opts.JS.Stream(ctx, r.opts.Stream)
	if err != nil {
		return from, fmt.Errorf("get stream: %w", err)
	}
	for from.Seq+1 < end {
		middle := from.Seq + (end-from.Seq)/2
		// The first message from the middle on: there may be gaps.
		m, err := st.GetMsg(ctx, middle, jetstream.WithGetMsgSubject(streams.All))
		if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && m.Sequence >= end {
			end = middle
			continue
		}
		if err != nil {
			return from, fmt.Errorf("get event %d: %w", middle, err)
		}
		e, err := streams.Decode(m.Subject, m.Header, m.Data, m.Sequence, m.Time)
		if err != nil { // a message that is not an event tells nothing
			end = middle
			continue
		}
		remembered := false
		err = v.View(func(tx *store.Tx) error { remembered = p.Remembers(tx, e); return nil })
		if err != nil {
			return from, err
		}
		if remembered {
			from = streams.FingerprintOf(e)
		} else {
			end = middle
		}
	}
	return from, nil
}

// begin writes the first trail of a file of before there were trails, after its position
// was accepted.
func (r *Runner) begin(ctx context.Context, s *store.Store, at uint64) error {
	if at == 0 {
		return nil
	}
	e, err := streams.Get(ctx, r.opts.JS, r.opts.Stream, at)
	if errors.Is(err, streams.ErrNotFound) || errors.Is(err, streams.ErrMalformed) {
		return nil // the next transaction writes it
	}
	if err != nil {
		return err
	}
	return s.Update(func(tx *store.Tx) error { return writeTrail(tx, []*streams.Stored{&e}) })
}
