package store

import "strings"

const (
	// slabSize is how many bytes are allocated at once for the keys and values of several rows. They stay in memory as
	// long as one of these rows does: in a table until it was written to the file.
	slabSize = 32 << 10
	// maxScratch is the largest buffer, in bytes, that is kept for encoding rows, and maxPending how many changes of a
	// bucket one is kept for.
	maxScratch = 1 << 20
	maxPending = 1024
)

// scratch is memory that the Updates of a store use one after the other. A View has none.
type scratch struct {
	row     []byte // a row that is being encoded
	values  []byte // the part of a slab that is in use
	keys    strings.Builder
	pending map[string]*pending // by bucket; those that no Bucket has are empty
}

func newScratch() scratch { return scratch{pending: map[string]*pending{}} }

// value returns an empty slice with a capacity of n bytes for a value that is kept.
func (s *scratch) value(n int) []byte {
	if s == nil || n > slabSize/8 {
		return make([]byte, 0, n)
	}
	at := len(s.values)
	if cap(s.values)-at < n {
		s.values, at = make([]byte, 0, slabSize), 0
	}
	s.values = s.values[:at+n]
	return s.values[at : at : at+n]
}

// key returns a copy of a key that is kept.
func (s *scratch) key(key []byte) string {
	if len(key) > slabSize/8 {
		return string(key)
	}
	if s.keys.Cap()-s.keys.Len() < len(key) {
		s.keys.Reset() // the other keys keep the slab
		s.keys.Grow(slabSize)
	}
	at := s.keys.Len()
	s.keys.Write(key)
	return s.keys.String()[at:]
}

// pendingOf returns the empty list of changes of a bucket.
func (s *scratch) pendingOf(bucket string) *pending {
	p := s.pending[bucket]
	if p == nil {
		p = &pending{at: map[string]int{}}
		s.pending[bucket] = p
	}
	return p
}

// pending are the changes of a bucket that an Update has not written yet, in the order in which their keys came first.
type pending struct {
	at   map[string]int // the index of a key
	list []entry
}

// get returns the change of a key, or nil if there is none. It is valid until the next one is added.
func (p *pending) get(key []byte) *entry {
	if p == nil {
		return nil
	}
	if i, ok := p.at[string(key)]; ok {
		return &p.list[i]
	}
	return nil
}

// add adds a change of a key that has none. It is valid until the next one is added.
func (p *pending) add(key string) *entry {
	p.at[key] = len(p.list)
	p.list = append(p.list, entry{key: key})
	return &p.list[len(p.list)-1]
}

// reset drops all changes.
func (p *pending) reset() {
	if len(p.list) > maxPending {
		*p = pending{at: map[string]int{}}
		return
	}
	clear(p.at)
	clear(p.list)
	p.list = p.list[:0]
}
