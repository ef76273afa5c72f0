package store

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tidwall/btree"
	"go.etcd.io/bbolt"
)

const (
	// treeDegree is half of the rows in a node of a table. A transaction copies each node that it changes.
	treeDegree = 16
	// roomTimeout bounds how long an Update waits while the table is full.
	roomTimeout = 5 * time.Second
)

// table has changed rows in memory, by bucket. Once a transaction has committed it, it does not change any more, so that
// any number of transactions can read it.
type table struct {
	buckets map[string]*rows
	bytes   int // about how many it has
	limit   int // from which it is full
}

// rows are the changed rows of one bucket. A nil value is that of a deleted row.
type rows struct {
	tree      *btree.Map[string, []byte]
	ascending bool
}

// copy returns a table that can be changed. It shares the rows until they are changed.
func (t *table) copy() *table {
	c := *t
	c.buckets = maps.Clone(t.buckets)
	return &c
}

// memory has the tables of a store. Its fields are protected by Store.begin, except for the locks and channels.
type memory struct {
	// active has the newest changes. frozen has those before them while they are written to the file; nil if nothing
	// is to be written. A transaction sees active over frozen over the file: whether it sees the file as of before or
	// after frozen was written makes no difference.
	active, frozen *table
	failed         error         // of the last flush
	ended          chan struct{} // closed and replaced at the end of a flush

	flushing sync.Mutex // one flush at a time; it is locked before Store.updates
	dirty    chan struct{}
	full     chan struct{}
	stop     chan struct{}
	stopped  chan struct{}
}

func newMemory(limit int) *memory {
	return &memory{
		active: &table{buckets: map[string]*rows{}, limit: limit}, ended: make(chan struct{}),
		dirty: make(chan struct{}, 1), full: make(chan struct{}, 1),
		stop: make(chan struct{}), stopped: make(chan struct{}),
	}
}

// KeepInMemory begins to keep so many bytes of changes in memory, as Options.Memory does; 0 or less keeps none. It is for
// a new file that was built without. The caller must make sure that nothing else uses the store at the same time, and
// call it once.
func (s *Store) KeepInMemory(bytes int) {
	if bytes <= 0 {
		return
	}
	s.updates.Lock() // the filter may be made anew or scanned at the same time
	s.begin.Lock()
	s.mem = newMemory(bytes)
	s.begin.Unlock()
	s.updates.Unlock()
	go s.flushes(s.opts.FlushEvery)
}

// levels returns the tables over the file. The caller has the lock of begin.
func (m *memory) levels() []*table {
	switch {
	case m == nil:
		return nil
	case m.frozen == nil:
		return []*table{m.active}
	}
	return []*table{m.active, m.frozen}
}

// rowsOf returns the rows of a bucket in the tables over the file, the newest first.
func (tx *Tx) rowsOf(bucket string) (over []*rows) {
	for _, t := range tx.levels {
		if r := t.buckets[bucket]; r != nil {
			over = append(over, r)
		}
	}
	return over
}

// own returns the rows that the Update may change.
func (b *Bucket) own() *rows {
	if b.mine != nil {
		return b.mine
	}
	b.mine = &rows{tree: btree.NewMap[string, []byte](treeDegree)}
	if r := b.tx.mine.buckets[b.name]; r != nil {
		b.mine = &rows{tree: r.tree.Copy(), ascending: r.ascending}
	}
	b.tx.mine.buckets[b.name] = b.mine
	b.over = b.tx.rowsOf(b.name)
	return b.mine
}

// keep sets a value in the table of the Update; nil deletes the row.
func (b *Bucket) keep(key string, value []byte) {
	before, replaced := b.own().tree.Set(key, value)
	b.tx.mine.bytes += len(value) - len(before)
	if !replaced {
		b.tx.mine.bytes += len(key) + entryOverhead
	}
}

// updateMemory is an Update that changes the table in memory.
func (s *Store) updateMemory(f func(*Tx) error) error {
	s.updates.Lock()
	defer s.updates.Unlock()
	t, err := s.snapshot()
	if err != nil {
		return err
	}
	defer s.rollback(t.tx)
	t.writable, t.mine, t.base = true, t.levels[0].copy(), t.levels[0].bytes
	t.levels[0] = t.mine
	if err := f(t); err != nil {
		return err
	}
	if err := t.flush(); err != nil {
		return err
	}
	s.begin.Lock()
	defer s.begin.Unlock()
	if err := s.Suspicion(); err != nil { // another transaction may have found it meanwhile
		return err
	}
	s.mem.active = t.mine
	signal(s.mem.dirty)
	if t.mine.bytes >= t.mine.limit {
		signal(s.mem.full)
	}
	return nil
}

