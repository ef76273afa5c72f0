// Package leads retrieves the answers of leads: the webhook of a lead ad has ids only, so
// for each lead.received it reads the lead from Graph and appends lead.retrieved.
//
// It is a durable reactor on the events in the stream. A lead that can't be read now,
// since its page has no valid token or no permission or is throttled for long, is parked
// and does not delay other leads. Parked leads are tried again when the reason may have
// gone, and can be redriven like other dead letters.
package leads
