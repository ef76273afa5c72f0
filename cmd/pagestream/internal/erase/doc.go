// Package erase removes a contact from the stream and, by an event that records the
// erasure, from the read models.
//
// First a contact.erased event is stored. It contains the contact's hash, and for
// each of the contact's events the tombstone that a rebuild needs. When the read
// models have applied it they no longer contain the contact. Then a reactor deletes
// the events, so that the deletion is completed after a crash. In a read model's
// file the rows are deleted at once, but their bytes stay in the file until bbolt
// reuses the space, or until a rebuild.
package erase
