// Package login is the browser's way to connect pages: an invitation, Meta's
// login dialog, the list of pages that were let in, and what became of each.
//
// It is on the public listener, so nobody gets in without an invitation. What a
// login needs on its way, tokens included, is in memory only and for half an
// hour at most: after a restart one starts again.
package login
