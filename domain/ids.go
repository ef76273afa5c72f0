package domain

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// PageID identifies what owns a conversation on Meta's side: a Facebook Page
// id, or an Instagram account id where the delivery's object is "instagram".
// Real ones are decimal digits, up to 17 and more, so it is a string and never
// a number.
type PageID string

// NoPage is the page of events that belong to none: unreadable deliveries and
// the dashboard's Test button, whose entry id is "0".
const NoPage PageID = "0"

// ContactID identifies the person on the other side, scoped to one page: a
// PSID on Messenger, an IGSID on Instagram, or the user_ref of the checkbox
// plugin where Meta has no id yet. Empty where there is none.
type ContactID string

// maxToken bounds a page id used as a subject token.
const maxToken = 64

// Token returns the page id as one NATS subject token. An id of 1 to 64
// letters, digits, "_" and "-" is its own token; the empty id is [NoPage];
// anything else, which Meta is not known to send, becomes "x" and the first 32
// hex digits of its SHA-256, so that outside bytes can't form a subject.
func (p PageID) Token() string {
	if p == "" {
		return string(NoPage)
	}
	if len(p) <= maxToken && strings.IndexFunc(string(p), notTokenRune) < 0 {
		return string(p)
	}
	sum := sha256.Sum256([]byte(p))
	return "x" + hex.EncodeToString(sum[:16])
}

func notTokenRune(r rune) bool {
	switch {
	case r >= '0' && r <= '9', r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r == '_', r == '-':
		return false
	}
	return true
}

// maxDedupID bounds a dedup id in bytes; JetStream keeps each id of its window
// in memory.
const maxDedupID = 160

// DedupID builds the identity of an event, <object>:<entry.id>:<class>:<key>.
// Two deliveries of one fact have the same id, whenever they arrive.
//
// An id that is longer than 160 bytes, or has a byte that a header can't carry
// unchanged, is replaced by "sha256:" and the hash of the whole id: its length
// is then fixed.
func DedupID(object string, entry PageID, class, key string) string {
	id := object + ":" + string(entry) + ":" + class + ":" + key
	if len(id) <= maxDedupID && headerSafe(id) {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// headerSafe reports whether s survives as a header value: printable ASCII
// without spaces, which parsers trim.
func headerSafe(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
