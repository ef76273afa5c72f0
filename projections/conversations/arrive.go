package conversations

import (
	"bytes"

	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
)

// arrive places a message, and gives it whatever came before it.
func (f *fold) arrive(m *message) error {
	slot := slotOf(&m.Message)
	taken, found, err := find(f.tx, &f.c, f.owner, slot)
	if err != nil {
		return err
	}
	if found {
		return f.again(taken, m)
	}
	at := place{millis(m.Time), m.Seq}
	m.note(f.e.Seq)
	f.count(m)
	// What follows counts nothing that an erasure takes back, so this is final.
	f.c.Recent = f.c.Recent.add(recentEvent{at, slot, shareOf(f.sum) != (share{})})
	f.placed = true

	covers, err := f.waiting(m, m.MID)
	if err != nil {
		return err
	}
	if err := f.cover(m); err != nil {
		return err
	}
	if err := f.put(at, m); err != nil {
		return err
	}
	for _, read := range covers {
		if err := f.receipt(receiptRead, receipt{at.ms, read}); err != nil {
			return err
		}
	}
	return f.unanswered(m)
}

// put stores the row at a place, and shows it in the conversation if it is the
// newest.
func (f *fold) put(at place, m *message) error {
	if tail := at.tail(); bytes.Compare(tail, f.c.LastKey) >= 0 {
		f.c.LastKey = tail
		f.c.Last = m.preview()
		f.c.Standby = m.Standby
	}
	return store.EncodeRow(messages(f.tx), at.row(), m)
}

// again takes in a second event with the mid of a stored message.
func (f *fold) again(at place, m *message) error {
	first, err := messageAt(f.tx, at)
	if err != nil || first.ID == m.ID {
		return err
	}
	if first.merge(m) {
		f.conflict()
	}
	first.note(f.e.Seq)
	return f.put(at, first)
}

func (f *fold) conflict() {
	f.c.Conflicts++
	f.sum.Conflicts++
}

// count counts a new row and marks it late if it is.
func (f *fold) count(m *message) {
	if f.c.Last != nil && m.Source != "backfill" { // history is not late
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

// unanswered counts inbound messages after the page's last one. The row is stored
// already.
func (f *fold) unanswered(m *message) error {
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
	// An echo that came after newer messages: those are still unanswered.
	f.c.Unanswered = 0
	return f.scan(millis(m.Time), projections.MaxMillis, func(m *message) bool {
		if m.Direction == In {
			f.c.Unanswered++
		}
		return false
	})
}
