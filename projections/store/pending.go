package store

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
)

const (
	// maxBuffered is how many bytes of changes an Update buffers; then it writes them early. From
	// fullBuffered on, Tx.Full reports that the Update should end.
	maxBuffered  = 64 << 20
	fullBuffered = 48 << 20
	// entryOverhead is what an entry counts for in addition to its bytes, decodedSize what a decoded
	// row counts for instead of its bytes.
	entryOverhead = 128
	decodedSize   = 1024
)

// entry is one pending change: a value, a row that is encoded when it is needed, or a deletion.
type entry struct {
	key     string
	value   []byte
	row     Row
	deleted bool
}

// encoded returns the value of an entry, encoded if necessary, or nil for a deletion.
func (b *Bucket) encoded(e *entry) ([]byte, error) {
	if e.value != nil || e.row == nil {
		return e.value, nil
	}
	var err error
	e.value, err = b.encode(e.row)
	return e.value, err
}

// encode encodes a row into a new slice that is no larger than needed.
func (b *Bucket) encode(row Row) ([]byte, error) {
	s := b.tx.scratch
	v, err := row.AppendBinary(s.row[:0])
	if err != nil {
		return nil, fmt.Errorf("encode %T for %s: %w", row, b.name, err)
	}
	if cap(v) <= maxScratch {
		s.row = v
	}
	return append(s.value(len(v)+sumSize), v...), nil
}

// read returns the current value, pending changes included, or nil if there is none. The caller must not
// modify it.
func (b *Bucket) read(key []byte) ([]byte, error) {
	if e := b.pending.get(key); e != nil {
		return b.encoded(e)
	}
	return b.stored(key), nil
}

// put sets a value. The caller must not use the value's slice afterwards.
func (b *Bucket) put(key, value []byte) error {
	if len(key) == 0 || len(key) > maxKey {
		return fmt.Errorf("put in %s: %w", b.name, ErrKey)
	}
	e, err := b.change(key)
	if err != nil {
		return err
	}
	e.value, e.row = value, nil
	b.count(len(value))
	return nil
}

// change returns the entry of a key for the caller to change at once. Its value is cleared, and it may still have
// a row.
func (b *Bucket) change(key []byte) (*entry, error) {
	if err := b.check(); err != nil {
		return nil, err
	}
	if e := b.pending.get(key); e != nil {
		b.count(-len(e.value))
		e.value, e.deleted = nil, false
		return e, nil
	}
	if b.tx.buffered >= maxBuffered {
		if err := b.tx.flush(); err != nil {
			return nil, err
		}
	}
	if b.pending == nil {
		b.pending = b.tx.scratch.pendingOf(b.name)
	}
	b.tx.changes++
	b.count(len(key) + entryOverhead)
	return b.pending.add(b.tx.scratch.key(key)), nil
}

// count adds n to the counts of buffered bytes.
func (b *Bucket) count(n int) {
	b.buffered += n
	b.tx.buffered += n
}

// Full reports whether an Update has made so many changes that it should end, and the caller should go
// on in a new one. A table in memory has a bound, and bbolt does not split pages before the end of an Update. Changes that are written in
// order of keys are fast, but those that are written after others may have to move half of a page that
// has become very large.
func (tx *Tx) Full() bool {
	if tx.mine == nil {
		return tx.buffered >= fullBuffered
	}
	return tx.buffered+tx.mine.bytes-tx.base >= min(tx.mine.limit, fullBuffered)
}

// flush writes the buffered changes of all buckets.
func (tx *Tx) flush() error {
	for _, b := range tx.buckets {
		if err := b.flush(); err != nil {
			return err
		}
	}
	return nil
}

// encodeAll encodes the bucket's buffered changes.
func (b *Bucket) encodeAll() error {
	if b.pending == nil {
		return nil
	}
	for i := range b.pending.list {
		if _, err := b.encoded(&b.pending.list[i]); err != nil {
			return err
		}
	}
	return nil
}

// flush writes the bucket's buffered changes: to the file in order of keys, or to a copy of the table in memory. After
// an error it keeps them, so that it fails again when it is called again.
func (b *Bucket) flush() error {
	if b.pending == nil {
		return nil
	}
	if b.tx.mine != nil {
		if err := b.encodeAll(); err != nil {
			return err
		}
		b.tx.copyTable()
		b.keep()
		return nil
	}
	list := make([]*entry, len(b.pending.list))
	for i := range list {
		list[i] = &b.pending.list[i]
	}
	slices.SortFunc(list, func(x, y *entry) int { return cmp.Compare(x.key, y.key) }) // fast if they are in order
	key := make([]byte, 0, 256)                                                       // bbolt copies keys but not values
	for _, e := range list {
		key = append(key[:0], e.key...)
		var v []byte
		if !e.deleted {
			var err error
			if v, err = b.encoded(e); err != nil {
				return err
			}
		}
		if err := b.write(key, v, e.deleted); err != nil {
			return err
		}
	}
	b.drop()
	return nil
}

