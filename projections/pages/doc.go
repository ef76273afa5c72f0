// Package pages is the read model of every page that is connected or was heard
// of: its connection, its token's state, its sealed secrets and its traffic.
//
// A page that sends events and was never connected is here as well, with state
// unknown, so that nobody has to guess where its events went. Test events and
// events of no page make no page; [Unrouted] counts them. An Instagram account
// has its own row, because its deliveries carry its own id; LinkedPage leads
// to the page that was connected with it.
//
// The secrets are in a bucket of their own and leave only by [Credentials].
package pages
