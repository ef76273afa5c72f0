// Package backfill fills a gap: it reads the messages between people and a page that
// were not delivered from the Conversations API and appends them.
//
// Each message becomes the event that its delivery would have made, with the same id.
// A message that is in the stream already is therefore a duplicate, and a gap can be
// filled twice. The event has the source "backfill" and Graph's object as raw.
//
// Graph returns only messages: no receipts, reactions, edits, postbacks or handovers,
// and for an echo neither app nor metadata. Times are in whole seconds; messages of
// the same second keep Graph's order. For old Instagram conversations it returns only
// the newest 20 messages.
// https://developers.facebook.com/docs/messenger-platform/conversations
package backfill
