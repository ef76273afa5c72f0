package comments

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
)

// stamp is the time and the sequence of an event. The sequence of no event is 0.
type stamp struct {
	MS  int64  `json:"ms"`
	Seq uint64 `json:"seq"`
}

// set reports whether the stamp is that of an event.
func (s stamp) set() bool { return s.Seq != 0 }

// after reports whether s is newer than o.
func (s stamp) after(o stamp) bool {
	return cmp.Or(cmp.Compare(s.MS, o.MS), cmp.Compare(s.Seq, o.Seq)) > 0
}

// time returns the time of the event; zero if there is none.
func (s stamp) time() time.Time {
	if !s.set() {
		return time.Time{}
	}
	return projections.FromMillis(s.MS)
}

// newest keeps the newer of two stamps.
func (s *stamp) newest(o stamp) {
	if o.set() && (!s.set() || o.after(*s)) {
		*s = o
	}
}

// earliest keeps the older of two stamps.
func (s *stamp) earliest(o stamp) {
	if o.set() && (!s.set() || s.after(o)) {
		*s = o
	}
}

// register is a value and the event that set it: the newest one.
type register[T any] struct {
	At    stamp `json:"at"`
	Value T     `json:"value,omitzero"`
}

// put sets the value if it is newer.
func (r *register[T]) put(at stamp, value T) {
	if at.set() && (!r.At.set() || at.after(r.At)) {
		r.At, r.Value = at, value
	}
}

// where is the place of a comment.
type where struct {
	Post   string `json:"post,omitempty"`
	Parent string `json:"parent,omitempty"`
}

// putText sets the text if it is newer and not empty.
func putText(r *register[string], at stamp, text string) {
	if text != "" {
		r.put(at, text)
	}
}

// part is what the events of one person say about a comment or a post.
type part struct {
	// Contact is the person, empty for the page and for persons without a name. There
	// is one part for each.
	Contact domain.ContactID `json:"contact,omitempty"`
	Own     bool             `json:"own,omitempty"`
	Name    register[string] `json:"name,omitzero"`
	Object  string           `json:"object,omitempty"`
	Live    bool             `json:"live,omitempty"`
	// Where is the place that the earliest event names.
	Where register[where] `json:"where,omitzero"`
	// First is the earliest time of an event.
	First int64 `json:"first"`
	// Created is set if the person wrote it; Original is the text then.
	Created  stamp  `json:"created,omitzero"`
	Original string `json:"original,omitempty"`
	// Text is the newest text of a later event.
	Text        register[string]   `json:"text,omitzero"`
	Edited      stamp              `json:"edited,omitzero"`
	Edits       []register[string] `json:"edits,omitempty"`
	Item        register[string]   `json:"item,omitzero"`
	Photo       register[string]   `json:"photo,omitzero"`
	Video       register[string]   `json:"video,omitzero"`
	Link        register[string]   `json:"link,omitzero"`
	Attached    register[string]   `json:"attached,omitzero"`
	Photos      register[[]string] `json:"photos,omitzero"`
	Unpublished register[bool]     `json:"unpublished,omitzero"`
	Hidden      stamp              `json:"hidden,omitzero"`
	Unhidden    stamp              `json:"unhidden,omitzero"`
	Removed     stamp              `json:"removed,omitzero"`
	Events      []uint64           `json:"events"`
	Omitted     uint64             `json:"omitted,omitempty"`
	Fact        fact               `json:"fact,omitzero"`
}

// edit adds an edit, and drops the oldest one of too many.
func (p *part) edit(at stamp, text string) {
	e := register[string]{at, text}
	i, _ := slices.BinarySearchFunc(p.Edits, at, func(e register[string], at stamp) int {
		return cmp.Or(cmp.Compare(e.At.MS, at.MS), cmp.Compare(e.At.Seq, at.Seq))
	})
	p.Edits = slices.Insert(p.Edits, i, e)
	if n := len(p.Edits) - maxEdits; n > 0 {
		p.Edits = slices.Delete(p.Edits, 0, n)
	}
}

// clear deletes the content.
func (p *part) clear() {
	p.Original, p.Text, p.Edits = "", register[string]{}, nil
	p.Photo, p.Video, p.Link, p.Photos = register[string]{}, register[string]{}, register[string]{}, register[[]string]{}
}