// signal sends on a channel unless a signal is pending there.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// room waits until the table has room for an Update. After a flush that failed it tries another one.
func (s *Store) room() error {
	end := time.NewTimer(roomTimeout)
	defer end.Stop()
	for {
		s.begin.Lock()
		full, failed, ended := s.mem.active.bytes >= s.mem.active.limit, s.mem.failed, s.mem.ended
		s.begin.Unlock()
		switch {
		case failed != nil:
			if err := s.Flush(); err != nil {
				return err
			}
			continue
		case !full:
			return nil
		}
		select {
		case <-ended:
		case <-end.C:
			return ErrBehind
		case <-s.mem.stop:
			return ErrClosed
		}
	}
}

// Unwritten returns the error of the last try to write to the file what is in memory only, or nil if it has succeeded.
func (s *Store) Unwritten() error {
	if s.mem == nil {
		return nil
	}
	s.begin.Lock()
	defer s.begin.Unlock()
	return s.mem.failed
}

// flushes writes the table to the file when it is full or has been changed a while ago, until the store is closed.
func (s *Store) flushes(every time.Duration) {
	defer close(s.mem.stopped)
	wait := time.NewTimer(every)
	defer wait.Stop()
	for {
		select {
		case <-s.mem.dirty:
		case <-s.mem.stop:
			return
		}
		wait.Reset(every)
		select {
		case <-wait.C:
		case <-s.mem.full:
		case <-s.mem.stop:
			return
		}
		if s.Flush() != nil && s.Suspicion() == nil {
			signal(s.mem.dirty) // it is tried again
		}
	}
}

// stopFlushes ends flushes, and then writes what is left. No transaction runs any more.
func (s *Store) stopFlushes() error {
	if s.mem == nil {
		return nil
	}
	close(s.mem.stop)
	<-s.mem.stopped
	if s.Suspicion() != nil {
		return nil
	}
	return s.flush()
}

// Flush writes to the file what is in memory only: all that was committed before the call. It does nothing without
// Options.Memory. After an error the changes stay in memory and can be read, and are written later.
func (s *Store) Flush() error {
	if s.mem == nil {
		return nil
	}
	return s.run(s.flush)
}

func (s *Store) flush() error {
	s.mem.flushing.Lock()
	defer s.mem.flushing.Unlock()
	s.updates.Lock()
	left := s.freeze()
	s.updates.Unlock()
	if err := s.thaw(); err != nil || !left {
		return err
	}
	s.updates.Lock()
	s.freeze()
	s.updates.Unlock()
	return s.thaw()
}

// aloneInFile calls f while no Update runs, nobody else writes to the file, and nothing is in memory only.
func (s *Store) aloneInFile(f func() error) error {
	if s.mem != nil {
		s.mem.flushing.Lock()
		defer s.mem.flushing.Unlock()
	}
	s.updates.Lock()
	defer s.updates.Unlock()
	if s.mem != nil {
		for s.freeze() {
			if err := s.thaw(); err != nil {
				return err
			}
		}
		if err := s.thaw(); err != nil {
			return err
		}
	}
	defer guard()
	return f()
}

// freeze makes the changes so far those that are written next. It reports whether there are some left of a flush that
// failed; then it does nothing. The caller has the locks of flushing and updates.
func (s *Store) freeze() (left bool) {
	s.begin.Lock()
	defer s.begin.Unlock()
	m := s.mem
	if m.frozen != nil {
		return true
	}
	if len(m.active.buckets) > 0 {
		m.frozen, m.active = m.active, &table{buckets: map[string]*rows{}, limit: m.active.limit}
	}
	return false
}

// thaw writes the frozen changes to the file, and drops them when that has succeeded. The caller has the lock of
// flushing.
func (s *Store) thaw() error {
	s.begin.Lock()
	frozen := s.mem.frozen
	s.begin.Unlock()
	if frozen == nil {
		return nil
	}
	err := s.write(func(tx *bbolt.Tx) (bool, error) { return s.sums, s.writeTable(tx, frozen) })
	if err != nil {
		err = fmt.Errorf("write read model to its file: %w", err)
	}
	s.begin.Lock()
	defer s.begin.Unlock()
	m := s.mem
	if m.failed = err; err == nil {
		m.frozen = nil
	}
	close(m.ended)
	m.ended = make(chan struct{})
	return err
}

// writeTable writes a table in order of its keys.
func (s *Store) writeTable(tx *bbolt.Tx, t *table) error {
	defer guard()
	key := make([]byte, 0, 256) // bbolt copies keys but not values
	for _, name := range slices.Sorted(maps.Keys(t.buckets)) {
		file, err := tx.CreateBucketIfNotExists([]byte(name))
		if err != nil {
			return fmt.Errorf("create bucket %s: %w", name, err)
		}
		r := t.buckets[name]
		if r.ascending {
			file.FillPercent = ascendingFill
		}
		b := &Bucket{name: name, b: file, sums: s.sums, sum: nameSum(name), filter: s.filter.of(name)}
		r.tree.Scan(func(k string, v []byte) bool {
			key = append(key[:0], k...)
			err = b.write(key, v, v == nil)
			return err == nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
