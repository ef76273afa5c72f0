// Package profile gives contacts their names: when somebody writes to a page, it
// asks Graph once who that is and appends contact.profiled.
//
// It works off the ingest path, as a durable reactor on what the stream holds
// already, and it is best effort. What Graph does not say stays unknown and is
// no event; a contact without a name is asked about again when they write a day
// later.
package profile
