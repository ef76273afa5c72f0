package store

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"go.etcd.io/bbolt"
)

// Tx is one transaction. It, its buckets and its cursors must not be used after the function that it was
// passed to has returned, nor by several goroutines.
type Tx struct {
	tx       *bbolt.Tx
	writable bool
	buckets  map[string]*Bucket
	buffered int // about how many bytes of changes the buckets buffer
	moves    int // of cursors, for tests
	changes  int // how many changes were made
	parts    int // how many may be made before Part ends the transaction; 0 means any number
	scratch  *scratch
	sums     bool // rows have checksums
	filter   *filter
	// levels are the tables in memory that lie over the file, the newest first. mine is the first of them in an Update
	// that changes it; nil means that the Update writes to the file. copied means that it is a copy which only the Update
	// sees. base is the size that it began with.
	levels []*table
	mine   *table
	copied bool
	base   int
}

// Writable reports whether the transaction is an Update.
func (tx *Tx) Writable() bool { return tx.writable }

// Bucket returns the bucket of that name, which should be a constant of the projection. A missing bucket is
// created in an Update and is empty in a View. Projections must not use [MetaBucket] and names that start
// with "_".
func (tx *Tx) Bucket(name string) *Bucket {
	if b := tx.buckets[name]; b != nil {
		return b
	}
	b := &Bucket{
		tx: tx, name: name, writable: tx.writable, sums: tx.sums, sum: nameSum(name), filter: tx.filter.of(name),
	}
	b.open()
	if tx.buckets == nil {
		tx.buckets = make(map[string]*Bucket, 8)
	}
	tx.buckets[name] = b
	return b
}

func (b *Bucket) open() {
	defer guard()
	b.b = b.tx.tx.Bucket([]byte(b.name))
	if b.b == nil && b.writable && b.tx.mine == nil {
		b.b, b.err = b.tx.tx.CreateBucket([]byte(b.name))
	}
	b.over = b.tx.rowsOf(b.name)
}

