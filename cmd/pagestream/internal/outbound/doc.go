// Package outbound sends messages as a page, and records what was sent.
//
// Meta tells every subscribed app what a page sends, as an echo, before or after
// it answers the one who sent it, and not at all where the page has no
// message_echoes. What was sent is therefore appended as the event that its echo
// would be, under the same id: whichever comes first is stored and the other is
// a duplicate, so that one message is one event in either order.
//
// A message is sent at most once by each call. Where Graph's answer was lost it
// is not known whether it was, and then the caller decides.
package outbound
