package comments

import (
	"time"

	"github.com/pagestream/pagestream/domain"
)

// State is the state of a comment or a post.
type State string

// The states. A comment is visible, hidden or removed; a post is visible, unpublished,
// removed or unknown.
const (
	Visible State = "visible"
	// Hidden means that the page has hidden the comment: only its author sees it.
	Hidden  State = "hidden"
	Removed State = "removed"
	// Unpublished means that the post is not visible yet.
	Unpublished State = "unpublished"
	// Unknown means that only comments on the post or reactions to it are known.
	Unknown State = "unknown"
)

// Limits of one person's part of a row.
const (
	maxEvents = 64
	maxEdits  = 20
	maxPhotos = 50
)

// Author is who wrote a comment or a post.
type Author struct {
	// Contact is empty for the page itself, and where Meta does not name the person.
	Contact domain.ContactID `json:"contact,omitempty"`
	Name    string           `json:"name,omitempty"`
	// Own is set if the page itself is the author.
	Own bool `json:"own,omitempty"`
}

// History has what comments and posts have in common. Times are event times in UTC; a
// zero time means never or unknown.
type History struct {
	// Time is the time by which lists are ordered: CreatedAt, or the time of the first
	// event if that is unknown. It is zero for a post that has only reactions.
	Time      time.Time `json:"time,omitzero"`
	CreatedAt time.Time `json:"created_at,omitzero"`
	EditedAt  time.Time `json:"edited_at,omitzero"`
	RemovedAt time.Time `json:"removed_at,omitzero"`
	// Edits has the newest 20 edits, in order of their times.
	Edits []Edit `json:"edits,omitempty"`
	// Reactions has the number of persons by reaction. Reactions that Meta does not
	// document are counted together as "other".
	Reactions map[string]uint64 `json:"reactions,omitempty"`
	// Events has the sequences of the first 64 events that created or changed it,
	// without reactions. EventsOmitted counts the others.
	Events        []uint64 `json:"events"`
	EventsOmitted uint64   `json:"events_omitted,omitempty"`
}

// Edit is one edit.
type Edit struct {
	Time time.Time `json:"time"`
	Text string    `json:"text"`
}

// Comment is one comment with its later changes.
type Comment struct {
	Page domain.PageID `json:"page"`
	ID   string        `json:"id"`
	// Object is "page" or "instagram".
	Object string `json:"object,omitempty"`
	Post   string `json:"post,omitempty"`
	// Parent is the comment that it answers; empty for a comment on the post itself.
	// There may be no such row.
	Parent string `json:"parent,omitempty"`
	Author
	State State `json:"state"`
	// Text is the latest text, Original the first one if it was edited. A removed
	// comment has none.
	Text     string `json:"text,omitempty"`
	Original string `json:"original,omitempty"`
	Photo    string `json:"photo,omitempty"`
	Video    string `json:"video,omitempty"`
	Link     string `json:"link,omitempty"`
	// Live marks a comment on a live video of Instagram.
	Live bool `json:"live,omitempty"`
	// HiddenAt and UnhiddenAt are the times of the last hiding and of its last undoing.
	HiddenAt   time.Time `json:"hidden_at,omitzero"`
	UnhiddenAt time.Time `json:"unhidden_at,omitzero"`
	History
}

// Post is one post with its later changes and the counts of its comments.
type Post struct {
	Page   domain.PageID `json:"page"`
	ID     string        `json:"id"`
	Object string        `json:"object,omitempty"`
	// Item is Meta's kind of post: status, photo, video, share, …
	Item string `json:"item,omitempty"`
	Author
	State State `json:"state"`
	// Text is the latest text, Original the first one if it was edited. A removed post
	// has none.
	Text     string   `json:"text,omitempty"`
	Original string   `json:"original,omitempty"`
	Link     string   `json:"link,omitempty"`
	Photos   []string `json:"photos,omitempty"`
	// Attached is the id of the photo, video, album, share or event that was posted.
	Attached string `json:"attached,omitempty"`
	// Comments counts the post's comments by state.
	Comments Tally `json:"comments"`
	History
}

// Tally counts comments by state.
type Tally struct {
	Visible uint64 `json:"visible"`
	Hidden  uint64 `json:"hidden"`
	Removed uint64 `json:"removed"`
}

// Sum returns the number of all comments.
func (t Tally) Sum() uint64 { return t.Visible + t.Hidden + t.Removed }

// of returns the count of a state.
func (t *Tally) of(s State) *uint64 {
	switch s {
	case Hidden:
		return &t.Hidden
	case Removed:
		return &t.Removed
	}
	return &t.Visible
}

// Counts has the counts of one page, or their sums for all pages.
type Counts struct {
	Posts    uint64 `json:"posts"`
	Comments Tally  `json:"comments"`
	// Reactions counts reactions to posts and comments that were not removed.
	Reactions uint64 `json:"reactions"`
	// Erased counts erasures.
	Erased uint64 `json:"erased"`
}

// add adds the counts of another page.
func (c *Counts) add(o Counts) {
	c.Posts += o.Posts
	c.Comments.Visible += o.Comments.Visible
	c.Comments.Hidden += o.Comments.Hidden
	c.Comments.Removed += o.Comments.Removed
	c.Reactions += o.Reactions
	c.Erased += o.Erased
}