// drop drops what the Update has buffered, so that the next one can use its memory.
func (tx *Tx) drop() {
	for _, b := range tx.buckets {
		b.drop()
	}
}

// drop drops the buffered changes: they were written, or the Update ends.
func (b *Bucket) drop() {
	if b.pending == nil {
		return
	}
	b.count(-b.buffered)
	b.pending.reset()
	b.pending = nil
}

// write writes one row to bbolt, or deletes it.
func (b *Bucket) write(key, value []byte, deleted bool) error {
	defer guard()
	if deleted {
		if err := b.b.Delete(key); err != nil {
			return fmt.Errorf("delete from %s: %w", b.name, err)
		}
		return nil
	}
	b.filter.add(key)
	if b.sums {
		value = withSum(b.sum, key, value)
	}
	if err := b.b.Put(key, value); err != nil {
		return fmt.Errorf("put in %s: %w", b.name, err)
	}
	return nil
}

// Row is a value that an Update keeps decoded. It is encoded only once, however often it is put.
type Row interface {
	// AppendBinary appends the encoded row to b.
	AppendBinary(b []byte) ([]byte, error)
	// UnmarshalBinary decodes what AppendBinary encoded. It must not keep b.
	UnmarshalBinary(b []byte) error
}

// AppendJSON implements AppendBinary for rows that are stored as JSON. A string that is not valid UTF-8
// is encoded as the same bytes however often it was written and read before.
func AppendJSON[T any](b []byte, value *T) ([]byte, error) {
	v, err := json.Marshal(value)
	if err == nil && bytes.Contains(v, []byte(`\ufffd`)) { // decoded and encoded again, it is not escaped
		var again T
		if err = json.Unmarshal(v, &again); err == nil {
			v, err = json.Marshal(&again)
		}
	}
	return append(b, v...), err
}

// InPlace is a row as a pointer. A transaction keeps it, so that an Update that changes the same row many times changes it
// where it is instead of copying it each time; it must put the row after each change, or fail. V is nil for a row that
// was not found.
type InPlace[T any, R interface {
	*T
	Row
}] struct{ V *T }

// AppendBinary appends the encoded row.
func (p *InPlace[T, R]) AppendBinary(b []byte) ([]byte, error) {
	return R(p.V).AppendBinary(b) //nolint:wrapcheck // it is the row's own error
}

// UnmarshalBinary decodes the row into a new one.
func (p *InPlace[T, R]) UnmarshalBinary(b []byte) error {
	p.V = new(T)
	return R(p.V).UnmarshalBinary(b) //nolint:wrapcheck // it is the row's own error
}

// GetRow reads a row that [PutRow] wrote; found is false if there is none. The row shares what it points
// to with the transaction: a caller that modifies it must put the row. [ErrCorrupt] is returned when the
// row can't be decoded.
func GetRow[T any, R interface {
	*T
	Row
}](b *Bucket, key []byte) (row T, found bool, err error) {
	if e := b.pending.get(key); e != nil {
		if r, ok := e.row.(R); ok {
			return *r, true, nil
		}
	}
	v, err := b.read(key)
	if v == nil || err != nil {
		return row, false, err
	}
	if err := R(&row).UnmarshalBinary(v); err != nil {
		return row, false, b.corrupt(v)
	}
	return row, true, nil
}

// PutRow writes a row. The caller must not modify what the row points to afterwards.
func PutRow[T any, R interface {
	*T
	Row
}](b *Bucket, key []byte, row T) error {
	if len(key) == 0 || len(key) > maxKey {
		return fmt.Errorf("put in %s: %w", b.name, ErrKey)
	}
	e, err := b.change(key)
	if err != nil {
		return err
	}
	if r, ok := e.row.(R); ok {
		*r = row
		return nil
	}
	e.row = R(&row)
	b.count(decodedSize)
	return nil
}

// EncodeRow writes a row as [PutRow] does, but encodes it at once and does not keep it decoded. It is for
// rows that are not likely to be needed again soon.
func EncodeRow(b *Bucket, key []byte, row Row) error {
	if err := b.check(); err != nil {
		return err
	}
	v, err := b.encode(row)
	if err != nil {
		return err
	}
	return b.put(key, v)
}
