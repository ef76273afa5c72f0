package store

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidwall/btree"
	"go.etcd.io/bbolt"

	"github.com/pagestream/pagestream/internal/yield"
)

const (
	// treeDegree is half of the rows in a node of a table. An Update of a copy copies each node that it changes.
	treeDegree = 16
	// maxInPlace is how many changed rows an Update sets while no transaction can begin: some 2 ms.
	maxInPlace = 4096
	// roomTimeout bounds how long an Update waits while the table is full.
	roomTimeout = 5 * time.Second
)

// table has changed rows in memory, by bucket.
//
// A View sees the tables that are over the file when it begins, so they must not change while it is open. A table
// changes in one place alone, at the end of an Update (see [Store.commit]): the active one if no View sees it, under the
// lock of begin, so that none begins to; otherwise, and if the Update has to write changes before its end, a copy that
// then replaces it. A copy shares no node with the table that either of them still changes. A frozen table never changes.
type table struct {
	buckets map[string]*rows
	bytes   int          // about how many it has
	limit   int          // from which it is full
	views   atomic.Int32 // how many open Views see it; it is raised under the lock of begin
}

// rows are the changed rows of one bucket. A nil value is that of a deleted row.
type rows struct {
	tree      *btree.Map[string, []byte]
	ascending bool
}

// copy returns a table that no View sees. It shares the nodes of the trees until they are changed.
func (t *table) copy() *table {
	c := &table{buckets: make(map[string]*rows, len(t.buckets)), bytes: t.bytes, limit: t.limit}
	for name, r := range t.buckets {
		c.buckets[name] = &rows{tree: r.tree.Copy(), ascending: r.ascending}
	}
	return c
}

// set sets rows; one without a value is deleted.
func (t *table) set(bucket string, ascending bool, changed []entry) {
	r := t.buckets[bucket]
	if r == nil {
		r = &rows{tree: btree.NewMap[string, []byte](treeDegree)}
		t.buckets[bucket] = r
	}
	r.ascending = r.ascending || ascending
	for _, e := range changed {
		before, replaced := r.tree.Set(e.key, e.value)
		t.bytes += len(e.value) - len(before)
		if !replaced {
			t.bytes += len(e.key) + entryOverhead
		}
	}
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

// release ends what a View sees.
func (tx *Tx) release() {
	if len(tx.levels) > 0 {
		tx.levels[0].views.Add(-1)
	}
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

// keep sets the changes of all buckets, which are encoded, in the table of the Update.
func (tx *Tx) keep() {
	for _, b := range tx.buckets {
		b.keep()
	}
}

// copyTable makes the Update change a copy of the table.
func (tx *Tx) copyTable() {
	if tx.copied {
		return
	}
	tx.mine, tx.copied = tx.mine.copy(), true
	tx.levels[0] = tx.mine
}

// keep sets the bucket's changes, which are encoded, in the table of the Update.
func (b *Bucket) keep() {
	if b.pending == nil {
		return
	}
	b.tx.mine.set(b.name, b.ascending, b.pending.list)
	b.drop()
	b.over = b.tx.rowsOf(b.name)
}

// updateMemory is an Update that changes the table in memory.
func (s *Store) updateMemory(f func(*Tx) error) error {
	s.updates.Lock()
	defer s.updates.Unlock()
	t, err := s.snapshot(false)
	if err != nil {
		return err
	}
	defer s.rollback(t.tx)
	t.writable, t.scratch, t.mine, t.base = true, &s.scratch, t.levels[0], t.levels[0].bytes
	defer t.drop()
	if err := f(t); err != nil {
		return err
	}
	return s.commit(t)
}

// commit sets the changes of an Update in the table in memory. After an error it has set none.
func (s *Store) commit(t *Tx) error {
	for _, b := range t.buckets {
		if err := b.encodeAll(); err != nil {
			return err
		}
	}
	if t.changes > maxInPlace {
		t.copyTable()
		t.keep()
	}
	s.begin.Lock()
	defer s.begin.Unlock()
	if err := s.Suspicion(); err != nil { // another transaction may have found it meanwhile
		return err
	}
	if t.mine.views.Load() > 0 {
		t.copyTable()
	}
	t.keep()
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

// retryEvery is how long after a failed write to the file the next one is tried, while no Update tries it.
const retryEvery = time.Second

// flushes writes the table to the file when it is full or has been changed a while ago, until the store is closed.
func (s *Store) flushes(every time.Duration) {
	defer close(s.mem.stopped)
	wait := time.NewTimer(every)
	defer wait.Stop()
	pause := every
	for {
		select {
		case <-s.mem.dirty:
		case <-s.mem.stop:
			return
		}
		wait.Reset(pause)
		select {
		case <-wait.C:
		case <-s.mem.full:
		case <-s.mem.stop:
			return
		}
		pause = every
		if s.Flush() != nil && s.Suspicion() == nil {
			pause = min(every, retryEvery)
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
	var loop yield.Loop
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
			loop.Step()
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
