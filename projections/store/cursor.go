package store

import (
	"bytes"
	"fmt"

	"github.com/tidwall/btree"
	"go.etcd.io/bbolt"
)

// Cursor moves over a bucket in the order of its keys. A nil key means that there is no further one; then First, Last
// or Seek must be called before Next or Prev.
type Cursor struct {
	b    *Bucket
	file *bbolt.Cursor
	// sources are the tables in memory, the newest first, and the file. Each is at its next row, seen from at.
	sources  []source
	at       []byte // the key of the last move; nil if there is none
	backward bool   // the direction of the last move
	within   []byte // no deleted rows are passed behind the keys that begin with it
}

// move is a movement of a source.
type move int

const (
	toFirst move = iota
	toLast
	toKey
	toNext
	toPrev
)

// source is one ordered list of rows that a cursor reads.
type source struct {
	file       *bbolt.Cursor // nil for a table in memory
	table      btree.MapIter[string, []byte]
	key, value []byte // the row that it is at; no key at its end. No value means that the row was deleted
}

// First moves to the first key.
func (c *Cursor) First() (key, value []byte) { return c.start(toFirst, nil) }

// Last moves to the last key.
func (c *Cursor) Last() (key, value []byte) { return c.start(toLast, nil) }

// Seek moves to the first key at or after the given one.
func (c *Cursor) Seek(seek []byte) (key, value []byte) { return c.start(toKey, seek) }

// Before moves to the last key before the given one.
func (c *Cursor) Before(seek []byte) (key, value []byte) {
	if key, _ := c.Seek(seek); key == nil {
		return c.Last()
	}
	return c.Prev()
}

// Next moves to the next key.
func (c *Cursor) Next() (key, value []byte) { return c.step(false) }

// Prev moves to the previous key.
func (c *Cursor) Prev() (key, value []byte) { return c.step(true) }

// start writes the bucket's buffered changes and moves all sources. If the changes can't be written, there is no row,
// and the Update fails at its end.
func (c *Cursor) start(to move, seek []byte) (key, value []byte) {
	c.at, c.sources = nil, c.sources[:0]
	if c.b.flush() != nil {
		return nil, nil
	}
	for _, r := range c.b.over {
		c.sources = append(c.sources, source{table: r.tree.Iter()})
	}
	if c.file == nil && c.b.b != nil {
		c.file = c.b.b.Cursor()
	}
	if c.file != nil {
		c.sources = append(c.sources, source{file: c.file})
	}
	for i := range c.sources {
		c.sources[i].move(c.b, to, seek)
	}
	c.backward = to == toLast
	return c.pick()
}

// step moves to the next row in a direction.
func (c *Cursor) step(backward bool) (key, value []byte) {
	if c.at == nil {
		return nil, nil
	}
	if c.backward != backward && len(c.sources) > 1 {
		c.turn(backward)
	} else {
		c.advance(backward)
	}
	c.backward = backward
	return c.pick()
}

// advance moves the sources that are at the present row.
func (c *Cursor) advance(backward bool) {
	to, at := toNext, c.at
	if backward {
		to = toPrev
	}
	for i := range c.sources {
		if s := &c.sources[i]; s.key != nil && bytes.Equal(s.key, at) {
			s.move(c.b, to, at)
		}
	}
}

// turn moves all sources to their next row in the other direction.
func (c *Cursor) turn(backward bool) {
	for i := range c.sources {
		s := &c.sources[i]
		s.move(c.b, toKey, c.at)
		switch {
		case !backward && s.key != nil && bytes.Equal(s.key, c.at):
			s.move(c.b, toNext, c.at)
		case backward && s.key != nil:
			s.move(c.b, toPrev, s.key)
		case backward:
			s.move(c.b, toLast, nil)
		}
	}
}

// pick returns the nearest row of all sources. Of several with the same key it is the one of the newest.
func (c *Cursor) pick() (key, value []byte) {
	for {
		var best *source
		for i := range c.sources {
			s := &c.sources[i]
			if s.key == nil {
				continue
			}
			if best != nil {
				if order := bytes.Compare(s.key, best.key); order == 0 || order > 0 != c.backward {
					continue
				}
			}
			best = s
		}
		if best == nil {
			c.at = nil
			return nil, nil
		}
		c.at = best.key
		if best.file != nil {
			return c.at, c.b.value(best.key, best.value)
		}
		if best.value != nil {
			return c.at, best.value
		}
		if !bytes.HasPrefix(c.at, c.within) {
			c.at = nil
			return nil, nil
		}
		c.advance(c.backward)
	}
}

// move moves a source. from is the key to seek, or that of the last move. It panics with a [*damage] if the file is
// damaged.
func (s *source) move(b *Bucket, to move, from []byte) {
	b.tx.moves++
	if s.file == nil {
		s.moveTable(to, from)
		return
	}
	defer guard()
	order, atLeast := 0, 0
	switch to {
	case toFirst:
		s.key, s.value = s.file.First()
	case toLast:
		s.key, s.value = s.file.Last()
	case toKey:
		s.key, s.value = s.file.Seek(from)
		atLeast = 1
	case toNext:
		s.key, s.value = s.file.Next()
		order = 1
	case toPrev:
		s.key, s.value = s.file.Prev()
		order = -1
	}
	if s.key == nil {
		return
	}
	got := bytes.Compare(s.key, from)
	if order != 0 && got != order || atLeast > 0 && got < 0 {
		panic(&damage{fmt.Errorf("%w: keys of %s are out of order", ErrCorrupt, b.name)})
	}
}

func (s *source) moveTable(to move, from []byte) {
	var there bool
	switch to {
	case toFirst:
		there = s.table.First()
	case toLast:
		there = s.table.Last()
	case toKey:
		there = s.table.Seek(string(from))
	case toNext:
		there = s.table.Next()
	case toPrev:
		there = s.table.Prev()
	}
	s.key, s.value = nil, nil
	if there {
		v := s.table.Value()
		s.key, s.value = []byte(s.table.Key()), v[:len(v):len(v)]
	}
}
