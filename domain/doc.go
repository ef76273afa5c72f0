// Package domain is the vocabulary of pagestream: identifiers, event types,
// the event itself and the typed data it carries.
//
// It imports only the standard library and encoding/json/v2, which is in the
// standard library from Go 1.27 on. It does no I/O, so that the meaning of events can
// be tested without a server. Package
// [github.com/pagestream/pagestream/domain/messenger] turns the bytes of one
// webhook delivery into these events; package streams stores them.
package domain
