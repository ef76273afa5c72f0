// Package outbound sends messages as a page, and records what was sent.
//
// Meta delivers what a page sends to every subscribed app as an echo, before or after
// it answers the sender's call, and not at all if the page is not subscribed to
// message_echoes. A sent message is therefore appended as the event of its echo, with
// the same id: the first one is stored and the other is a duplicate, so that one
// message is one event in either order.
//
// Each call sends a message at most once. If Graph's answer is lost, it is unknown
// whether the message was sent, and the caller must decide.
package outbound
