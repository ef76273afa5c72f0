package comments

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// fold applies one event.
type fold struct {
	tx   *store.Tx
	e    streams.Stored
	page domain.PageID
	at   stamp
	// fact is the event's [domain.Data.Fact], if it is one.
	fact fact
}

// fact is [domain.Data.Fact] of the last event about a row by a person, and the time of
// that event.
type fact struct {
	Hash string `json:"hash,omitempty"`
	MS   int64  `json:"ms,omitempty"`
}

// repeats reports whether the event has the fact of the last one: the same delivery,
// sent again with another entry.time.
func (f fact) repeats(last fact) bool {
	return f.Hash != "" && f.Hash == last.Hash &&
		max(f.MS-last.MS, last.MS-f.MS) <= domain.RedeliveryWindow.Milliseconds()
}

// newFold returns the fold of an event that has a page.
func newFold(tx *store.Tx, e streams.Stored) *fold {
	f := &fold{tx: tx, e: e, page: e.Page, at: stamp{millis(projections.When(e)), e.Seq}}
	if e.Data.Fact != "" && utf8.ValidString(e.Data.Fact) {
		f.fact = fact{e.Data.Fact, f.at.MS}
	}
	return f
}

// valid returns an id as it is after it was stored as JSON.
func valid(id string) string { return strings.ToValidUTF8(id, "\ufffd") }

// personOf returns a contact as it is after it was stored as JSON. Two contacts never
// become one.
func personOf(c domain.ContactID) domain.ContactID {
	if utf8.ValidString(string(c)) {
		return c
	}
	return domain.ContactID("sha256:" + domain.ContactHash(c))
}

// millis returns a time in Unix milliseconds, 0 for the zero time.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// erased reports whether the event is not newer than an erasure of its person.
func (f *fold) erased(person domain.ContactID) (bool, error) {
	bucket := f.tx.Bucket(bucketErased)
	if person == "" {
		return false, nil
	}
	t, found, err := store.GetJSON[tombstone](bucket, ownerPrefix(f.page, person))
	return found && f.at.MS <= millis(t.Time), err
}

// change applies the event to its person's part of a row.
func (f *fold) change(to target, from domain.Person, apply func(*part)) error {
	if skip, err := f.erased(f.e.Contact); skip || err != nil {
		return err
	}
	isNew, person := false, personOf(f.e.Contact)
	err := f.update(to, func(r *row) (changed bool) {
		i, found := r.find(person)
		if !found {
			isNew = true
			r.Parts = slices.Insert(slices.Clip(r.Parts), i, part{Contact: person, First: f.at.MS})
		}
		p := &r.Parts[i]
		if f.fact.repeats(p.Fact) {
			return false
		}
		p.Fact = f.fact
		p.First = min(p.First, f.at.MS)
		p.Object = cmp.Or(f.e.Data.Object, p.Object)
		// The page may hide what a person without a name wrote: both have this part.
		if f.writes() {
			p.Own = p.Own || from.ID != "" && from.ID == string(f.page)
		}
		if f.writes() || person != "" {
			putText(&p.Name, f.at, from.Name)
		}
		apply(p)
		p.addEvent(f.e.Seq)
		r.clear()
		return true
	})
	if err != nil || !isNew || f.e.Contact == "" {
		return err
	}
	key := append(ownerPrefix(f.page, f.e.Contact), to.tail()...)
	if err := f.tx.Bucket(bucketParts).Put(key, []byte(person)); err != nil {
		return fmt.Errorf("record part: %w", err)
	}
	return nil
}

// writes reports whether the person of the event is the author.
func (f *fold) writes() bool {
	switch f.e.Type {
	case domain.CommentReceived, domain.CommentEdited, domain.PostPublished, domain.PostEdited:
		return true
	}
	return false
}

// comment applies an event about a comment.
func (f *fold) comment(p *part, c *domain.Comment) {
	p.Live = p.Live || c.Live
	at := where{valid(c.Post), valid(c.Parent)}
	if at != (where{}) && (!p.Where.At.set() || p.Where.At.after(f.at)) {
		p.Where = register[where]{f.at, at}
	}
	switch f.e.Type {
	case domain.CommentRemoved:
		p.Removed.earliest(f.at)
		return // its text is that of before
	case domain.CommentReceived:
		f.create(p, c.Text)
	case domain.CommentEdited:
		f.edit(p, c.Text)
	case domain.CommentHidden:
		p.Hidden.newest(f.at)
		f.text(p, c.Text)
	case domain.CommentUnhidden:
		p.Unhidden.newest(f.at)
		f.text(p, c.Text)
	}
	putText(&p.Photo, f.at, c.Photo)
	putText(&p.Video, f.at, c.Video)
	putText(&p.Link, f.at, c.Link)
}

