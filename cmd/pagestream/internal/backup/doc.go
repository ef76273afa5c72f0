// Package backup copies, from a running pagestream, the data that can't be rebuilt:
// the streams, the keys that decrypt the tokens in them, and the configuration. Read
// models are not included, because they are built from the stream.
package backup
