package conversations

import (
	"cmp"
	"fmt"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// fold applies one event.
type fold struct {
	tx   *store.Tx
	e    streams.Stored
	time time.Time
	key  []byte // of the conversation
	// owner is the key by which an erasure finds the conversation.
	owner []byte

	c     *conversation
	isNew bool // the conversation was not stored before
	was   int64
	// placed reports whether the event created a message, which is in Recent then.
	placed bool
	// sum is added to the page's counts, less is subtracted.
	sum, less Counts
	// room is for keys that are used at once: the store copies them.
	room []byte
}

// load reads the conversation, or initializes a new one.
func (f *fold) load() error {
	f.was = -1
	row, found, err := store.GetRow[conversationRow](f.tx.Bucket(bucketConversations), f.key)
	if err != nil {
		return err
	}
	if found {
		f.c, f.was = row.V, millis(row.V.LastActivity)
		return nil
	}
	f.c, f.isNew = new(conversation), true
	f.c.Page, f.c.Contact = f.e.Page, f.e.Contact
	t, _, err := store.GetJSON[tombstone](f.tx.Bucket(bucketErased), f.owner)
	f.c.ErasedBefore = t.Time
	return err
}

// save stores the conversation and updates its place in the order of activity.
func (f *fold) save() error {
	f.c.LastSeq, f.c.LastAt = f.e.Seq, projections.Clean(f.e.At)
	if f.e.Data.Object != "" {
		f.c.Object = f.e.Data.Object
	}
	if f.isNew {
		f.sum.Conversations++
		if err := f.tx.Bucket(bucketContacts).Put(f.owner, []byte(f.e.Contact)); err != nil {
			return fmt.Errorf("store contact: %w", err)
		}
	}
	if err := store.PutRow(f.tx.Bucket(bucketConversations), f.key, conversationRow{V: f.c}); err != nil {
		return err
	}
	now := millis(f.c.LastActivity)
	if now == f.was {
		return nil
	}
	activity := f.tx.Bucket(bucketActivity)
	if !f.isNew {
		f.room = appendActivityKey(f.room[:0], f.e.Page, f.e.Contact, f.was)
		if err := activity.Delete(f.room); err != nil {
			return fmt.Errorf("move conversation: %w", err)
		}
	}
	f.room = appendActivityKey(f.room[:0], f.e.Page, f.e.Contact, now)
	if err := activity.Put(f.room, f.key); err != nil {
		return fmt.Errorf("move conversation: %w", err)
	}
	return nil
}

// recordEvent records the event for its contact, so that an erasure finds it, and the
// place of the message that it created. The conversation must be saved after it.
func (f *fold) recordEvent() error {
	switch {
	case shareOf(f.sum) != (share{}):
		if err := f.recordShare(); err != nil {
			return err
		}
	case !f.placed:
		f.c.Recent = f.c.Recent.add(recentEvent{place: place{seq: f.e.Seq}})
	}
	if !f.c.Recent.full() {
		return nil
	}
	err := f.c.Recent.move(f.tx, f.key, f.owner)
	f.c.Recent, f.c.Indexed = nil, true
	return err
}

// skip counts and records an event that does not change the conversation.
func (f *fold) skip() error {
	if err := f.recordShare(); err != nil {
		return err
	}
	return count(f.tx, f.e.Page, f.sum, f.less)
}

// count adds to a page's counts, and subtracts from them.
func count(tx *store.Tx, page domain.PageID, more, less Counts) error {
	if more == (Counts{}) && less == (Counts{}) {
		return nil
	}
	key, bucket := pagePrefix(page), tx.Bucket(bucketCounts)
	counts, found, err := store.GetRow[countsRow](bucket, key)
	if err != nil {
		return err
	}
	if !found {
		counts.V = new(Counts)
	}
	counts.V.add(more)
	counts.V.subtract(less)
	return store.PutRow(bucket, key, counts)
}

// apply applies the event to the conversation and its messages, by type.
func (f *fold) apply() error {
	d := &f.e.Data
	switch f.e.Type {
	case domain.MessageReceived, domain.MessageEchoed:
		if d.Message == nil {
			return f.incomplete()
		}
		f.active()
		direction := In
		if f.e.Type == domain.MessageEchoed || d.Message.Echo {
			direction = Out
		}
		m := newMessage(&f.e, f.time, direction, d.Message)
		return f.addMessage(&m)
	case domain.PostbackReceived:
		if d.Postback == nil {
			return f.incomplete()
		}
		f.active()
		m := newPostback(&f.e, f.time, d.Postback)
		return f.addMessage(&m)
	case domain.MessageEdited:
		if d.Edit == nil || d.Edit.MID == "" {
			return f.incomplete()
		}
		if d.Edit.Text == nil {
			return nil // Instagram sends these for messages that nobody edited
		}
		f.active()
		return f.change(d.Edit.MID, change{Edit: &Edit{Num: d.Edit.Num, Text: *d.Edit.Text, Time: f.time}})
	case domain.MessageDeleted:
		if d.Message == nil || d.Message.MID == "" {
			return f.incomplete()
		}
		f.active()
		return f.change(d.Message.MID, change{Unsent: true})
	case domain.MessageReacted:
		if d.Reaction == nil || d.Reaction.MID == "" {
			return f.incomplete()
		}
		f.active()
		r := Reaction{Reaction: d.Reaction.Reaction, Emoji: d.Reaction.Emoji, Time: f.time, Seq: f.e.Seq}
		sender := cmp.Or(d.Sender, string(f.e.Contact))
		withdrawn := d.Reaction.Action == "unreact"
		return f.change(d.Reaction.MID, change{Reaction: &r, Sender: sender, Withdrawn: withdrawn})
	case domain.MessageDelivered:
		return f.delivered(d.Delivery)
	case domain.MessageRead:
		return f.read(d.Read)
	case domain.ThreadPassed, domain.ThreadTaken, domain.ThreadRequested, domain.ThreadRolesChanged:
		if d.Thread == nil {
			return f.incomplete()
		}
		f.active()
		f.thread(d.Thread)
	case domain.ReferralReceived:
		if d.Referral == nil {
			return f.incomplete()
		}
		f.active()
		if f.c.Referral == nil || f.newer(f.c.Referral.Time, f.c.RefSeq) {
			f.c.Referral, f.c.RefSeq = referral(d.Referral, f.time), f.e.Seq
		}
	case domain.OptinReceived:
		if d.Optin == nil {
			return f.incomplete()
		}
		f.active()
		if f.c.Optin == nil || f.newer(f.c.Optin.Time, f.c.OptinSeq) {
			optin := &Optin{Type: d.Optin.Type, Ref: d.Optin.Ref, Status: d.Optin.Status, Time: f.time}
			f.c.Optin, f.c.OptinSeq = optin, f.e.Seq
		}
	case domain.AccountLinked, domain.AccountUnlinked:
		f.active()
		if f.newer(f.c.AccountAt, f.c.AccountSeq) {
			f.c.Account, f.c.AccountAt, f.c.AccountSeq = f.e.Type.Verb(), f.time, f.e.Seq
		}
	case domain.ContactProfiled:
		if d.Profile == nil {
			return f.incomplete()
		}
		// Fields that Graph left out keep their values.
		if f.newer(f.c.ProfiledAt, f.c.ProfileSeq) {
			f.c.Name, f.c.Picture = cmp.Or(d.Profile.Name, f.c.Name), cmp.Or(d.Profile.Picture, f.c.Picture)
			f.c.ProfiledAt, f.c.ProfileSeq = f.time, f.e.Seq
		}
	default:
		// A kind without typed fields counts as activity as well.
		f.active()
	}
	return nil
}

// incomplete counts an event without its payload.
func (f *fold) incomplete() error {
	f.sum.Incomplete++
	return nil
}

// newer reports whether this event is not older than one with that time and sequence.
func (f *fold) newer(t time.Time, seq uint64) bool {
	return cmp.Or(f.time.Compare(t), cmp.Compare(f.e.Seq, seq)) >= 0
}

// active extends the conversation's time of activity to this event.
func (f *fold) active() {
	if f.c.FirstActivity.IsZero() || f.time.Before(f.c.FirstActivity) {
		f.c.FirstActivity = f.time
	}
	if f.time.After(f.c.LastActivity) {
		f.c.LastActivity = f.time
	}
}

// thread applies an event of the handover protocol.
func (f *fold) thread(t *domain.Thread) {
	if f.c.Thread == nil {
		f.c.Thread = &Thread{}
	}
	th := f.c.Thread
	switch f.e.Type {
	case domain.ThreadRequested:
		if f.newer(th.RequestedAt, f.c.RequestSeq) {
			th.Requester, th.RequestedAt, f.c.RequestSeq = t.Requester, f.time, f.e.Seq
		}
	case domain.ThreadRolesChanged:
		if f.newer(th.RolesAt, f.c.RolesSeq) {
			th.Roles, th.RolesAt, f.c.RolesSeq = t.Roles, f.time, f.e.Seq
		}
	default:
		if f.newer(th.Since, f.c.ThreadSeq) {
			th.Owner, th.Previous, th.Since, f.c.ThreadSeq = t.NewOwner, t.PreviousOwner, f.time, f.e.Seq
		}
	}
	// A request is open until the owner of the thread changes after it.
	if !th.RequestedAt.IsZero() && !th.RequestedAt.After(th.Since) {
		th.Requester, th.RequestedAt, f.c.RequestSeq = "", time.Time{}, 0
	}
}
