package store

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"
)

// Tx is one transaction. It belongs to the function it was given to: neither it
// nor its buckets and cursors may be used after that, or by two goroutines.
type Tx struct {
	tx      *bbolt.Tx
	buckets map[string]*Bucket
	held    int // bytes that the buckets hold back, about
	scratch []byte
}

// Writable reports whether the transaction is an Update.
func (tx *Tx) Writable() bool { return tx.tx.Writable() }

// Bucket returns the bucket of that name, which has to be a constant of its
// projection. In an Update a missing one is made; in a View it is empty.
// [MetaBucket] and what starts with "_" are the framework's.
func (tx *Tx) Bucket(name string) *Bucket {
	if b := tx.buckets[name]; b != nil {
		return b
	}
	b := &Bucket{tx: tx, name: name, b: tx.tx.Bucket([]byte(name)), writable: tx.Writable()}
	if b.b == nil && b.writable {
		b.b, b.err = tx.tx.CreateBucket([]byte(name))
	}
	if tx.buckets == nil {
		tx.buckets = make(map[string]*Bucket, 8)
	}
	tx.buckets[name] = b
	return b
}

// Buckets returns the names of the buckets, in order.
func (tx *Tx) Buckets() ([]string, error) {
	var names []string
	err := tx.tx.ForEach(func(name []byte, _ *bbolt.Bucket) error {
		names = append(names, string(name))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list buckets: %w", err)
	}
	return names, nil
}

// Bucket is an ordered map of bytes to bytes. A key has 1 to 32768 bytes.
//
// An Update holds changes back and makes them in order of keys, at its end or
// when a cursor reads the bucket: most events change a few rows over and over,
// and neighbours cost less than strangers. Every read sees them.
type Bucket struct {
	tx       *Tx
	name     string
	b        *bbolt.Bucket
	writable bool
	err      error
	pending  pending
	held     int // bytes of pending, about
}

// Get returns a copy of the value, nil if there is none. A value of no bytes is
// not nil.
func (b *Bucket) Get(key []byte) []byte {
	v, err := b.read(key)
	if v == nil || err != nil {
		return nil // a row that can't be encoded fails the transaction at its end
	}
	return append(make([]byte, 0, len(v)), v...)
}

// Has reports whether the key is there.
func (b *Bucket) Has(key []byte) bool {
	if e := b.pending[string(key)]; e != nil {
		return !e.deleted
	}
	return b.b != nil && b.b.Get(key) != nil
}

// Put sets the value. Both may be changed afterwards.
func (b *Bucket) Put(key, value []byte) error {
	return b.put(key, append(make([]byte, 0, len(value)), value...))
}

// Add adds n to a value that [Uint64] wrote; one that is not there is 0.
func (b *Bucket) Add(key []byte, n uint64) error {
	if e := b.pending[string(key)]; e != nil && len(e.value) == 8 {
		binary.BigEndian.PutUint64(e.value, binary.BigEndian.Uint64(e.value)+n)
		return nil
	}
	v, err := b.read(key)
	if err != nil {
		return err
	}
	return b.put(key, Uint64(ToUint64(v)+n))
}

// Delete removes the key; a missing one is no error.
func (b *Bucket) Delete(key []byte) error {
	e, err := b.change(key)
	if err != nil {
		return err
	}
	e.deleted, e.row = true, nil
	return nil
}

// Ascending says that keys are nearly always put behind all others: bbolt then
// fills a page before it begins the next, instead of leaving half of each for
// what comes in between.
func (b *Bucket) Ascending() {
	if b.b != nil {
		b.b.FillPercent = ascendingFill
	}
}

// ascendingFill leaves rows some room to grow.
const ascendingFill = 0.9

func (b *Bucket) check() error {
	switch {
	case !b.writable:
		return fmt.Errorf("write to %s: %w", b.name, ErrReadOnly)
	case b.err != nil:
		return fmt.Errorf("make bucket %s: %w", b.name, b.err)
	}
	return nil
}

// Empty reports whether the bucket has no key.
func (b *Bucket) Empty() bool {
	k, _ := b.Cursor().First()
	return k == nil
}

// Len counts the keys. It reads the whole bucket: keep a counter for what is
// asked often.
func (b *Bucket) Len() (n int) {
	_ = b.ForEachPrefix(nil, func([]byte, []byte) error { n++; return nil })
	return n
}

// ForEachPrefix calls f with each key that starts with prefix, in order; a nil
// prefix means every key. It ends at the first error, and [Stop] ends it
// without one. The slices are shared and valid during the call only; f must not
// change the bucket.
func (b *Bucket) ForEachPrefix(prefix []byte, f func(key, value []byte) error) error {
	c := b.Cursor()
	for k, v := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = c.Next() {
		if err := f(k, v); err != nil {
			if errors.Is(err, Stop) {
				return nil
			}
			return err
		}
	}
	return nil
}

// Stop ends [Bucket.ForEachPrefix] early.
var Stop = errors.New("stop") //nolint:errname,revive,staticcheck // reads as what it does: return store.Stop

// Cursor returns a cursor over the bucket. Its keys and values are shared:
// don't change them, and copy what has to outlive the transaction. After a Put
// or Delete in the bucket, Seek again.
func (b *Bucket) Cursor() *Cursor {
	if b.b == nil {
		return &Cursor{}
	}
	return &Cursor{b: b, c: b.b.Cursor()}
}

// Cursor moves over a bucket in the order of its keys. A nil key means that
// there is none further.
type Cursor struct {
	b *Bucket
	c *bbolt.Cursor
}

// settle makes the changes that the bucket holds back; false if there is nothing
// to read. If they can't be made, the Update fails at its end.
func (c *Cursor) settle() bool {
	return c.c != nil && c.b.flush() == nil
}

// First moves to the first key.
func (c *Cursor) First() (key, value []byte) {
	if !c.settle() {
		return nil, nil
	}
	return c.c.First()
}

// Last moves to the last key.
func (c *Cursor) Last() (key, value []byte) {
	if !c.settle() {
		return nil, nil
	}
	return c.c.Last()
}

// Seek moves to the first key at or after the given one.
func (c *Cursor) Seek(seek []byte) (key, value []byte) {
	if !c.settle() {
		return nil, nil
	}
	return c.c.Seek(seek)
}

// Next moves one key on.
func (c *Cursor) Next() (key, value []byte) {
	if c.c == nil {
		return nil, nil
	}
	return c.c.Next()
}

// Prev moves one key back.
func (c *Cursor) Prev() (key, value []byte) {
	if c.c == nil {
		return nil, nil
	}
	return c.c.Prev()
}

// GetJSON reads a value that [PutJSON] wrote; false if there is none. Unknown
// fields are ignored. The error never quotes the value.
func GetJSON[T any](b *Bucket, key []byte) (value T, found bool, err error) {
	v, err := b.read(key)
	if v == nil || err != nil {
		return value, false, err
	}
	if err := json.Unmarshal(v, &value); err != nil {
		return value, false, b.corrupt(v)
	}
	return value, true, nil
}

func (b *Bucket) corrupt(value []byte) error {
	return fmt.Errorf("decode %d bytes in %s: %w", len(value), b.name, ErrCorrupt)
}

// PutJSON writes a value as JSON: deterministic, as encoding/json sorts maps.
func PutJSON(b *Bucket, key []byte, value any) error {
	v, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode %T for %s: %w", value, b.name, err)
	}
	return b.put(key, v)
}
