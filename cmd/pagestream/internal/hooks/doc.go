// Package hooks sends events of the stream to HTTP endpoints, signed as Standard
// Webhooks asks:
// https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
//
// Order: each endpoint has its own position, so that one endpoint does not wait
// for another. Within an endpoint the events of one page go one at a time and in
// the stream's order; pages go side by side. An event that an endpoint does not
// take is tried again, and the page's later events wait behind it, until it is
// taken or given up as a [DeadLetter]. There is no order between pages, and a
// dead letter that is sent again comes out of order. Where a try timed out, the
// next one may reach an endpoint that is still at the first.
//
// Idempotency: delivery is at least once. An event comes again with the same
// webhook-id where the answer to it, or the record of the answer, was lost: a
// receiver drops what it has seen. Two events of the stream with one id are one
// fact, and have one webhook-id as well. After a crash the deliveries of the
// last moment are repeated, those of one page in order.
//
// Durability: for each page that is behind, the file keeps the first event that
// is not finished; every other page is finished up to where the stream was read.
// That is exact however far one page falls behind, and needs no list of finished
// events. Tries and the time of the first one are kept as well: a restart goes
// on counting.
//
// Erasure: before an event is tried again it is read from the stream again. What
// was erased there meanwhile is not sent.
//
// Bounds: a page that fails holds nothing in memory, and pages that fail get at
// most half of an endpoint's tries at a time: an endpoint that hangs for some
// pages is slow for the others at worst, for the time of a try.
//
// Not promised: exactly-once delivery, order over pages, that an answer's body is
// looked at, that an endpoint's address is a public one (the operator names the
// endpoints), and that two processes could share a file: the second one fails
// to open it.
package hooks
