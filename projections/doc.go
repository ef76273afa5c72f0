// Package projections turns the stream into read models.
//
// A [Projection] says how one event changes a state; a [Runner] feeds it with
// the events of the stream, many a transaction, and stores the position in the
// same transaction. So a read model at position N is exactly the fold of events
// 1 to N, a crash at any moment loses nothing, and a rebuild gives the same
// bytes. A reader says with [Runner.WaitFor] how far it has to be.
package projections
