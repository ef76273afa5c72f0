package conversations

import (
	"bytes"
	"fmt"
	"time"

	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
)

// Limits of the changes that wait for a message that has not arrived.
const (
	// maxPendingMID is the maximum number of changes that wait for one mid. Later
	// ones are dropped.
	maxPendingMID = 100
	// maxPending is the maximum number of changes that wait in one conversation. The
	// oldest one is dropped for a new one. A page that does not subscribe to echoes
	// gets receipts for messages that never arrive.
	maxPending = 256
)

// change is the change of a message that an event names by mid. It is stored in this
// form while it waits for that message.
type change struct {
	Seq         uint64    `json:"seq"`
	Time        time.Time `json:"time"`
	Edit        *Edit     `json:"edit,omitempty"`
	Unsent      bool      `json:"unsent,omitempty"`
	Reaction    *Reaction `json:"reaction,omitempty"`
	Sender      string    `json:"sender,omitempty"`
	Withdrawn   bool      `json:"withdrawn,omitempty"`
	DeliveredAt int64     `json:"delivered_at,omitempty"`
	ReadAt      int64     `json:"read_at,omitempty"`
}

// applyTo applies the change to the message. It does not apply a read by mid, which
// covers earlier messages as well.
func (c change) applyTo(m *message) {
	switch {
	case c.Edit != nil:
		m.edit(*c.Edit)
	case c.Unsent:
		m.unsend(c.Time)
	case c.Reaction != nil:
		m.react(c.Sender, *c.Reaction, c.Withdrawn)
	case c.DeliveredAt > 0:
		if !m.receipt(receiptDelivered, projections.FromMillis(c.DeliveredAt)) {
			return
		}
	default:
		return
	}
	m.addEvent(c.Seq)
}

// change applies c to the message with that mid in this conversation, or stores it
// until there is one.
func (f *fold) change(mid string, c change) error {
	c.Seq, c.Time = f.e.Seq, f.time
	at, found, err := find(f.tx, f.c, f.owner, midSlot(mid))
	if err != nil {
		return err
	}
	if !found {
		return f.addPending(mid, c)
	}
	if c.ReadAt > 0 {
		return f.receipt(receiptRead, receipt{at.ms, c.ReadAt})
	}
	m, err := messageAt(f.tx, at)
	if err != nil {
		return err
	}
	c.applyTo(m)
	return f.put(at, m)
}

// addPending stores c until the message with that mid arrives. It does not store the
// text of an edit if the message is known to be unsent.
func (f *fold) addPending(mid string, c change) error {
	bucket := f.tx.Bucket(bucketPending)
	prefix := pendingPrefix(f.key, mid)
	rows, _ := readChunk(bucket, prefix, store.Successor(prefix))
	if c.Unsent || c.Edit != nil {
		for _, r := range rows {
			var other change
			if err := decode(r.value, &other, "pending change"); err != nil {
				return err
			}
			switch {
			case other.Unsent && c.Edit != nil:
				c.Edit.Text = ""
			case c.Unsent && other.Edit != nil:
				other.Edit.Text = ""
				if err := store.PutJSON(bucket, r.key, other); err != nil {
					return err
				}
			}
		}
	}
	if len(rows) >= maxPendingMID && !c.Unsent { // there is only one unsend, and it must not be dropped
		f.sum.Dropped++
		return nil
	}
	if f.c.Pending >= maxPending {
		if err := f.dropOldest(); err != nil {
			return err
		}
	}
	key := join(prefix, be(f.e.Seq))
	if !bucket.Has(key) {
		f.c.Pending++
		f.sum.Pending++
	}
	return store.PutJSON(bucket, key, c)
}

// dropOldest drops the oldest change that waits in the conversation.
func (f *fold) dropOldest() error {
	bucket := f.tx.Bucket(bucketPending)
	var oldest []byte
	cursor := bucket.Cursor()
	for k, _ := cursor.Seek(f.key); k != nil && bytes.HasPrefix(k, f.key); k, _ = cursor.Next() {
		if oldest == nil || bytes.Compare(k[len(k)-8:], oldest[len(oldest)-8:]) < 0 {
			oldest = bytes.Clone(k)
		}
	}
	if oldest == nil {
		return nil
	}
	if err := bucket.Delete(oldest); err != nil {
		return fmt.Errorf("drop pending change: %w", err)
	}
	f.c.Pending--
	f.less.Pending++
	f.sum.Dropped++
	return nil
}

// applyPending applies the changes that waited for the message. It returns the times of
// the reads among them, in Unix milliseconds: these cover earlier messages as well.
func (f *fold) applyPending(m *message, mid string) (reads []int64, err error) {
	if mid == "" || f.c.Pending == 0 {
		return nil, nil
	}
	bucket := f.tx.Bucket(bucketPending)
	prefix := pendingPrefix(f.key, mid)
	var keys [][]byte
	cursor := bucket.Cursor()
	for k, v := cursor.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = cursor.Next() {
		var c change
		if err := decode(v, &c, "pending change"); err != nil {
			return nil, err
		}
		c.applyTo(m)
		if c.ReadAt > 0 {
			m.addEvent(c.Seq)
			reads = append(reads, c.ReadAt)
		}
		keys = append(keys, bytes.Clone(k))
	}
	for _, k := range keys {
		if err := bucket.Delete(k); err != nil {
			return nil, fmt.Errorf("delete pending change: %w", err)
		}
		f.c.Pending--
		f.less.Pending++
	}
	return reads, nil
}
