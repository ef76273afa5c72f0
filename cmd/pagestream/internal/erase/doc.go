// Package erase removes a contact from the stream and, by an event that records the
// erasure, from the read models.
//
// First a contact.erased event is stored. It contains the contact's hash, and for
// each of the contact's events the tombstone that a rebuild needs. When the read
// models have applied it they no longer contain the contact. Then a reactor deletes
// the events, so that the deletion is completed after a crash. At last the bytes of
// deleted rows, dead letters and copies are removed from the files.
//
// [Admins] does the same for the id of a person who connected pages: page.admin_erased
// lists the events that name the person, and their tombstones keep the connections.
package erase
