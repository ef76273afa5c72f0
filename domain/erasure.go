package domain

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"
)

// Erasure is the record that a contact was erased. It holds nothing of the
// person: the contact by a hash, and of each event that was removed from the
// stream what the counts and the index of ids need.
type Erasure struct {
	// Contact is the contact's [ContactHash].
	Contact string `json:"contact"`
	// A long erasure is told in Parts events; Part counts from 1.
	Part   int    `json:"part"`
	Parts  int    `json:"parts"`
	Events []Tombstone `json:"events,omitempty"`
}

// Tombstone is what stays of an erased event.
type Tombstone struct {
	Seq uint64 `json:"seq"`
	// ID is the hash of the event's id: its [IDKey], in hex.
	ID   string `json:"id"`
	Type Type   `json:"type"`
	// At is when the stream stored it, Time its own time, in Unix milliseconds.
	// Time is 0 where it had none.
	At      int64  `json:"at"`
	Time    int64  `json:"time,omitempty"`
	Standby bool   `json:"standby,omitempty"`
	Object  string `json:"object,omitempty"`
	Source  string `json:"source,omitempty"`
	App     string `json:"app,omitempty"`
}

// idKeySize is how much of an id's hash is kept: with 2^40 ids two are alike
// with a chance of 2^-49.
const idKeySize = 16

// tombstoneID begins the id of an event made of a tombstone. No header can carry it.
const tombstoneID = "\x00"

// IDKey is what an event's id is looked up by: a hash, since ids can be long and
// carry message ids. An event made of a tombstone has that of the event it was.
func IDKey(id string) []byte {
	if rest, ok := strings.CutPrefix(id, tombstoneID); ok {
		if key, err := hex.DecodeString(rest); err == nil && len(key) == idKeySize {
			return key
		}
	}
	sum := sha256.Sum256([]byte(id))
	return sum[:idKeySize]
}

// ContactHash is what stays of an erased contact's id, in hex. Whoever has the
// id can tell that it is the one; ids are numbers, so to try them all is costly
// but not impossible.
func ContactHash(c ContactID) string {
	sum := sha256.Sum256([]byte("contact:" + string(c)))
	return hex.EncodeToString(sum[:16])
}

// NewTombstone is what stays of e, which the stream stored at that sequence and time.
func NewTombstone(e Event, seq uint64, at time.Time) Tombstone {
	h := Tombstone{
		Seq: seq, ID: hex.EncodeToString(IDKey(e.ID)), Type: e.Type, At: at.UnixMilli(), Standby: e.Standby,
		Object: e.Data.Object, Source: e.Data.Source, App: e.Data.App,
	}
	if !e.Time.IsZero() {
		h.Time = max(0, e.Time.UnixMilli())
	}
	return h
}

// Event is the event as far as it stays: without contact and content, with an id
// that has the same [IDKey].
func (h Tombstone) Event(page PageID) Event {
	e := Event{
		ID: tombstoneID + h.ID, Type: h.Type, Page: page, Standby: h.Standby,
		Data: Data{Object: h.Object, Source: h.Source, App: h.App},
	}
	if h.Time > 0 {
		e.Time = time.UnixMilli(h.Time).UTC()
	}
	return e
}
