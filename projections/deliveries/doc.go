// Package deliveries counts what came in, and is the index of every event's id.
//
// The [Projection] is a fold of the stream: what is stored, by page, type and
// day, and which event was the first with each id ([Index]). The [Ledger]
// counts at the door what never reaches the stream: duplicates, and deliveries
// that were refused. Together they say what became of everything Meta sent.
package deliveries