// post applies an event about a post.
func (f *fold) post(p *part, c *domain.Post) {
	putText(&p.Item, f.at, c.Item)
	switch f.e.Type {
	case domain.PostRemoved:
		p.Removed.earliest(f.at)
		return
	case domain.PostPublished:
		f.create(p, c.Text)
	case domain.PostEdited:
		f.edit(p, c.Text)
	}
	p.Unpublished.put(f.at, c.Unpublished)
	putText(&p.Link, f.at, c.Link)
	putText(&p.Attached, f.at, c.Object)
	if len(c.Photos) > 0 {
		p.Photos.put(f.at, slices.Clone(c.Photos[:min(len(c.Photos), maxPhotos)]))
	}
}

// create sets the first text. Of two, it is the one that is older.
func (f *fold) create(p *part, text *string) {
	was := p.Created
	if p.Created.earliest(f.at); p.Created == was {
		return
	}
	p.Original = ""
	if text != nil {
		p.Original = *text
	}
}

// edit applies an edit, which may have no text.
func (f *fold) edit(p *part, text *string) {
	p.Edited.newest(f.at)
	if text != nil {
		p.edit(f.at, *text)
	}
	f.text(p, text)
}

// text sets the latest text, if there is one.
func (f *fold) text(p *part, text *string) {
	if text != nil {
		p.Text.put(f.at, *text)
	}
}

// update changes a row, the indexes and the counts that follow from it. The function
// change reports whether it has changed the row.
func (f *fold) update(to target, change func(*row) (changed bool)) error {
	bucket, key := f.tx.Bucket(to.bucket()), to.row(f.page)
	r, found, err := store.GetRow[row](bucket, key)
	if err != nil {
		return err
	}
	if !found {
		r.ID = to.id
	}
	was := r.place(to.kind)
	if !change(&r) {
		return nil
	}
	is := r.place(to.kind)
	switch {
	case !r.empty():
		err = store.PutRow(bucket, key, r)
	case found:
		err = bucket.Delete(key)
	}
	if err != nil {
		return fmt.Errorf("update row: %w", err)
	}
	if was == is {
		return nil
	}
	if to.kind == aPost {
		return f.movePost(to, was, is)
	}
	return f.moveComment(to, was, is)
}

// movePost moves a post in the index of posts.
func (f *fold) movePost(to target, was, is place) error {
	key := func(p place) []byte { return append(appendTime(pagePrefix(f.page), p.ms), to.key...) }
	if err := f.move(bucketFeed, was.listed, is.listed, key(was), key(is), nil); err != nil {
		return err
	}
	return f.count(func(c *Counts) {
		if was.listed {
			c.Posts--
		}
		if is.listed {
			c.Posts++
		}
	})
}

// moveComment moves a comment in the indexes of comments, and counts it for its post.
func (f *fold) moveComment(to target, was, is place) error {
	key := func(prefix []byte, p place) []byte { return append(appendTime(prefix, p.ms), to.key...) }
	order := func(p place) []byte { return key(pagePrefix(f.page), p) }
	thread := func(p place) []byte { return key(threadPrefix(f.page, p.post), p) }
	author := func(p place) []byte { return key(ownerPrefix(f.page, p.contact), p) }
	state := []byte(is.state[:min(1, len(is.state))])
	err := f.move(bucketOrder, was.listed, is.listed, order(was), order(is), state)
	if err == nil && (was.post != "" || is.post != "") {
		err = f.move(bucketThreads, was.post != "", is.post != "", thread(was), thread(is), state)
	}
	if err == nil && (was.contact != "" || is.contact != "") {
		err = f.move(bucketAuthors, was.contact != "", is.contact != "", author(was), author(is), state)
	}
	if err != nil {
		return err
	}
	if was.post == is.post {
		err = f.tally(is.post, &was, &is)
	} else {
		err = cmp.Or(f.tally(was.post, &was, &place{}), f.tally(is.post, &place{}, &is))
	}
	if err != nil {
		return err
	}
	return f.count(func(c *Counts) {
		if was.listed {
			*c.Comments.of(was.state)--
		}
		if is.listed {
			*c.Comments.of(is.state)++
		}
	})
}

