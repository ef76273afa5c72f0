// Package doctor says what is wrong with pages and with the installation, by
// which evidence, and what to type.
//
// It is a function of facts that others have gathered: it asks nobody and
// changes nothing. Of several findings the one that explains the others comes
// first, and the others name it.
package doctor
