package conversations

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// Bounds of what waits for a message that is not here.
const (
	// maxPendingMID bounds what waits for one mid; what comes after is dropped.
	maxPendingMID = 100
	// maxPending bounds what waits in one conversation; the oldest is dropped.
	// A page that does not subscribe to echoes gets receipts for messages that
	// never come.
	maxPending = 256
	// chunk is how many rows a scan holds in memory while it changes them, and
	// chunkBytes how much of them; one row may be more.
	chunk      = 256
	chunkBytes = 1 << 20
)

// Projection folds events into conversations and messages. It has no state of
// its own; the transaction has all of it.
type Projection struct{}

// New returns the projection.
func New() *Projection { return &Projection{} }

// Name returns "conversations".
func (*Projection) Name() string { return "conversations" }

// Version changes when the fold or its layout does, and then the read model is
// rebuilt.
func (*Projection) Version() int { return 4 }

// Apply folds one event in. It never fails on what an event says: what lacks
// its payload is counted and passed over. Errors are the store's.
//
// Events must come in stream order and each once; the messages they make do not
// depend on that order (see the package comment).
func (*Projection) Apply(tx *store.Tx, e streams.Stored) error {
	if e.Data.Test || e.Page == "" || e.Page == domain.NoPage {
		return nil
	}
	if e.Type == domain.ContactErased {
		return erase(tx, e)
	}
	if e.Contact == "" {
		return nil
	}
	f := &fold{tx: tx, e: e, time: projections.When(e), key: conversationKey(e.Page, e.Contact), owner: erasedKey(e.Page, e.Contact)}
	switch e.Type.Noun() {
	case "page", "subscription":
		return nil
	case "change":
		return f.aside()
	}
	if err := f.load(); err != nil {
		return err
	}
	if !f.c.ErasedBefore.IsZero() && !f.time.After(f.c.ErasedBefore) {
		f.sum.AfterErasure++
		return f.aside()
	}
	if e.Type == domain.ContactProfiled && f.fresh {
		// The person was erased, or never wrote: a name alone is not kept.
		f.sum.Odd++
		return f.aside()
	}
	if err := f.apply(); err != nil {
		return err
	}
	if err := f.remember(); err != nil {
		return err
	}
	if err := f.save(); err != nil {
		return err
	}
	return count(tx, e.Page, f.sum, f.less)
}

// fold is the work on one event.
type fold struct {
	tx   *store.Tx
	e    streams.Stored
	time time.Time
	key  []byte // of the conversation
	// owner is the key by which an erasure finds it.
	owner []byte

	c     conversation
	fresh bool // the conversation was not stored before
	was   int64
	// placed says that the event made a message, which Recent has already.
	placed bool
	// sum is what this event adds to the page's counts; less is what it takes.
	sum, less Counts
}

func (f *fold) load() error {
	f.was = -1
	c, found, err := store.GetRow[conversation](f.tx.Bucket(bucketConversations), f.key)
	if err != nil {
		return err
	}
	if found {
		f.c, f.was = c, millis(c.LastActivity)
		return nil
	}
	f.fresh = true
	f.c.Page, f.c.Contact = f.e.Page, f.e.Contact
	t, _, err := store.GetJSON[tombstone](f.tx.Bucket(bucketErased), f.owner)
	f.c.ErasedBefore = t.Time
	return err
}

// save stores the conversation and moves it in the order of activity.
func (f *fold) save() error {
	f.c.LastSeq, f.c.LastAt = f.e.Seq, projections.Clean(f.e.At)
	if f.e.Data.Object != "" {
		f.c.Object = f.e.Data.Object
	}
	if f.fresh {
		f.sum.Conversations++
		if err := f.tx.Bucket(bucketContacts).Put(f.owner, []byte(f.e.Contact)); err != nil {
			return fmt.Errorf("store contact: %w", err)
		}
	}
	if err := store.PutRow(f.tx.Bucket(bucketConversations), f.key, f.c); err != nil {
		return err
	}
	now := millis(f.c.LastActivity)
	if now == f.was {
		return nil
	}
	activity := f.tx.Bucket(bucketActivity)
	if !f.fresh {
		if err := activity.Delete(activityKey(f.e.Page, f.e.Contact, f.was)); err != nil {
			return fmt.Errorf("move conversation: %w", err)
		}
	}
	if err := activity.Put(activityKey(f.e.Page, f.e.Contact, now), f.key); err != nil {
		return fmt.Errorf("move conversation: %w", err)
	}
	return nil
}