// move moves an entry of an index.
func (f *fold) move(name string, had, has bool, was, is, value []byte) error {
	bucket := f.tx.Bucket(name)
	if had && (!has || string(was) != string(is)) {
		if err := bucket.Delete(was); err != nil {
			return fmt.Errorf("move in %s: %w", name, err)
		}
	}
	if has {
		if err := bucket.Put(is, value); err != nil {
			return fmt.Errorf("move in %s: %w", name, err)
		}
	}
	return nil
}

// tally counts a comment for its post. The indexes must have its new place.
func (f *fold) tally(post string, was, is *place) error {
	if post == "" || was.listed == is.listed && was.state == is.state && was.ms == is.ms {
		return nil
	}
	return f.update(targetOf(aPost, post), func(r *row) bool {
		if was.listed {
			*r.Comments.of(was.state)--
		}
		first := r.Comments == Tally{}
		if is.listed {
			*r.Comments.of(is.state)++
		}
		switch {
		case is.listed && (first || is.ms <= r.FirstComment):
			r.FirstComment = is.ms
		case was.listed && was.ms == r.FirstComment:
			r.FirstComment = f.firstComment(post)
		}
		return true
	})
}

// firstComment returns the time of the first comment of a post, 0 if there is none.
func (f *fold) firstComment(post string) (ms int64) {
	prefix := threadPrefix(f.page, post)
	_ = f.tx.Bucket(bucketThreads).ForEachPrefix(prefix, func(k, _ []byte) error {
		ms = int64(store.ToUint64(k[len(prefix) : len(prefix)+timeSize]))
		return store.Stop
	})
	return ms
}

// reaction is the row of one person's reaction. It remains after its removal, so that
// an older reaction that arrives later is not counted.
type reaction struct {
	At      stamp  `json:"at"`
	Name    string `json:"name,omitempty"`
	Removed bool   `json:"removed,omitempty"`
	Fact    fact   `json:"fact,omitzero"`
}

// AppendBinary appends the row as JSON.
func (r *reaction) AppendBinary(b []byte) ([]byte, error) { return store.AppendJSON(b, r) }

// UnmarshalBinary reads the JSON of a row.
func (r *reaction) UnmarshalBinary(b []byte) error { return json.Unmarshal(b, r) }

// react applies an event about a reaction to a comment or a post.
func (f *fold) react(d *domain.PostReaction) error {
	person, to := cmp.Or(f.e.Contact, domain.ContactID(d.From.ID)), target{}
	switch {
	case person == "":
		return nil // nobody could remove it
	case d.Comment != "":
		to = targetOf(aComment, d.Comment)
	case d.Post != "":
		to = targetOf(aPost, d.Post)
	default:
		return nil // to the page itself
	}
	if skip, err := f.erased(person); skip || err != nil {
		return err
	}
	bucket, key := f.tx.Bucket(bucketReactions), append(ownerPrefix(f.page, person), to.tail()...)
	old, found, err := store.GetRow[reaction](bucket, key)
	if err != nil || f.fact.repeats(old.Fact) || found && old.At.after(f.at) {
		return err
	}
	r := reaction{At: f.at, Fact: f.fact, Removed: f.e.Type == domain.ReactionRemoved}
	if !r.Removed {
		r.Name = reactionName(d.Reaction)
	}
	if err := store.PutRow(bucket, key, r); err != nil {
		return err
	}
	return f.recount(to, old.Name, r.Name)
}

// recount replaces a reaction in the counts of a row and of the page. An empty name is
// no reaction.
func (f *fold) recount(to target, was, is string) error {
	if was == is {
		return nil
	}
	err := f.update(to, func(r *row) bool {
		if was != "" {
			r.count(was, -1)
		}
		if is != "" {
			r.count(is, 1)
		}
		return true
	})
	if err != nil || was != "" && is != "" {
		return err
	}
	return f.count(func(c *Counts) {
		if was != "" {
			c.Reactions--
		} else {
			c.Reactions++
		}
	})
}

// counts is the stored row of [Counts].
type counts struct{ Counts }

// AppendBinary appends the row as JSON.
func (c *counts) AppendBinary(b []byte) ([]byte, error) { return store.AppendJSON(b, c) }

// UnmarshalBinary reads the JSON of a row.
func (c *counts) UnmarshalBinary(b []byte) error { return json.Unmarshal(b, c) }

// count changes the counts of the page.
func (f *fold) count(change func(*Counts)) error {
	bucket, key := f.tx.Bucket(bucketCounts), pagePrefix(f.page)
	c, _, err := store.GetRow[counts](bucket, key)
	if err != nil {
		return err
	}
	change(&c.Counts)
	if c == (counts{}) {
		return bucket.Delete(key)
	}
	return store.PutRow(bucket, key, c)
}
