// Package domain is the vocabulary of pagestream: identifiers, event types,
// the event itself and the typed data it carries.
//
// It imports the standard library, and encoding/json/v2, which Go 1.27 has in
// it. It does no I/O, so that everything that decides what an event means can be
// tested without a server. Package
// [github.com/pagestream/pagestream/domain/messenger] turns the bytes of one
// webhook delivery into these events; package streams stores them.
package domain
