// Package erase removes a contact from the stream and, by the event that records
// it, from the read models.
//
// First contact.erased is stored: the contact's hash, and of each event the tombstone
// that a rebuild needs. From then on the read models don't have the contact. Then a
// reactor deletes the events, so that a crash in between is made good. What is
// in a read model's file is gone from its rows at once; the bytes stay in the
// file until bbolt uses their place again, or until a rebuild.
package erase
