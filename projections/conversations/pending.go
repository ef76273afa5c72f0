package conversations

import (
	"bytes"
	"fmt"
	"time"

	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
)

// Bounds of what waits for a message that is not here.
const (
	// maxPendingMID bounds what waits for one mid; what comes after is dropped.
	maxPendingMID = 100
	// maxPending bounds what waits in one conversation; the oldest is dropped.
	// A page that does not subscribe to echoes gets receipts for messages that
	// never come.
	maxPending = 256
)

// change is what an event does to the message it names by mid. It is also the
// form in which it waits for that message.
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

// to changes the message. A read by mid is not done here: it covers earlier
// messages too.
func (c change) to(m *message) {
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
	m.note(c.Seq)
}

// change applies c to the message with that mid in this conversation, or
// keeps it until there is one.
func (f *fold) change(mid string, c change) error {
	c.Seq, c.Time = f.e.Seq, f.time
	at, found, err := find(f.tx, &f.c, f.owner, midSlot(mid))
	if err != nil {
		return err
	}
	if !found {
		return f.wait(mid, c)
	}
	if c.ReadAt > 0 {
		return f.receipt(receiptRead, receipt{at.ms, c.ReadAt})
	}
	m, err := messageAt(f.tx, at)
	if err != nil {
		return err
	}
	c.to(m)
	return f.put(at, m)
}

// wait keeps c until the message with that mid comes. The text of an edit does not
// wait for a message that is known to be unsent.
func (f *fold) wait(mid string, c change) error {
	bucket := f.tx.Bucket(bucketPending)
	prefix := pendingPrefix(f.key, mid)
	rows, _ := take(bucket, prefix, successor(prefix))
	if c.Unsent || c.Edit != nil {
		for _, r := range rows {
			var other change
			if err := decode(r.value, &other, "what waits"); err != nil {
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
	if len(rows) >= maxPendingMID && !c.Unsent { // there is one unsend, and it must not be lost
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

// dropOldest makes room among what waits in the conversation.
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
		return fmt.Errorf("drop what waits: %w", err)
	}
	f.c.Pending--
	f.less.Pending++
	f.sum.Dropped++
	return nil
}

// waiting applies what waited for the message, and returns the moments of
// reads that named it: they cover the messages before it as well.
func (f *fold) waiting(m *message, mid string) (reads []int64, err error) {
	if mid == "" || f.c.Pending == 0 {
		return nil, nil
	}
	bucket := f.tx.Bucket(bucketPending)
	prefix := pendingPrefix(f.key, mid)
	var keys [][]byte
	cursor := bucket.Cursor()
	for k, v := cursor.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = cursor.Next() {
		var c change
		if err := decode(v, &c, "what waits"); err != nil {
			return nil, err
		}
		c.to(m)
		if c.ReadAt > 0 {
			m.note(c.Seq)
			reads = append(reads, c.ReadAt)
		}
		keys = append(keys, bytes.Clone(k))
	}
	for _, k := range keys {
		if err := bucket.Delete(k); err != nil {
			return nil, fmt.Errorf("take what waits: %w", err)
		}
		f.c.Pending--
		f.less.Pending++
	}
	return reads, nil
}
