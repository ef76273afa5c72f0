package conversations

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
)

// maxReceipts is the maximum number of receipts of one kind that a conversation stores
// for messages that arrive after them.
const maxReceipts = 64

// receiptKind is the kind of a receipt: delivery or read.
type receiptKind byte

const (
	receiptDelivered receiptKind = 'd'
	receiptRead      receiptKind = 'r'
)

// receipt means that every message from the page with a time up to cover was delivered,
// or read, at the time at. Both are in Unix milliseconds.
type receipt struct{ cover, at int64 }

// receipts is a list in order of cover, and so of at: a receipt that covers no more
// than another and is not earlier has no effect, and is not in the list.
type receipts []receipt

// stamp returns the time of the earliest receipt for a message with time t. It returns
// false if there is none.
func (rs receipts) stamp(t int64) (at int64, ok bool) {
	i, _ := slices.BinarySearchFunc(rs, t, func(r receipt, t int64) int { return cmp.Compare(r.cover, t) })
	if i == len(rs) {
		return 0, false
	}
	return rs[i].at, true
}

// add returns the list with r. Messages with times in (after, r.cover] may have an
// earlier receipt than before; all those up to after have one that is at least as
// early. It returns false, and the list unchanged, if r has no effect, or if the list is
// full and r covers less than all receipts in it.
func (rs receipts) add(r receipt) (next receipts, after int64, added bool) {
	if at, ok := rs.stamp(r.cover); ok && at <= r.at {
		return rs, 0, false
	}
	if len(rs) >= maxReceipts && r.cover < rs[0].cover {
		return rs, 0, false
	}
	after = -1
	next = make(receipts, 0, len(rs)+1)
	for _, o := range rs {
		if o.cover <= r.cover && o.at >= r.at {
			continue // r replaces it
		}
		if o.cover < r.cover {
			after = o.cover
		}
		next = append(next, o)
	}
	next = append(next, r)
	slices.SortFunc(next, func(a, b receipt) int { return cmp.Compare(a.cover, b.cover) })
	if n := len(next) - maxReceipts; n > 0 {
		next = slices.Delete(next, 0, n)
	}
	return next, after, true
}

func (rs receipts) encode() []byte {
	b := make([]byte, 0, 16*len(rs))
	for _, r := range rs {
		b = binary.BigEndian.AppendUint64(b, uint64(r.cover))
		b = binary.BigEndian.AppendUint64(b, uint64(r.at))
	}
	return b
}

func decodeReceipts(b []byte) receipts {
	rs := make(receipts, 0, len(b)/16+1)
	for ; len(b) >= 16; b = b[16:] {
		rs = append(rs, receipt{int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[8:]))})
	}
	return rs
}

// applyReceipts applies the receipts that arrived before a message from the page.
func (f *fold) applyReceipts(m *message) error {
	if m.Direction != Out {
		return nil
	}
	for _, k := range []struct {
		kind receiptKind
		upto time.Time
	}{{receiptDelivered, f.c.Delivered}, {receiptRead, f.c.Read}} {
		if k.upto.Before(m.Time) {
			continue
		}
		rs := decodeReceipts(f.tx.Bucket(bucketReceipts).Get(f.receiptsKey(k.kind)))
		if at, ok := rs.stamp(millis(m.Time)); ok {
			m.receipt(k.kind, projections.FromMillis(at))
		}
	}
	return nil
}

func (f *fold) receiptsKey(kind receiptKind) []byte { return join(f.key, []byte{byte(kind)}) }

// delivered applies a delivery receipt.
func (f *fold) delivered(d *domain.Delivery) error {
	if d == nil || d.Watermark <= 0 && len(d.MIDs) == 0 {
		return f.incomplete()
	}
	at := f.time
	if d.Watermark > 0 {
		at = projections.FromMillis(d.Watermark)
	}
	for _, mid := range d.MIDs {
		if mid == "" {
			continue
		}
		if err := f.change(mid, change{DeliveredAt: millis(at)}); err != nil {
			return err
		}
	}
	if d.Watermark <= 0 {
		return nil
	}
	return f.receipt(receiptDelivered, receipt{millis(at), millis(at)})
}

// read applies a read receipt.
func (f *fold) read(r *domain.Read) error {
	if r == nil || r.Watermark <= 0 && r.MID == "" {
		return f.incomplete()
	}
	if r.MID != "" {
		if err := f.change(r.MID, change{ReadAt: millis(f.time)}); err != nil {
			return err
		}
	}
	if r.Watermark <= 0 {
		return nil
	}
	at := millis(projections.FromMillis(r.Watermark))
	return f.receipt(receiptRead, receipt{at, at})
}

// receipt stores a receipt and applies it to the messages that it covers, except those
// with an earlier one.
func (f *fold) receipt(kind receiptKind, r receipt) error {
	bucket, key := f.tx.Bucket(bucketReceipts), f.receiptsKey(kind)
	next, after, added := decodeReceipts(bucket.Get(key)).add(r)
	if !added {
		return nil
	}
	if err := bucket.Put(key, next.encode()); err != nil {
		return fmt.Errorf("store receipts: %w", err)
	}
	upto := &f.c.Delivered
	if kind == receiptRead {
		upto = &f.c.Read
	}
	if t := projections.FromMillis(r.cover); t.After(*upto) {
		*upto = t
	}
	at := projections.FromMillis(r.at)
	return f.scan(after, r.cover, func(m *message) bool {
		if !m.receipt(kind, at) {
			return false
		}
		m.addEvent(f.e.Seq)
		return true
	})
}
