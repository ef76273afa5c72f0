// Package streams stores events in a NATS JetStream stream and reads them back. It has a publisher
// that stores each event durably and once, a watermill subscriber that delivers events in order,
// and readers for replay.
//
// Together with package domain it is also the Go API for programs that consume the events of a
// pagestream installation. The stream's name, subjects, headers and data are a contract that
// programs in other languages rely on as well; see [AsyncAPI].
package streams
