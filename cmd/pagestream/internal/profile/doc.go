// Package profile reads the profiles of contacts: when a contact writes to a page, it
// asks Graph once for their name and picture and appends contact.profiled.
//
// It does not delay ingest, and it is best effort. Each node looks at all events, puts
// the contacts whose profile may be missing into a work queue, and any node works on it.
// If Graph has no profile there is no event; the contact is asked about again when they
// write a day later. A contact for whom every attempt fails is dropped, and comes into the
// queue again when they write an hour later.
package profile
