package store

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
)

const (
	// maxHeld bounds what an Update holds back; it then makes the changes early,
	// and from fullHeld on it should better end.
	maxHeld  = 64 << 20
	fullHeld = 48 << 20
	// heldRow is what an entry counts for beside its bytes, and a decoded row
	// instead of them.
	heldRow = 128
	heldObj = 1024
	// maxScratch bounds what an Update keeps for the encoding of rows.
	maxScratch = 1 << 20
)

// pending are the rows that an Update has changed, by key.
type pending map[string]*entry

// entry is one of them: a value, a row that is encoded when it is needed, or a
// deletion.
type entry struct {
	key     string
	value   []byte
	row     Row
	deleted bool
}

// encoded returns the value of an entry, nil if it is deleted.
func (b *Bucket) encoded(e *entry) ([]byte, error) {
	if e.value != nil || e.row == nil {
		return e.value, nil
	}
	var err error
	e.value, err = b.encode(e.row)
	return e.value, err
}

// encode encodes a row into bytes of its own, no more than it needs.
func (b *Bucket) encode(row Row) ([]byte, error) {
	v, err := row.AppendBinary(b.tx.scratch[:0])
	if err != nil {
		return nil, fmt.Errorf("encode %T for %s: %w", row, b.name, err)
	}
	if cap(v) <= maxScratch {
		b.tx.scratch = v
	}
	return append(make([]byte, 0, len(v)), v...), nil
}

// read returns the value as it is now, nil if there is none. It is shared.
func (b *Bucket) read(key []byte) ([]byte, error) {
	if e := b.pending[string(key)]; e != nil {
		return b.encoded(e)
	}
	if b.b == nil {
		return nil, nil
	}
	return b.b.Get(key), nil
}

// put sets a value that belongs to the bucket from here on.
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

// change returns the entry of a key that is about to be changed. It has lost its
// value, and may still have a row.
func (b *Bucket) change(key []byte) (*entry, error) {
	if err := b.check(); err != nil {
		return nil, err
	}
	if e := b.pending[string(key)]; e != nil {
		b.count(-len(e.value))
		e.value, e.deleted = nil, false
		return e, nil
	}
	if b.tx.held >= maxHeld {
		if err := b.tx.flush(); err != nil {
			return nil, err
		}
	}
	if b.pending == nil {
		b.pending = make(pending)
	}
	e := &entry{key: string(key)}
	b.pending[e.key] = e
	b.count(len(key) + heldRow)
	return e, nil
}

// count counts bytes that are held back.
func (b *Bucket) count(n int) {
	b.held += n
	b.tx.held += n
}

// Full reports whether an Update holds so much back that it should end here, and
// another go on. Within one Update bbolt's pages grow and are not split: changes
// that are made in order of keys are quick, but those that are made after others
// move half of a page that may have become very large.
func (tx *Tx) Full() bool { return tx.held >= fullHeld }

// flush makes all changes that are held back.
func (tx *Tx) flush() error {
	for _, b := range tx.buckets {
		if err := b.flush(); err != nil {
			return err
		}
	}
	return nil
}

// flush makes the bucket's changes, in order of keys. After an error it keeps
// them, and fails again.
func (b *Bucket) flush() error {
	if len(b.pending) == 0 {
		return nil
	}
	list := make([]*entry, 0, len(b.pending))
	for _, e := range b.pending {
		list = append(list, e)
	}
	slices.SortFunc(list, func(x, y *entry) int { return cmp.Compare(x.key, y.key) })
	key := make([]byte, 0, 256) // bbolt copies keys, and keeps values
	for _, e := range list {
		key = append(key[:0], e.key...)
		if e.deleted {
			if err := b.b.Delete(key); err != nil {
				return fmt.Errorf("delete from %s: %w", b.name, err)
			}
			continue
		}
		v, err := b.encoded(e)
		if err != nil {
			return err
		}
		if err := b.b.Put(key, v); err != nil {
			return fmt.Errorf("put in %s: %w", b.name, err)
		}
	}
	b.count(-b.held)
	b.pending = nil
	return nil
}

// Row is a value that an Update keeps decoded, and encodes once however often it
// is put.
type Row interface {
	// AppendBinary appends the row's form to b.
	AppendBinary(b []byte) ([]byte, error)
	// UnmarshalBinary reads what AppendBinary wrote. It keeps nothing of b.
	UnmarshalBinary(b []byte) error
}

// AppendJSON is the AppendBinary of what is kept as JSON. A string that is not
// UTF-8 comes to the same bytes however often it was written and read.
func AppendJSON[T any](b []byte, value *T) ([]byte, error) {
	v, err := json.Marshal(value)
	if err == nil && bytes.Contains(v, []byte(`\ufffd`)) { // once it is read, it is no escape any more
		var again T
		if err = json.Unmarshal(v, &again); err == nil {
			v, err = json.Marshal(&again)
		}
	}
	return append(b, v...), err
}

// GetRow reads a row that [PutRow] wrote; false if there is none. What the row
// points to is shared with the transaction: to change it and not put it is a
// mistake.
func GetRow[T any, R interface {
	*T
	Row
}](b *Bucket, key []byte) (row T, found bool, err error) {
	if e := b.pending[string(key)]; e != nil {
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

// PutRow writes a row. What it points to belongs to the transaction from here on.
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
	b.count(heldObj)
	return nil
}

// EncodeRow writes a row that is not likely to be needed again soon: it is encoded
// at once and not kept.
func EncodeRow(b *Bucket, key []byte, row Row) error {
	v, err := b.encode(row)
	if err != nil {
		return err
	}
	return b.put(key, v)
}
