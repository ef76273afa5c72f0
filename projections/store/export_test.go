package store

// Held is about how many bytes an Update holds back.
func Held(tx *Tx) int { return tx.held }
