// Package streams stores events in a NATS JetStream stream and reads them back:
// the publisher that makes them durable once, a watermill subscriber that gives
// them in order, and readers for replay.
//
// With package domain it is also the Go API for programs that consume the
// events of a pagestream. The stream's name, subjects, headers and data are a
// contract that other languages rely on as well.
package streams
