// Package pages is the read model of every page that is connected or has events:
// its connection, the state of its token, its sealed secrets and its traffic.
//
// A page that has events and was never connected is included, with the state
// unknown, so that its events can be found. Test events and events without a page
// do not create a page; [Unrouted] counts them. An Instagram account has its own
// row, because its deliveries carry its own id; LinkedPage is the page that was
// connected with it.
//
// The secrets are in a separate bucket. Only [Credentials] returns them.
package pages
