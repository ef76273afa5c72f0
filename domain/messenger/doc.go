// Package messenger turns the bytes of one webhook delivery into events. It is
// pure: no clock, no I/O, no failure. What it does not understand it keeps.
//
// Every entry of a delivery and every item of its messaging, standby and changes
// is one event, routed by its own entry's id. Meta may batch the entries of
// several pages in one delivery, and an entry may hold several arrays.
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
//	h     SHA-256 of the item's canonical JSON; likewise "standby" before a postback's
//
// An empty part is an empty text. The hash of mids is the first 32 hex digits
// of the SHA-256 of the mids, a line feed between them. A sender without an id
// is its user_ref. Canonical JSON has no white space, names sorted by bytes,
// text as UTF-8 with no more escapes than JSON and encoding/json need, and
// numbers as they were written; an item where that would lose something is its
// own bytes.
package messenger
