// Package connect connects pages, subscribes them and checks whether they still
// are subscribed.
//
// Each operation calls Graph and records the result as events. Tokens are not events:
// they are sealed and stored as [Secrets], and an event has a reference. A page counts
// as subscribed only if Graph's own list, read back with the page's own token, has
// every wanted field.
//
// Concurrent operations on one page don't wait for each other: an event is appended
// only if the page's last event of the same noun is still the one that the operation
// started from; otherwise the operation fails with [ErrChanged].
package connect
