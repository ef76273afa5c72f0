package domain

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// PageID identifies the owner of a conversation on Meta's side: a Facebook Page
// id, or an Instagram account id where the delivery's object is "instagram".
// Meta's ids are decimal numbers of 17 digits or more, too long for a float64,
// so an id is a string and never a number.
type PageID string

// NoPage is the page of events that belong to no page: unreadable deliveries and
// those of the dashboard's Test button, whose entry id is "0".
const NoPage PageID = "0"

// ContactID identifies the person on the other side, scoped to one page: a
// PSID on Messenger, an IGSID on Instagram, or the user_ref of the checkbox
// plugin where Meta has no id yet. It is empty where an event has no contact.
type ContactID string

// maxToken is the maximum length of a page id that is used as a subject token.
const maxToken = 64

// Token returns the page id as one NATS subject token. An id of 1 to 64
// letters, digits, "_" and "-" is returned unchanged, and the empty id as
// [NoPage]. Any other id, which Meta is not known to send, becomes "x" and the
// first 32 hex digits of its SHA-256, so that untrusted bytes can't form a
// subject.
func (p PageID) Token() string {
	if p == "" {
		return string(NoPage)
	}
	if len(p) <= maxToken && strings.IndexFunc(string(p), notInToken) < 0 {
		return string(p)
	}
	sum := sha256.Sum256([]byte(p))
	return "x" + hex.EncodeToString(sum[:16])
}

// notInToken reports whether r must not be part of a subject token.
func notInToken(r rune) bool {
	switch {
	case r >= '0' && r <= '9', r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r == '_', r == '-':
		return false
	}
	return true
}

// maxDedupID is the maximum length of a dedup id in bytes. JetStream keeps the
// ids of its deduplication window in memory.
const maxDedupID = 160

// DedupID builds the id of an event, <object>:<entry.id>:<class>:<key>. Two
// deliveries of the same fact have the same id, no matter when they arrive; an event with
// a [Data.Fact] may be an exception.
//
// An id that is longer than 160 bytes, or has a byte that a header can't carry
// unchanged, is replaced by "sha256:" and the hash of the whole id in hex, which
// has a fixed length.
func DedupID(object string, entry PageID, class, key string) string {
	return boundedID(object + ":" + string(entry) + ":" + class + ":" + key)
}

// ForeignID returns the id of an event of type [ForeignReceived] that the app delivered,
// and whose id would have been id.
func ForeignID(app, id string) string { return boundedID("foreign:" + app + ":" + id) }

// UnownedID returns the id of an event that the app delivered for a page that no app has
// connected, if several apps are configured. Otherwise one app could take the ids of
// another's events before the page is connected.
func UnownedID(app, id string) string { return boundedID("app:" + app + ":" + id) }

// boundedID returns id, or its hash if it is too long or can't be in a header.
func boundedID(id string) string {
	if len(id) <= maxDedupID && HeaderSafe(id) {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// HeaderSafe reports whether a NATS or HTTP header carries s unchanged: s is
// printable ASCII without spaces, which parsers trim.
func HeaderSafe(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
