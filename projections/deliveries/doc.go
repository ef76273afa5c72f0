// Package deliveries counts deliveries and events, and is the index of all event ids.
//
// The [Projection] is a fold of the stream: the number of stored events by page, type
// and day, and the first event with each id ([Index]). The [Ledger] counts what never
// reaches the stream, when it is received: duplicates, and deliveries that were
// refused. Together they account for everything that Meta sent.
package deliveries