// rank orders parts by how certain it is that their person is the author: the one who
// wrote it, then those who edited it, then persons before the page.
func (p *part) rank() int {
	switch {
	case p.Created.set():
		return 0
	case p.Edited.set():
		return 1
	case p.Contact != "":
		return 2
	}
	return 3
}

// merge adds the part of another person to what is shown. It must be called in the
// order of ranks.
func (p *part) merge(o *part) {
	p.Object, p.Live = cmp.Or(p.Object, o.Object), p.Live || o.Live
	if !p.Where.At.set() {
		p.Where = o.Where
	}
	p.First = min(p.First, o.First)
	if o.Created.set() && (!p.Created.set() || p.Created.after(o.Created)) {
		p.Created, p.Original = o.Created, o.Original
	}
	p.Text.put(o.Text.At, o.Text.Value)
	p.Edited.newest(o.Edited)
	for _, e := range o.Edits {
		p.edit(e.At, e.Value)
	}
	p.Item.put(o.Item.At, o.Item.Value)
	p.Photo.put(o.Photo.At, o.Photo.Value)
	p.Video.put(o.Video.At, o.Video.Value)
	p.Link.put(o.Link.At, o.Link.Value)
	p.Attached.put(o.Attached.At, o.Attached.Value)
	p.Photos.put(o.Photos.At, o.Photos.Value)
	p.Unpublished.put(o.Unpublished.At, o.Unpublished.Value)
	p.Hidden.newest(o.Hidden)
	p.Unhidden.newest(o.Unhidden)
	p.Removed.earliest(o.Removed)
	p.Events, p.Omitted = append(p.Events, o.Events...), p.Omitted+o.Omitted
}

// addEvent records the sequence of an event.
func (p *part) addEvent(seq uint64) {
	if len(p.Events) >= maxEvents {
		p.Omitted++
		return
	}
	p.Events = append(p.Events, seq)
}

// ms returns the time by which it is ordered.
func (p *part) ms() int64 {
	if p.Created.set() {
		return p.Created.MS
	}
	return p.First
}

// row is the stored row of a comment or a post. There is none without content: a part,
// a reaction, or, for a post, a comment.
type row struct {
	ID string `json:"id"`
	// Parts are ordered by contact.
	Parts     []part            `json:"parts,omitempty"`
	Reactions map[string]uint64 `json:"reactions,omitempty"`
	// Comments counts the comments of a post, FirstComment is the time of the first.
	Comments     Tally `json:"comments,omitzero"`
	FirstComment int64 `json:"first_comment,omitempty"`
}

// AppendBinary appends the row as JSON.
func (r *row) AppendBinary(b []byte) ([]byte, error) { return store.AppendJSON(b, r) }

// UnmarshalBinary reads the JSON of a row.
func (r *row) UnmarshalBinary(b []byte) error { return json.Unmarshal(b, r) }

// empty reports whether the row has no content.
func (r *row) empty() bool {
	return len(r.Parts) == 0 && len(r.Reactions) == 0 && r.Comments == (Tally{})
}

// find returns the index of a person's part, or where it belongs.
func (r *row) find(contact domain.ContactID) (int, bool) {
	return slices.BinarySearchFunc(r.Parts, contact, func(p part, c domain.ContactID) int {
		return cmp.Compare(p.Contact, c)
	})
}

// count adds n persons with a reaction.
func (r *row) count(reaction string, n int) {
	counts := make(map[string]uint64, len(r.Reactions)+1) // the old map may be shared
	for name, count := range r.Reactions {
		counts[name] = count
	}
	counts[reaction] += uint64(n)
	if counts[reaction] == 0 {
		delete(counts, reaction)
	}
	if len(counts) == 0 {
		counts = nil
	}
	r.Reactions = counts
}

// clear deletes the content of removed parts. See the package comment.
func (r *row) clear() {
	if len(r.Parts) == 0 {
		return
	}
	byPage := r.Parts[0].Contact == "" && r.Parts[0].Removed.set()
	for i := range r.Parts {
		if p := &r.Parts[i]; byPage || p.Removed.set() {
			p.clear()
		}
	}
}

// merged returns what is shown: the author's part, to which all others are added. There
// must be a part.
func (r *row) merged() part {
	if len(r.Parts) == 1 {
		return r.Parts[0]
	}
	order := make([]*part, len(r.Parts))
	for i := range r.Parts {
		order[i] = &r.Parts[i]
	}
	slices.SortStableFunc(order, func(a, b *part) int { return cmp.Compare(a.rank(), b.rank()) })
	m := *order[0]
	m.Edits, m.Events = slices.Clone(m.Edits), slices.Clone(m.Events)
	for _, p := range order[1:] {
		m.merge(p)
	}
	slices.Sort(m.Events)
	if n := len(m.Events) - maxEvents; n > 0 {
		m.Events, m.Omitted = m.Events[:maxEvents], m.Omitted+uint64(n)
	}
	return m
}

