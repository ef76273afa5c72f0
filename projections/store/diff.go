package store

import (
	"bytes"
	"slices"
)

// Difference is one row in which two stores differ.
type Difference struct {
	Bucket string `json:"bucket"`
	Key    []byte `json:"key"`
	// A and B are the values, nil where a store has none. They may hold what
	// people wrote.
	A []byte `json:"-"`
	B []byte `json:"-"`
}

// Diff returns the first row, in order of buckets and keys, in which two read
// models differ, and false if they hold the same. It reads all that is equal.
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
		if name == MetaBucket || name[0] == '_' {
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
