// Package connect connects pages, subscribes them and tells whether they still
// are.
//
// Each verb asks Graph and states what it found as events; it keeps no state of
// its own. A page counts as subscribed only when Graph's own list, read back
// with the page's own token, has every wanted field.
//
// Two verbs at once on one page don't wait for each other: each event is
// appended only if the page's last event of the same noun is still the one that
// the verb began from, and the later verb fails with [ErrChanged].
package connect
