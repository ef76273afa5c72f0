// Package conversations is the read model of who wrote what to whom: one
// conversation per page and contact, its messages in order of event time, and
// on each message what later became of it: edits, the unsend, reactions, the
// delivery and read receipts.
//
// # Order
//
// The stream's order is the order of arrival; Meta does not promise that it is
// the order in which things happened (after a failure "always use the webhook
// timestamp", and edits were seen before their message). So a message is
// placed by its event time, and what names a message that is not here yet
// waits for it. A message's state is the same whatever order its events arrived
// in. Only these record the arrival itself: Seq, At, LateMillis, Events, the
// conversation's counters of late arrivals, and, where two different messages
// claim one mid, which of them was first.
//
// # Receipts
//
// A receipt covers every message of the page to that contact up to a moment:
// its watermark, in milliseconds, or the time of the message it names
// (Instagram). A message's DeliveredAt and ReadAt are the earliest receipts that
// cover it, and a read implies a delivery. For a message that arrives behind
// its receipts the last 64 of each kind are remembered; before those the oldest
// remembered one stands in.
//
// # What is left out
//
// Test events, events of no page and events without a contact (policy
// enforcement, app roles) never come in; package pages counts them. Events of pages
// that are not connected do come in. The rows hold personal text: it leaves by
// contact.erased, which leaves a tombstone keyed by a hash.
package conversations
