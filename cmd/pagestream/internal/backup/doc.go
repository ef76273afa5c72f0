// Package backup copies, from a running pagestream, the data that can't be rebuilt:
// the streams, the sealed tokens, the keys that decrypt these, and the configuration.
// Read models are not included, because they are built from the stream.
package backup
