// Package backup copies what a pagestream can't be made of again, while it runs:
// the streams, the keys that open the tokens in them, and the configuration. Read
// models are left out, as they are built of the stream.
package backup
