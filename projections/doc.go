// Package projections turns the stream into read models.
//
// A [Projection] defines how one event changes the state. A [Runner] applies the
// events of the stream to it, many in one transaction, and stores the position in
// the same transaction. So a read model at position N is exactly the fold of
// events 1 to N, a crash at any moment loses nothing, and a rebuild produces the
// same bytes. A reader calls [Runner.WaitFor] to wait until the read model has
// applied a certain event.
package projections
