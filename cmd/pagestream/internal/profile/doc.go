// Package profile reads the profiles of contacts: when a contact writes to a page, it
// asks Graph once for their name and picture and appends contact.profiled.
//
// It does not delay ingest: it is a durable reactor on the events in the stream, and
// it is best effort. If Graph has no profile there is no event; the contact is asked
// about again when they write a day later.
package profile
