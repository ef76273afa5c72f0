package conversations

import (
	"bytes"
	"fmt"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
)

// addMessage stores a new message, and applies the changes and receipts that arrived
// before it.
func (f *fold) addMessage(m *message) error {
	at := place{millis(m.Time), m.Seq}
	slot := slotOf(&m.Message)
	if m.MID == "" && f.e.Data.Fact != "" {
		slot = factSlot(f.e.Data.Fact, at.ms, 0)
		if repeats, err := f.repeats(at.ms); err != nil || repeats {
			return err
		}
	}
	existing, found, err := find(f.tx, f.c, f.owner, slot)
	if err != nil {
		return err
	}
	if found {
		return f.addDuplicate(existing, m)
	}
	m.addEvent(f.e.Seq)
	f.count(m)
	// The code below adds nothing to the counts that an erasure subtracts, so they are final.
	f.c.Recent = f.c.Recent.add(recentEvent{at, slot, shareOf(f.sum) != (share{})})
	f.placed = true

	reads, err := f.applyPending(m, m.MID)
	if err != nil {
		return err
	}
	if err := f.applyReceipts(m); err != nil {
		return err
	}
	if err := f.put(at, m); err != nil {
		return err
	}
	for _, read := range reads {
		if err := f.receipt(receiptRead, receipt{at.ms, read}); err != nil {
			return err
		}
	}
	return f.countUnanswered(m)
}

// repeats reports whether the conversation has a row with the event's fact and a time at
// most [domain.RedeliveryWindow] from ms: the same item, delivered again with another
// entry.time.
func (f *fold) repeats(ms int64) (bool, error) {
	for _, neighbour := range []int64{0, -1, 1} {
		p, found, err := find(f.tx, f.c, f.owner, factSlot(f.e.Data.Fact, ms, neighbour))
		if err != nil {
			return false, err
		}
		if found && max(p.ms-ms, ms-p.ms) <= domain.RedeliveryWindow.Milliseconds() {
			return true, nil
		}
	}
	return false, nil
}

// rowRoom is enough for the row of most messages.
const rowRoom = 512

// put stores the row at a place, and updates the conversation's preview if the message
// is the newest.
func (f *fold) put(at place, m *message) error {
	if tail := at.tail(); bytes.Compare(tail, f.c.LastKey) >= 0 {
		f.c.LastKey = append(f.c.LastKey[:0], tail...)
		if f.c.Last == nil {
			f.c.Last = new(Preview)
		}
		*f.c.Last = m.preview()
		f.c.Standby = m.Standby
	}
	var room [rowRoom]byte // on the stack, and so is a new message: the store copies the row
	row, err := m.AppendBinary(room[:0])
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	f.room = at.appendRow(f.room[:0])
	if err := messages(f.tx).Put(f.room, row); err != nil {
		return fmt.Errorf("store message: %w", err)
	}
	return nil
}

// addDuplicate applies another event with the mid of a stored message.
func (f *fold) addDuplicate(at place, m *message) error {
	first, err := messageAt(f.tx, at)
	if err != nil || first.ID == m.ID {
		return err
	}
	if first.merge(m) {
		f.c.Conflicts++
		f.sum.Conflicts++
	}
	first.addEvent(f.e.Seq)
	return f.put(at, first)
}

// count counts a new row, and sets LateMillis if it arrived after a newer one.
func (f *fold) count(m *message) {
	if f.c.Last != nil && m.Source != domain.SourceBackfill { // history is not late
		if late := millis(f.c.Last.Time) - millis(m.Time); late > 0 {
			m.LateMillis = late
			f.c.Late++
			f.sum.Late++
		}
	}
	switch m.Direction {
	case In:
		f.c.In++
		f.sum.In++
		if m.Time.After(f.c.LastIn) {
			f.c.LastIn = m.Time
		}
	case Out:
		f.c.Out++
		f.sum.Out++
	}
}

// countUnanswered updates the number of inbound messages after the page's last one. The
// row must be stored before.
func (f *fold) countUnanswered(m *message) error {
	if m.Direction == In {
		if m.Time.After(f.c.LastOut) {
			f.c.Unanswered++
		}
		return nil
	}
	if !m.Time.After(f.c.LastOut) {
		return nil
	}
	f.c.LastOut = m.Time
	if !f.c.LastIn.After(m.Time) {
		f.c.Unanswered = 0
		return nil
	}
	// The echo arrived after newer messages, which are still unanswered.
	f.c.Unanswered = 0
	return f.scan(millis(m.Time), projections.MaxMillis, func(m *message) bool {
		if m.Direction == In {
			f.c.Unanswered++
		}
		return false
	})
}
