package meta

import (
	"time"

	"github.com/pagestream/pagestream/domain"
)

// Erasure is a line of the erasures file: an erasure that has to be repeated in an
// installation that is restored from an older backup. It has no id of a person.
type Erasure struct {
	// Time is when the erasure was asked for, before it was recorded in the stream.
	Time time.Time `json:"time"`
	// Page and Contact are those of an erased contact: Contact is the contact's
	// [domain.ContactHash].
	Page    domain.PageID `json:"page,omitempty"`
	Contact string        `json:"contact,omitempty"`
	// Admin is set instead if the data of a person who connected pages were erased.
	Admin *AdminErasure `json:"admin,omitempty"`
}

// AdminErasure selects the data of a person who connected pages through one app.
type AdminErasure struct {
	// Hash is the person's [domain.AdminHash].
	Hash string `json:"hash"`
	// Before is when the person asked for it: what they have connected since is kept.
	Before time.Time `json:"before"`
	// Request identifies the request. It says nothing about the person.
	Request string `json:"request"`
}

// AdminErased is what the erasure of a person's data has done so far.
type AdminErased struct {
	// Pages is the number of pages that the person had connected, Events that of the
	// events which had their id, Secrets that of the erased page tokens.
	Pages, Events, Secrets int
	// At is when the last part was recorded, zero if there was nothing to erase.
	At time.Time
	// Open is the number of recorded events that are not deleted yet.
	Open int
}