// Buckets returns the names of all buckets, in order.
func (tx *Tx) Buckets() ([]string, error) {
	defer guard()
	var names []string
	err := tx.tx.ForEach(func(name []byte, _ *bbolt.Bucket) error {
		names = append(names, string(name))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list buckets: %w", err)
	}
	for _, t := range tx.levels {
		names = slices.AppendSeq(names, maps.Keys(t.buckets))
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Bucket is an ordered map of bytes to bytes. A key has 1 to 32,768 bytes; [ErrKey] is returned for others.
//
// An Update buffers changes and writes them in order of keys, at its end or when a cursor reads the bucket.
// Most events change the same few rows again and again, and writing in order of keys is cheaper. Every
// read sees the buffered changes.
type Bucket struct {
	tx       *Tx
	name     string
	b        *bbolt.Bucket // nil if the file does not have it
	look     *bbolt.Cursor // of b, for look-ups; nil before the first. bbolt's Get allocates one each time
	over     []*rows       // what lies over it, the newest first
	writable bool
	err      error
	pending  *pending
	buffered int // about how many bytes pending has
	// ascending is set by Ascending.
	ascending bool
	sums      bool    // rows have checksums
	sum       uint32  // of the name
	filter    *filter // of the bucket, or nil
}

// stored returns the value of a row that is not pending, or nil if there is none. It panics with a [*damage] if the
// file is damaged.
func (b *Bucket) stored(key []byte) []byte {
	if len(b.over) > 0 {
		k := string(key)
		for _, r := range b.over {
			if v, ok := r.tree.Get(k); ok {
				return v
			}
		}
	}
	if b.b == nil || b.filter.lacks(key) {
		return nil
	}
	defer guard()
	if b.look == nil {
		b.look = b.b.Cursor()
	}
	if k, v := b.look.Seek(key); bytes.Equal(k, key) {
		return b.value(key, v)
	}
	return nil
}

// value returns the value of a stored row; nil stays nil.
func (b *Bucket) value(key, stored []byte) []byte {
	if stored == nil || !b.sums {
		return stored
	}
	v, ok := cutSum(b.sum, key, stored)
	if !ok {
		panic(&damage{fmt.Errorf("%w: the checksum of a row in %s does not match", ErrCorrupt, b.name)})
	}
	return v
}

// Get returns a copy of the value, or nil if there is none. An empty value is not nil.
func (b *Bucket) Get(key []byte) []byte {
	v, err := b.read(key)
	if v == nil || err != nil {
		return nil // if a row can't be encoded, the transaction fails at its end
	}
	return append(make([]byte, 0, len(v)), v...)
}

// Has reports whether the bucket has the key.
func (b *Bucket) Has(key []byte) bool {
	if e := b.pending.get(key); e != nil {
		return !e.deleted
	}
	return b.stored(key) != nil
}

// Put sets the value of a key. It copies both slices.
func (b *Bucket) Put(key, value []byte) error {
	return b.put(key, append(b.tx.scratch.value(len(value)+sumSize), value...))
}

// Add adds n to a value that [Uint64] encoded. A missing value counts as 0.
func (b *Bucket) Add(key []byte, n uint64) error {
	if e := b.pending.get(key); e != nil && len(e.value) == 8 {
		binary.BigEndian.PutUint64(e.value, binary.BigEndian.Uint64(e.value)+n)
		return nil
	}
	v, err := b.read(key)
	if err != nil {
		return err
	}
	return b.put(key, binary.BigEndian.AppendUint64(b.tx.scratch.value(8+sumSize), ToUint64(v)+n))
}

// Delete deletes the key. It is no error if the key is missing.
func (b *Bucket) Delete(key []byte) error {
	e, err := b.change(key)
	if err != nil {
		return err
	}
	e.deleted, e.row = true, nil
	return nil
}

// Ascending tells bbolt that new keys are nearly always larger than all others. It then fills a page before
// it starts the next one, instead of leaving half of each page free for keys in between.
func (b *Bucket) Ascending() {
	b.ascending = true
	if b.tx.mine == nil && b.b != nil {
		b.b.FillPercent = ascendingFill
	}
}

// ascendingFill is bbolt's FillPercent. It leaves some room for rows to grow.
const ascendingFill = 0.9

func (b *Bucket) check() error {
	switch {
	case !b.writable:
		return fmt.Errorf("write to %s: %w", b.name, ErrReadOnly)
	case b.err != nil:
		return fmt.Errorf("create bucket %s: %w", b.name, b.err)
	}
	return nil
}

// Empty reports whether the bucket has no key.
func (b *Bucket) Empty() bool {
	k, _ := b.Cursor().First()
	return k == nil
}

// Len counts the keys. It reads the whole bucket, so a projection should keep a counter for a number that
// is read often.
func (b *Bucket) Len() (n int) {
	_ = b.ForEachPrefix(nil, func([]byte, []byte) error { n++; return nil })
	return n
}

// ForEachPrefix calls f with each key that starts with prefix, in order; a nil prefix means every key. It
// stops at the first error of f and returns it; for [Stop] it returns nil. The slices are valid only
// during the call, and f must not modify them or the bucket.
func (b *Bucket) ForEachPrefix(prefix []byte, f func(key, value []byte) error) error {
	return b.forEach(prefix, prefix, f)
}

// forEach is ForEachPrefix from a key on.
func (b *Bucket) forEach(from, prefix []byte, f func(key, value []byte) error) error {
	c := &Cursor{b: b, within: prefix}
	for k, v := c.Seek(from); k != nil && bytes.HasPrefix(k, prefix); k, v = c.Next() {
		if err := f(k, v); err != nil {
			if errors.Is(err, Stop) {
				return nil
			}
			return err
		}
	}
	return nil
}

// Stop is returned by the function passed to [Bucket.ForEachPrefix] to stop it without an error.
var Stop = errors.New("stop") //nolint:errname,revive,staticcheck // reads as what it does: return store.Stop

// deleteAtOnce is how many keys are in memory while their rows are deleted.
const deleteAtOnce = 256

// ErrPart is returned by [Tx.Part] when an Update should end in the middle of an event.
var ErrPart = errors.New("the event is applied in several transactions")

// PartSize is how many changes a transaction of a part of an event has, about. They are some 8 MB of a table in memory.
const PartSize = 1 << 15

// InParts lets [Tx.Part] end the Update after so many changes.
func (tx *Tx) InParts(changes int) { tx.parts = changes }

// Part returns [ErrPart] when the Update has made so many changes that an event should go on in another one. A projection
// may call it where the event can be applied again from its beginning, with the same result in the end. It returns nil
// in a transaction that applies events as a whole.
func (tx *Tx) Part() error {
	if tx.parts > 0 && tx.changes >= tx.parts {
		return ErrPart
	}
	return nil
}

// DeletePrefix deletes the rows of the buckets whose keys begin with prefix.
func DeletePrefix(tx *Tx, prefix []byte, buckets ...string) error {
	for _, name := range buckets {
		if err := DeleteEach(tx, prefix, name, nil); err != nil {
			return err
		}
	}
	return nil
}

// DeleteEach deletes the rows of a bucket whose keys begin with prefix, in order. The function before, if not nil, is
// called with each key before its row is deleted, and may read the row and change others, but must not add keys that
// begin with prefix. After an error of it, which DeleteEach returns, that row and those behind it are still there.
func DeleteEach(tx *Tx, prefix []byte, bucket string, before func(key []byte) error) error {
	b, from := tx.Bucket(bucket), prefix
	for {
		var keys [][]byte
		_ = b.forEach(from, prefix, func(key, _ []byte) error { // it fails with Stop alone
			if keys = append(keys, bytes.Clone(key)); len(keys) == deleteAtOnce {
				return Stop
			}
			return nil
		})
		for _, key := range keys {
			if before != nil {
				if err := before(key); err != nil {
					return fmt.Errorf("delete from %s: %w", bucket, err)
				}
			}
			if err := b.Delete(key); err != nil {
				return fmt.Errorf("delete from %s: %w", bucket, err)
			}
		}
		if len(keys) < deleteAtOnce {
			return nil
		}
		from = slices.Concat(keys[len(keys)-1], []byte{0}) // a table in memory still has the deleted rows
	}
}

// Cursor returns a cursor over the bucket. Its keys and values are shared with the store: callers must not
// modify them, and must copy what is needed after the transaction. After a change in the bucket, a caller
// must call Seek before Next or Prev.
func (b *Bucket) Cursor() *Cursor { return &Cursor{b: b} }

// GetJSON decodes a value that [PutJSON] wrote; found is false if there is none. Unknown fields are ignored.
// [ErrCorrupt] is returned when the value can't be decoded; the error never contains the value.
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

// PutJSON writes a value as JSON. The bytes are deterministic, since encoding/json sorts maps.
func PutJSON(b *Bucket, key []byte, value any) error {
	v, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode %T for %s: %w", value, b.name, err)
	}
	return b.put(key, v)
}
