package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"slices"
)

// internalBucket reports whether a bucket is internal, and so not part of the read model's state.
func internalBucket(bucket string) bool { return bucket == MetaBucket || bucket[0] == '_' }

// Digest returns the SHA-256 of the state, in hex. It covers the keys and values of all buckets in order,
// except [MetaBucket] and those whose names start with "_". Empty buckets don't count. Two stores with
// the same digest have the same read model. It reads the whole file; [ErrCorrupt] is returned when keys
// are out of order.
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
		first := last == nil
		last = k
		if internalBucket(name) {
			continue
		}
		if first {
			writePart(h, 'b', []byte(name))
		}
		writePart(h, 'k', k)
		writePart(h, 'v', v)
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

// Difference is one row in which two stores differ.
type Difference struct {
	Bucket string `json:"bucket"`
	Key    []byte `json:"key"`
	// A and B are the values in the two stores, nil if a store has none. They may contain messages of
	// people, so they must not be logged.
	A []byte `json:"-"`
	B []byte `json:"-"`
}

// Diff returns the first row, in order of buckets and keys, in which two read models differ. found is
// false if they are equal. It reads all rows up to the difference.
func Diff(a, b *Tx) (d Difference, found bool, err error) {
	names, err := a.Buckets()
	if err != nil {
		return d, false, err
	}
	more, err := b.Buckets()
	if err != nil {
		return d, false, err
	}
	names = append(names, more...)
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if internalBucket(name) {
			continue
		}
		if d, found = diffBucket(name, a.Bucket(name), b.Bucket(name)); found {
			return d, true, nil
		}
	}
	return d, false, nil
}

func diffBucket(name string, a, b *Bucket) (Difference, bool) {
	ca, cb := a.Cursor(), b.Cursor()
	ka, va := ca.First()
	kb, vb := cb.First()
	for ka != nil || kb != nil {
		order := bytes.Compare(ka, kb)
		switch {
		case kb == nil || ka != nil && order < 0:
			return Difference{Bucket: name, Key: bytes.Clone(ka), A: bytes.Clone(va)}, true
		case ka == nil || order > 0:
			return Difference{Bucket: name, Key: bytes.Clone(kb), B: bytes.Clone(vb)}, true
		case !bytes.Equal(va, vb):
			return Difference{Bucket: name, Key: bytes.Clone(ka), A: bytes.Clone(va), B: bytes.Clone(vb)}, true
		}
		ka, va = ca.Next()
		kb, vb = cb.Next()
	}
	return Difference{}, false
}
