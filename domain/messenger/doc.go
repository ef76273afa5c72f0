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
// a class and a key whose parts are joined with "|":
//
//	msg   mid                                  a message or an echo
//	del   mid                                  an unsend
//	edit  mid, num_edit
//	pb    mid; in standby "standby" before it
//	rx    mid, sender, action, emoji, timestamp of the item in ms
//	dlv   sender, watermark in ms, hash of the mids
//	read  sender, and watermark in ms or mid
//	h     SHA-256 of the item's canonical JSON; "standby" before it for a postback in standby
//
// A part without a value is the empty string. The hash of mids is the first 32
// hex digits of the SHA-256 of the mids joined with line feeds. The user_ref is
// used for a sender without an id. Canonical JSON has no white space, its names
// are sorted by bytes, its strings are UTF-8 with no more escapes than JSON and
// encoding/json need, and its numbers are as they were written. Where that would
// lose information, the hash is of the item's own bytes.
package messenger
