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

// DiffParts is [Diff] for parts of two read models: the rows of the buckets in byPrefix whose keys begin with one of
// the prefixes, and those of the buckets in byKey whose keys b has.
func DiffParts(a, b *Tx, byPrefix []string, prefixes [][]byte, byKey []string) (d Difference, found bool) {
	for _, name := range byPrefix {
		for _, prefix := range prefixes {
			if d, found := diffRows(name, prefix, a.Bucket(name), b.Bucket(name)); found {
				return d, true
			}
		}
	}
	for _, name := range byKey {
		of := a.Bucket(name)
		_ = b.Bucket(name).ForEachPrefix(nil, func(k, v []byte) error { // it fails with Stop alone
			if got := of.Get(k); got == nil || !bytes.Equal(got, v) {
				d, found = Difference{Bucket: name, Key: bytes.Clone(k), A: got, B: bytes.Clone(v)}, true
				return Stop
			}
			return nil
		})
		if found {
			return d, true
		}
	}
	return d, false
}

func diffBucket(name string, a, b *Bucket) (Difference, bool) { return diffRows(name, nil, a, b) }

// diffRows compares the rows whose keys begin with a prefix.
func diffRows(name string, prefix []byte, a, b *Bucket) (Difference, bool) {
	ca, cb := a.Cursor(), b.Cursor()
	within := func(k, v []byte) (key, value []byte) {
		if !bytes.HasPrefix(k, prefix) {
			return nil, nil
		}
		return k, v
	}
	ka, va := within(ca.Seek(prefix))
	kb, vb := within(cb.Seek(prefix))
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
		ka, va = within(ca.Next())
		kb, vb = within(cb.Next())
	}
	return Difference{}, false
}
