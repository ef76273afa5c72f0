package store

// Buffered returns about how many bytes of changes an Update buffers.
func Buffered(tx *Tx) int { return tx.buffered }
