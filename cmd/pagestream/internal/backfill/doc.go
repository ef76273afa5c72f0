// Package backfill fills a gap: what people and a page wrote while deliveries
// did not come is read from the Conversations API and appended.
//
// Each message is the event that its delivery would have been, under the same
// id, so what is in the stream already is a duplicate, and a gap can be filled
// twice. It is marked with source "backfill" and has Graph's own object as raw.
//
// Graph tells only messages: no receipts, reactions, edits, postbacks or
// handovers, and of an echo neither app nor metadata. Times are whole seconds;
// messages of one second keep Graph's order. Of old Instagram conversations it
// tells only the newest 20 messages.
// https://developers.facebook.com/docs/messenger-platform/conversations
package backfill