// commentState returns the state of a comment.
func (p *part) commentState() State {
	switch {
	case p.Removed.set():
		return Removed
	case p.Hidden.set() && p.Hidden.after(p.Unhidden):
		return Hidden
	}
	return Visible
}

// postState returns the state of a post that has a part.
func (p *part) postState() State {
	switch {
	case p.Removed.set():
		return Removed
	case p.Unpublished.Value:
		return Unpublished
	}
	return Visible
}

// author returns the author.
func (p *part) author() Author {
	return Author{Contact: p.Contact, Name: p.Name.Value, Own: p.Own}
}

// text returns the latest text, and the first one if it was edited.
func (p *part) text() (text, original string) {
	switch {
	case p.Removed.set():
		return "", ""
	case !p.Text.At.set():
		return p.Original, ""
	case len(p.Edits) > 0:
		return p.Text.Value, p.Original
	}
	return p.Text.Value, ""
}

// history returns what comments and posts have in common.
func (p *part) history(r *row) History {
	h := History{
		Time: projections.FromMillis(p.ms()), CreatedAt: p.Created.time(), EditedAt: p.Edited.time(),
		RemovedAt: p.Removed.time(), Reactions: r.Reactions, Events: p.Events, EventsOmitted: p.Omitted,
	}
	if !p.Removed.set() {
		for _, e := range p.Edits {
			h.Edits = append(h.Edits, Edit{e.At.time(), e.Value})
		}
	}
	return h
}

// comment returns the comment of a row that has a part.
func (r *row) comment(page domain.PageID) Comment {
	p := r.merged()
	c := Comment{
		Page: page, ID: r.ID, Object: p.Object, Post: p.Where.Value.Post, Parent: p.Where.Value.Parent, Author: p.author(),
		State: p.commentState(), Live: p.Live, HiddenAt: p.Hidden.time(), UnhiddenAt: p.Unhidden.time(),
		History: p.history(r),
	}
	if c.State != Removed {
		c.Text, c.Original = p.text()
		c.Photo, c.Video, c.Link = p.Photo.Value, p.Video.Value, p.Link.Value
	}
	return c
}

// post returns the post of a row.
func (r *row) post(page domain.PageID) Post {
	out := Post{Page: page, ID: r.ID, State: Unknown, Comments: r.Comments}
	if len(r.Parts) == 0 {
		out.History = History{Time: firstComment(r.FirstComment), Reactions: r.Reactions, Events: []uint64{}}
		return out
	}
	p := r.merged()
	out.Object, out.Item, out.Author, out.State = p.Object, p.Item.Value, p.author(), p.postState()
	out.Attached, out.History = p.Attached.Value, p.history(r)
	if out.State != Removed {
		out.Text, out.Original = p.text()
		out.Link, out.Photos = p.Link.Value, p.Photos.Value
	}
	return out
}

// place is what the indexes have of a row. The zero value is that of a row that is in
// no index.
type place struct {
	listed  bool
	ms      int64
	post    string
	contact domain.ContactID
	state   State
}

// place returns the place of a row of that kind.
func (r *row) place(kind byte) (at place) {
	if len(r.Parts) == 0 {
		if kind == aPost && !r.empty() {
			at = place{listed: true, ms: r.FirstComment}
		}
		return at
	}
	p := r.merged()
	at = place{listed: true, ms: p.ms()}
	if kind == aComment {
		at.post, at.contact, at.state = p.Where.Value.Post, p.Contact, p.commentState()
	}
	return at
}

// reactionNames are the reactions that Meta documents.
var reactionNames = []string{
	"like", "love", "care", "haha", "wow", "sad", "angry", "support", "thankful", "pride", "fire",
}

// reactionName returns the name by which a reaction is counted. The names are a closed
// list, so that a row has few of them.
func reactionName(s string) string {
	if s = strings.ToLower(s); slices.Contains(reactionNames, s) {
		return s
	}
	return "other"
}

// firstComment returns the time of a post that is only known by its comments; zero if it
// has only reactions.
func firstComment(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return projections.FromMillis(ms)
}
