package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
)

// Digest returns a SHA-256 of the state in hex: of every bucket but the
// framework's, every key and every value, in order. Empty buckets don't count.
// Two stores with one digest hold the same read model. It reads everything.
func Digest(tx *Tx) (string, error) {
	names, err := tx.Buckets()
	if err != nil {
		return "", err
	}
	h := sha256.New()
	for _, name := range names {
		if err := digestBucket(h, tx, name); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func digestBucket(h hash.Hash, tx *Tx, name string) error {
	c := tx.Bucket(name).Cursor()
	var last []byte
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if last != nil && bytes.Compare(last, k) >= 0 {
			return fmt.Errorf("bucket %s is out of order: %w", name, ErrCorrupt)
		}
		if name == MetaBucket || name[0] == '_' {
			last = k
			continue
		}
		if last == nil {
			writePart(h, 'b', []byte(name))
		}
		writePart(h, 'k', k)
		writePart(h, 'v', v)
		last = k
	}
	return nil
}

func writePart(h hash.Hash, kind byte, b []byte) {
	var head [9]byte
	head[0] = kind
	binary.BigEndian.PutUint64(head[1:], uint64(len(b)))
	h.Write(head[:])
	h.Write(b)
}
