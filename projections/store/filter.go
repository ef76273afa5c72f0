package store

import (
	"bytes"
	"sync"
	"sync/atomic"

	"github.com/bits-and-blooms/bloom/v3"
)

// Sizes of a filter, in keys. One key has some 10 bits, with which 1 of 100 look-ups of a missing key reads the file.
const (
	minFilterKeys = 1 << 20
	maxFilterKeys = 1 << 26 // 80 MiB; with more keys the filter is less use
	filterRate    = 0.01
	// fillKeys is how many keys one transaction of a scan reads.
	fillKeys = 1000
)

// filter knows which keys of one bucket the file may have, so that most look-ups of a key that it does not have read no
// page. It is made anew, of twice the size, when the file has more keys than it is for.
type filter struct {
	bucket string
	most   uint // the largest size

	ready atomic.Bool // keys is of use: it has all keys of the file
	full  chan struct{}
	stop  chan struct{}
	ended chan struct{}

	mu         sync.RWMutex
	keys, next *bloom.BloomFilter // next is being filled, or nil
	size, have uint               // how many keys the newer of them is for, and how many were added to it
}

// newFilter returns the filter of a bucket, with room for the keys that are added before it is filled.
func newFilter(bucket string) *filter {
	f := &filter{
		bucket: bucket, most: maxFilterKeys,
		full: make(chan struct{}, 1), stop: make(chan struct{}), ended: make(chan struct{}),
	}
	f.grow(minFilterKeys)
	return f
}

// of returns the filter if it is that of the bucket, nil otherwise.
func (f *filter) of(bucket string) *filter {
	if f == nil || f.bucket != bucket {
		return nil
	}
	return f
}

// lacks reports whether the file does not have the key. False says nothing.
func (f *filter) lacks(key []byte) bool {
	if f == nil || !f.ready.Load() {
		return false
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	return !f.keys.Test(key)
}

// add is called before a key is written to the file.
func (f *filter) add(key []byte) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, b := range []*bloom.BloomFilter{f.keys, f.next} {
		if b != nil {
			b.Add(key)
		}
	}
	if f.have++; f.have > f.size && f.size < f.most {
		signal(f.full)
	}
}

// grow begins a filter for so many keys, which is used when it is filled.
func (f *filter) grow(size uint) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.size, f.have = min(size, f.most), 0
	f.next = bloom.NewWithEstimates(f.size, filterRate)
}

// close ends fillFilter.
func (f *filter) close() {
	if f != nil {
		close(f.stop)
		<-f.ended
	}
}

// fillFilter fills the filter from the file, and again each time that it is full, until the store is closed. After an
// error, which is that of the file, look-ups read the file as before.
func (s *Store) fillFilter() {
	f := s.filter
	defer close(f.ended)
	for s.scanFilter() == nil {
		f.mu.Lock()
		f.keys, f.next = f.next, nil
		f.mu.Unlock()
		f.ready.Store(true)
		select {
		case <-f.full:
		case <-f.stop:
			return
		}
		if s.run(s.growFilter) != nil {
			return
		}
	}
}

// growFilter begins a larger filter while nobody writes to the file: what is committed then is found by a scan, and what
// is committed later is added.
func (s *Store) growFilter() error {
	s.updates.Lock()
	if mem := s.mem; mem != nil { // it stays what it is
		s.updates.Unlock() // flushing is locked before it
		mem.flushing.Lock()
		defer mem.flushing.Unlock()
		s.updates.Lock()
	}
	defer s.updates.Unlock()
	s.filter.grow(2 * s.filter.size)
	return nil
}

// scanFilter adds all keys of the file. Those that are written meanwhile are added by add.
func (s *Store) scanFilter() error {
	after := []byte(nil)
	for more := true; more; {
		err := s.View(func(tx *Tx) (err error) {
			after, more, err = tx.addKeys(after)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// addKeys adds the next keys of the file, and returns the last of them; false if it was the last one of all.
func (tx *Tx) addKeys(after []byte) (last []byte, more bool, err error) {
	defer guard()
	b := tx.tx.Bucket([]byte(tx.filter.bucket))
	if b == nil {
		return nil, false, nil
	}
	c := b.Cursor()
	k, _ := c.Seek(after)
	if k != nil && bytes.Equal(k, after) {
		k, _ = c.Next()
	}
	tx.filter.mu.Lock()
	defer tx.filter.mu.Unlock()
	for n := 0; k != nil; n++ {
		if n == fillKeys {
			return last, true, nil
		}
		tx.filter.next.Add(k)
		tx.filter.have++
		last = append(last[:0], k...)
		k, _ = c.Next()
	}
	return nil, false, nil
}
