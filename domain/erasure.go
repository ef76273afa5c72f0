package domain

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"
)

// Erasure is the record that a contact was erased, or the id of a person who connected
// the page. It has no personal data: a contact is stored as a hash, and each event that
// was removed from the stream as a [Tombstone] with what the counters and the index of
// ids need.
type Erasure struct {
	// Contact is the contact's [ContactHash]. It is empty in a [PageAdminErased] event.
	Contact string `json:"contact"`
	// Request identifies the request for the deletion of a person's data that a
	// [PageAdminErased] event is about. It says nothing about the person.
	Request string `json:"request,omitempty"`
	// A long erasure is split over Parts events; Part counts from 1.
	Part   int         `json:"part"`
	Parts  int         `json:"parts"`
	Events []Tombstone `json:"events,omitempty"`
}

// Tombstone is what remains of an erased event.
type Tombstone struct {
	// Seq is the event's sequence in the stream.
	Seq uint64 `json:"seq"`
	// ID is the hash of the event's id: its [IDKey], in hex.
	ID   string `json:"id"`
	Type Type   `json:"type"`
	// At is when the stream stored the event, Time the event's own time, in Unix
	// milliseconds. Time is 0 where the event had none.
	At      int64  `json:"at"`
	Time    int64  `json:"time,omitempty"`
	Standby bool   `json:"standby,omitempty"`
	Object  string `json:"object,omitempty"`
	Source  string `json:"source,omitempty"`
	App     string `json:"app,omitempty"`
	// Connection is the event's connection, with [ErasedAdmin] in place of the person's
	// id.
	Connection *Connection `json:"connection,omitempty"`
	// AppID is the id of the app of a [ForeignReceived] event.
	AppID string `json:"app_id,omitempty"`
}

// ErasedAdmin stands in place of the id of a person who connected a page, if that was
// erased.
const ErasedAdmin = "erased"

// idKeySize is how many bytes of an id's hash are kept. Among 2^40 ids the
// chance of a collision is 2^-49.
const idKeySize = 16

// tombstonePrefix is the prefix of the id of an event made from a tombstone. It
// can't be part of a header, so no stored event has such an id.
const tombstonePrefix = "\x00"

// IDKey returns the key by which an event's id is indexed. It is a hash, since
// ids can be long and contain message ids. An event made from a tombstone
// ([Tombstone.Event]) has the key of the original event.
func IDKey(id string) []byte {
	if rest, ok := strings.CutPrefix(id, tombstonePrefix); ok {
		if key, err := hex.DecodeString(rest); err == nil && len(key) == idKeySize {
			return key
		}
	}
	sum := sha256.Sum256([]byte(id))
	return sum[:idKeySize]
}

// ContactHash returns the hash that replaces an erased contact's id, in hex.
// Someone who knows the id can recognize its hash. Ids are numbers, so finding
// the id by trying all of them is expensive but not impossible.
func ContactHash(c ContactID) string {
	sum := sha256.Sum256([]byte("contact:" + string(c)))
	return hex.EncodeToString(sum[:16])
}

// AdminHash returns a hash of a person's app-scoped id, in hex. What [ContactHash] says
// about finding the id holds here too.
func AdminHash(app, admin string) string {
	sum := sha256.Sum256([]byte("admin:" + app + ":" + admin))
	return hex.EncodeToString(sum[:16])
}

// NewTombstone returns the tombstone of e, which the stream stored with sequence
// seq at the time at.
func NewTombstone(e Event, seq uint64, at time.Time) Tombstone {
	h := Tombstone{
		Seq: seq, ID: hex.EncodeToString(IDKey(e.ID)), Type: e.Type, At: at.UnixMilli(), Standby: e.Standby,
		Object: e.Data.Object, Source: e.Data.Source, App: e.Data.App,
	}
	if e.Type == ForeignReceived {
		h.AppID = e.Data.AppID
	}
	if !e.Time.IsZero() {
		h.Time = max(0, e.Time.UnixMilli())
	}
	if c := e.Data.Connection; c != nil {
		without := *c
		if c.Admin != "" {
			without.Admin = ErasedAdmin
		}
		h.Connection = &without
	}
	return h
}

// Event returns the event without its contact and content. Its id has the same
// [IDKey] as the original's.
func (h Tombstone) Event(page PageID) Event {
	e := Event{
		ID: tombstonePrefix + h.ID, Type: h.Type, Page: page, Standby: h.Standby,
		Data: Data{Object: h.Object, Source: h.Source, App: h.App, AppID: h.AppID, Connection: h.Connection},
	}
	if h.Time > 0 {
		e.Time = time.UnixMilli(h.Time).UTC()
	}
	return e
}
