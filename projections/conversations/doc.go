// Package conversations is the read model of messages: one conversation per page and
// contact, its messages in order of event time, and the later changes of each
// message: edits, the unsend, reactions, the delivery and read receipts.
//
// # Order
//
// The stream's order is the order of arrival. Meta does not promise that this is
// the order in which things happened (after a failure "always use the webhook
// timestamp", and edits were seen before their message). So a message is
// placed by its event time, and a change of a message that has not arrived yet is
// stored until it arrives. A message's state does not depend on the order in which
// its events arrived. Only these do: Seq, At, LateMillis, Events, the conversation's
// counts of late messages, and, if two different messages have the same mid, which of
// them is kept.
//
// # Receipts
//
// A receipt covers every message from the page to that contact up to a time: its
// watermark, in milliseconds, or the time of the message it names (Instagram). A
// message's DeliveredAt and ReadAt are the earliest receipts that cover it, and a
// read implies a delivery. For messages that arrive after their receipts, the last
// 64 receipts of each kind are stored; for a message that is older than these, the
// oldest stored receipt is used.
//
// # What is left out
//
// Test events, events without a page and events without a contact (policy
// enforcement, app roles) are not applied; package pages counts them. Events of pages
// that are not connected are applied. The rows contain personal text: a
// contact.erased event deletes it and leaves a tombstone with a hash as its key.
package conversations
