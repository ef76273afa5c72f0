// Package messenger converts the bytes of one webhook delivery into events. It
// uses no clock, does no I/O and never fails: input that it does not recognize
// becomes an event that keeps the raw bytes.
//
// Every item of an entry's messaging, standby, changes and changed_fields arrays
// becomes one event, and so does an entry without items. The page of an event is
// its own entry's id. Meta may batch the entries of several pages in one
// delivery, and an entry may have several arrays.
// https://developers.facebook.com/docs/messenger-platform/webhooks
//
// # Identity
//
// An event's id is [domain.DedupID] of the delivery's object, the entry's id,
// a class and a key whose parts are joined with "|". [Kinds] has the class and the
// parts of each kind. An item has class h where its kind has no other, or where it lacks
// what identifies the fact: the mid, an edit's number, all of a receipt's watermark,
// mids and mid. The key of class h is the SHA-256 of the item's canonical JSON. For a
// postback in standby, "standby" is the first part of the key.
//
// An item of class h that has neither a mid nor a time of its own has another key: the
// SHA-256 of the key above, entry.time in ms, and how many equal items are before it in
// its array of the entry. So a fact that happens again is not a duplicate. An item has
// a time of its own if it has a timestamp, or if [Kinds] names a field for it;
// created_time is the time of an object and not that of its edit or removal.
//
// A part without a value is the empty string. The hash of mids is the first 32
// hex digits of the SHA-256 of the mids joined with line feeds. The user_ref is
// used for a sender without an id. Canonical JSON has no white space, its names
// are sorted by bytes, its strings are UTF-8 with no more escapes than JSON and
// encoding/json need, and its numbers are as they were written. Where that would
// lose information, the hash is of the item's own bytes.
package messenger
