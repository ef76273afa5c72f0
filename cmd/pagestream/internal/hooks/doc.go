// Package hooks sends events of the stream to HTTP endpoints, signed according to
// Standard Webhooks:
// https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
//
// Order: each endpoint has its own position, so that one endpoint does not wait
// for another. Within an endpoint the events of one page are sent one at a time, in
// the stream's order; different pages are sent in parallel. An event that an
// endpoint does not accept is tried again, and the page's later events wait behind
// it, until it is accepted or given up as a [DeadLetter]. There is no order between
// pages, and a dead letter that is sent again is out of order. After a try timed
// out, the next one may reach an endpoint that still processes the first.
//
// Content: an endpoint gets what a [meta.Selection] of its pages, company and types
// has, and never a sealed token. A company's events are those of pages that it had at
// their sequence.
//
// Idempotency: delivery is at least once. An event is sent again with the same
// webhook-id if the answer to it, or the record of the answer, was lost: a receiver
// must drop the ids that it has seen. Two events of the stream with one id are one
// fact, and also have the same webhook-id. After a crash the deliveries of the last
// 100 ms are repeated, those of one page in order.
//
// Durability: for each page that is behind, the file contains the first event that
// is not finished; every other page is finished up to where the stream was read.
// That is exact however far one page falls behind, and needs no list of finished
// events. The number of tries and the time of the first one are stored as well, so
// that counting goes on after a restart.
//
// Erasure: before an event is tried again it is read from the stream again. An
// event that was erased in the meantime is not sent.
//
// Bounds: a page that fails has no events in memory, and failing pages get at most
// half of an endpoint's concurrent tries: if an endpoint hangs for some pages, the
// others are delayed at worst, by the time of one try.
//
// Not promised: exactly-once delivery; order across pages; that a response body is
// read; that an endpoint's address is public (the operator configures the
// endpoints); that two processes can share a file: the second one fails to open
// it.
package hooks