// remember notes the event as one of its contact, so that an erasure finds it,
// and where the message is that it made. The conversation is saved after it.
func (f *fold) remember() error {
	switch {
	case shareOf(f.sum) != (share{}):
		if err := f.rememberShare(); err != nil {
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

// aside counts and remembers an event that leaves the conversation as it is.
func (f *fold) aside() error {
	if err := f.rememberShare(); err != nil {
		return err
	}
	return count(f.tx, f.e.Page, f.sum, f.less)
}

// count changes a page's counts.
func count(tx *store.Tx, page domain.PageID, more, less Counts) error {
	if more == (Counts{}) && less == (Counts{}) {
		return nil
	}
	key, bucket := pagePrefix(page), tx.Bucket(bucketCounts)
	counts, _, err := store.GetRow[Counts](bucket, key)
	if err != nil {
		return err
	}
	counts.add(more)
	counts.subtract(less)
	return store.PutRow(bucket, key, counts)
}

func (f *fold) apply() error {
	d := f.e.Data
	switch f.e.Type {
	case domain.MessageReceived, domain.MessageEchoed:
		if d.Message == nil {
			return f.odd()
		}
		f.active()
		direction := In
		if f.e.Type == domain.MessageEchoed || d.Message.Echo {
			direction = Out
		}
		return f.arrive(newMessage(f.e, direction, d.Message))
	case domain.PostbackReceived:
		if d.Postback == nil {
			return f.odd()
		}
		f.active()
		return f.arrive(newPostback(f.e, d.Postback))
	case domain.MessageEdited:
		if d.Edit == nil || d.Edit.MID == "" {
			return f.odd()
		}
		f.active()
		return f.change(d.Edit.MID, change{Edit: &Edit{Num: d.Edit.Num, Text: d.Edit.Text, Time: f.time}})
	case domain.MessageDeleted:
		if d.Message == nil || d.Message.MID == "" {
			return f.odd()
		}
		f.active()
		return f.change(d.Message.MID, change{Unsent: true})
	case domain.MessageReacted:
		if d.Reaction == nil || d.Reaction.MID == "" {
			return f.odd()
		}
		f.active()
		r := Reaction{Reaction: d.Reaction.Reaction, Emoji: d.Reaction.Emoji, Time: f.time, Seq: f.e.Seq}
		return f.change(d.Reaction.MID, change{Reaction: &r, Sender: cmp.Or(d.Sender, string(f.e.Contact)), Withdrawn: d.Reaction.Action == "unreact"})
	case domain.MessageDelivered:
		return f.delivered(d.Delivery)
	case domain.MessageRead:
		return f.read(d.Read)
	case domain.ThreadPassed, domain.ThreadTaken, domain.ThreadRequested, domain.ThreadRolesChanged:
		if d.Thread == nil {
			return f.odd()
		}
		f.active()
		f.thread(d.Thread)
	case domain.ReferralReceived:
		if d.Referral == nil {
			return f.odd()
		}
		f.active()
		if f.c.Referral == nil || f.newer(f.c.Referral.Time, f.c.RefSeq) {
			f.c.Referral, f.c.RefSeq = referral(d.Referral, f.time), f.e.Seq
		}
	case domain.OptinReceived:
		if d.Optin == nil {
			return f.odd()
		}
		f.active()
		if f.c.Optin == nil || f.newer(f.c.Optin.Time, f.c.OptinSeq) {
			f.c.Optin, f.c.OptinSeq = &Optin{Type: d.Optin.Type, Ref: d.Optin.Ref, Status: d.Optin.Status, Time: f.time}, f.e.Seq
		}
	case domain.AccountLinked, domain.AccountUnlinked:
		f.active()
		if f.newer(f.c.AccountAt, f.c.AccountSeq) {
			f.c.Account, f.c.AccountAt, f.c.AccountSeq = f.e.Type.Verb(), f.time, f.e.Seq
		}
	case domain.ContactProfiled:
		if d.Profile == nil {
			return f.odd()
		}
		// What Graph left out stays as it was known.
		if f.newer(f.c.ProfiledAt, f.c.ProfileSeq) {
			f.c.Name, f.c.Picture = cmp.Or(d.Profile.Name, f.c.Name), cmp.Or(d.Profile.Picture, f.c.Picture)
			f.c.ProfiledAt, f.c.ProfileSeq = f.time, f.e.Seq
		}
	default:
		// A kind without a typed form is still something that happened here.
		f.active()
	}
	return nil
}

// odd counts an event that lacks its payload.
func (f *fold) odd() error {
	f.sum.Odd++
	return nil
}

// newer reports whether this event comes after one of that time and sequence.
func (f *fold) newer(t time.Time, seq uint64) bool {
	return cmp.Or(f.time.Compare(t), cmp.Compare(f.e.Seq, seq)) >= 0
}

// active widens the conversation's span of activity.
func (f *fold) active() {
	if f.c.FirstActivity.IsZero() || f.time.Before(f.c.FirstActivity) {
		f.c.FirstActivity = f.time
	}
	if f.time.After(f.c.LastActivity) {
		f.c.LastActivity = f.time
	}
}

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
	// A request is open until the thread changes hands after it.
	if !th.RequestedAt.IsZero() && !th.RequestedAt.After(th.Since) {
		th.Requester, th.RequestedAt, f.c.RequestSeq = "", time.Time{}, 0
	}
}

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
	if err != nil || first == nil || first.ID == m.ID {
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

// cover gives a message of the page the receipts that came before it.
func (f *fold) cover(m *message) error {
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

func (f *fold) delivered(d *domain.Delivery) error {
	if d == nil || d.Watermark <= 0 && len(d.MIDs) == 0 {
		return f.odd()
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

func (f *fold) read(r *domain.Read) error {
	if r == nil || r.Watermark <= 0 && r.MID == "" {
		return f.odd()
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

// receipt marks the messages that a receipt covers, and only those that an
// earlier one did not.
func (f *fold) receipt(kind receiptKind, r receipt) error {
	bucket, key := f.tx.Bucket(bucketReceipts), f.receiptsKey(kind)
	next, after, fresh := decodeReceipts(bucket.Get(key)).add(r)
	if !fresh {
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
		m.note(f.e.Seq)
		return true
	})
}

// scan calls fn for the conversation's messages of times in (after, upto], in
// order, and stores those for which fn says that it changed them. It holds one chunk
// of their places in memory.
func (f *fold) scan(after, upto int64, fn func(m *message) (changed bool)) error {
	from, to := place{ms: after + 1}, place{ms: upto + 1}
	for {
		list, err := places(f.tx, &f.c, f.key, from, to, chunk, false)
		if err != nil {
			return err
		}
		for _, at := range list {
			m, err := messageAt(f.tx, at)
			if err != nil {
				return err
			}
			if m == nil {
				return errMissing
			}
			if !fn(m) {
				continue
			}
			if err := f.put(at, m); err != nil {
				return err
			}
		}
		if len(list) < chunk {
			return nil
		}
		from = list[len(list)-1].next()
	}
}

// errMissing says that a message is listed and not there.
var errMissing = fmt.Errorf("message of an index entry is missing: %w", store.ErrCorrupt)

// row is a copy of one stored row.
type row struct{ key, value []byte }

// take copies the first rows in [from, end), one chunk, and reports whether
// there are more.
func take(bucket *store.Bucket, from, end []byte) (rows []row, more bool) {
	size := 0
	c := bucket.Cursor()
	for k, v := c.Seek(from); k != nil && bytes.Compare(k, end) < 0; k, v = c.Next() {
		if len(rows) == chunk || size >= chunkBytes {
			return rows, true
		}
		rows = append(rows, row{bytes.Clone(k), bytes.Clone(v)})
		size += len(v)
	}
	return rows, false
}

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
	if err != nil || m == nil {
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

// millis is a time in Unix milliseconds; 0 for never.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// decode reads a row that a cursor gave; its errors never quote it.
func decode(b []byte, v any, what string) error {
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("read %s of %d bytes: %w", what, len(b), store.ErrCorrupt)
	}
	return nil
}

// unpack is decode for a packed row.
func unpack(b []byte, row store.Row, what string) error {
	if err := row.UnmarshalBinary(b); err != nil {
		return fmt.Errorf("read %s of %d bytes: %w", what, len(b), store.ErrCorrupt)
	}
	return nil
}
