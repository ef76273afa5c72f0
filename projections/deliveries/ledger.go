package deliveries

import (
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/nats-io/nuid"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

const (
	ledgerBucket  = "ledger"
	flushInterval = time.Second
	// maxReasons is the maximum number of different reasons.
	maxReasons  = 32
	reasonOther = "other"
)

var (
	ledgerKey = []byte("counts")
	idKey     = []byte("id")
)

// Counts has the counts of one node's deliveries since its ledger was created.
type Counts struct {
	// Posts counts the received deliveries, Accepted those that were answered 200.
	Posts    uint64 `json:"posts"`
	Accepted uint64 `json:"accepted"`
	// Items counts the items of accepted deliveries, Stored those that the
	// stream did not have: Items is the sum of Stored, ByIndex and ByWindow.
	Items  uint64 `json:"items"`
	Stored uint64 `json:"stored"`
	// ByIndex and ByWindow count the items that were in the stream already, by
	// type: those that the index of ids found, and those that JetStream's duplicate
	// window found.
	ByIndex  map[domain.Type]uint64 `json:"by_index,omitempty"`
	ByWindow map[domain.Type]uint64 `json:"by_window,omitempty"`
	// Unreadable counts accepted deliveries that were stored as a whole, because
	// their content could not be parsed.
	Unreadable uint64 `json:"unreadable"`
	// Rejected counts the deliveries that were not accepted, by reason.
	Rejected map[string]uint64 `json:"rejected,omitempty"`
	// LastSeq is the highest sequence in the stream of an item of an accepted delivery.
	LastSeq uint64 `json:"last_seq,omitempty"`
	// Since is when the ledger was created.
	Since time.Time `json:"since,omitzero"`
}

// Published is what a ledger has published for other nodes: counts that were in its file.
type Published struct {
	// Ledger is the ledger's id, Node the name of its machine.
	Ledger string `json:"ledger"`
	Node   string `json:"node"`
	// At is when it was published.
	At     time.Time `json:"at"`
	Counts Counts    `json:"counts"`
}

// Duplicates returns the number of items that were in the stream already.
func (c Counts) Duplicates() uint64 {
	var n uint64
	for _, m := range []map[domain.Type]uint64{c.ByIndex, c.ByWindow} {
		for _, k := range m {
			n += k
		}
	}
	return n
}

func (c Counts) clone() Counts {
	c.ByIndex, c.ByWindow, c.Rejected = maps.Clone(c.ByIndex), maps.Clone(c.ByWindow), maps.Clone(c.Rejected)
	return c
}

// makeMaps makes the maps that are nil.
func (c *Counts) makeMaps() {
	if c.ByIndex == nil {
		c.ByIndex = make(map[domain.Type]uint64)
	}
	if c.ByWindow == nil {
		c.ByWindow = make(map[domain.Type]uint64)
	}
	if c.Rejected == nil {
		c.Rejected = make(map[string]uint64)
	}
}

// Ledger counts the deliveries that never reach the stream, and those that do. It
// counts in memory, without disk access; once a second, and on Close, it writes the
// counts to its own file. So after a crash the deliveries of the last second may be
// missing. It is not a fold of events and can't be rebuilt: a file that is corrupt at
// the start is renamed and the ledger starts again at zero, which Since shows. A file that
// is damaged while it is in use is replaced by a new one, and no count is lost.
//
// Its methods are safe for concurrent use.
type Ledger struct {
	path  string
	id    string
	store *store.Store // of flushMu
	moved string
	stop  chan struct{}
	done  chan struct{}
	once  sync.Once

	flushMu sync.Mutex // so that older counts are never written after newer ones

	mu      sync.Mutex
	counts  Counts
	written Counts // to the file
	dirty   bool
	err     error // of the last flush
}

// OpenLedger opens the ledger's file, or creates it. It fails with store.ErrLocked if
// another process has it open.
func OpenLedger(path string) (*Ledger, error) {
	s, err := store.Open(path, store.Options{})
	if err != nil {
		return nil, err
	}
	l := &Ledger{path: path, store: s, moved: s.Recreated(), stop: make(chan struct{}), done: make(chan struct{})}
	var found bool
	err = s.View(func(tx *store.Tx) error {
		if l.id, _, err = store.GetJSON[string](tx.Bucket(ledgerBucket), idKey); err != nil {
			return err
		}
		l.counts, found, err = store.GetJSON[Counts](tx.Bucket(ledgerBucket), ledgerKey)
		return err
	})
	if err != nil && !errors.Is(err, store.ErrCorrupt) {
		return nil, errors.Join(fmt.Errorf("read ledger: %w", err), s.Close())
	}
	if err == nil {
		if err := s.AddSums(); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	if err != nil || !found {
		l.id, l.counts = "", Counts{Since: time.Now().UTC()}
	}
	if l.id == "" {
		l.id, l.dirty = nuid.Next(), true
	}
	l.written = Counts{Since: l.counts.Since}
	if !l.dirty {
		l.written = l.counts.clone()
	}
	l.counts.makeMaps()
	go l.flushEvery()
	return l, nil
}

// Received counts a delivery that was answered 200, with its events and the receipts
// that the publisher returned for them, in the same order.
func (l *Ledger) Received(events []domain.Event, receipts []streams.Receipt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dirty = true
	c := &l.counts
	c.Posts++
	c.Accepted++
	c.Items += uint64(len(events))
	for i, e := range events {
		t := e.Type
		if !t.Known() {
			t = typeUnknown
		}
		if t == domain.DeliveryUnreadable {
			c.Unreadable++
		}
		var d streams.Duplicate
		if i < len(receipts) {
			d, c.LastSeq = receipts[i].Duplicate, max(c.LastSeq, receipts[i].Seq)
		}
		switch d {
		case streams.ByIndex:
			c.ByIndex[t]++
		case streams.ByWindow:
			c.ByWindow[t]++
		default:
			c.Stored++
		}
	}
}

// Rejected counts a delivery that was not accepted. The reason must be one of a few
// fixed words, never text from a request. An empty reason, and every new one after the
// first 32, is counted as "other".
func (l *Ledger) Rejected(reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dirty = true
	l.counts.Posts++
	if _, known := l.counts.Rejected[reason]; reason == "" || !known && len(l.counts.Rejected) >= maxReasons {
		reason = reasonOther
	}
	l.counts.Rejected[reason]++
}

// Counts returns a copy of the counts, including those that are not written yet.
func (l *Ledger) Counts() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts.clone()
}

// ID returns the id of the ledger, which stays as long as its file. A ledger that starts again at zero has another.
func (l *Ledger) ID() string { return l.id }

// Written returns a copy of the counts that are in the file: those of the last second may be missing, but after a
// crash the ledger has at least these.
func (l *Ledger) Written() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.written.clone()
}

// Raise replaces the counts by those that the ledger has published, if these count more deliveries: then the file is
// an older copy of itself. It reports whether it did. It must be called before the first delivery.
func (l *Ledger) Raise(to Counts) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if to.Posts <= l.counts.Posts {
		return false
	}
	l.counts, l.dirty = to.clone(), true
	l.counts.makeMaps()
	return true
}

// Err returns the error of the last write, nil if it succeeded. The counts are written
// again after an error.
func (l *Ledger) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// flushEvery writes the counts every flushInterval until stop is closed.
func (l *Ledger) flushEvery() {
	defer close(l.done)
	t := time.NewTicker(flushInterval)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			_ = l.Flush() // Err returns the error
		case <-l.stop:
			return
		}
	}
}

// Flush writes the counts now, if they have changed since the last write.
func (l *Ledger) Flush() error {
	l.flushMu.Lock()
	defer l.flushMu.Unlock()
	l.mu.Lock()
	counts, dirty := l.counts.clone(), l.dirty
	l.dirty = false
	l.mu.Unlock()
	damaged := errors.Is(l.store.Inspect(), store.ErrCorrupt)
	if !dirty && !damaged {
		return nil
	}
	write := func() error {
		return l.store.Update(func(tx *store.Tx) error {
			b := tx.Bucket(ledgerBucket)
			return errors.Join(store.PutJSON(b, idKey, l.id), store.PutJSON(b, ledgerKey, counts))
		})
	}
	err := write()
	if errors.Is(err, store.ErrCorrupt) {
		if err = l.reopen(); err == nil {
			err = write()
		}
	}
	if err != nil {
		err = fmt.Errorf("write ledger: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.written = counts
	}
	l.err = err
	l.dirty = l.dirty || err != nil
	return err
}

// reopen opens the file again, or a new one if it is damaged or gone. The caller has
// flushMu.
func (l *Ledger) reopen() error {
	closeErr := l.store.Close() // of a damaged file: its memory map may stay
	s, err := store.Open(l.path, store.Options{})
	if err != nil {
		return errors.Join(err, closeErr)
	}
	l.store = s
	return nil
}

// Moved returns the new name of the file that was corrupt at the start, empty if there
// was none.
func (l *Ledger) Moved() string { return l.moved }

// Close writes the counts and closes the file. Counts of later calls are lost. It is
// idempotent.
func (l *Ledger) Close() error {
	var err error
	l.once.Do(func() {
		close(l.stop)
		<-l.done
		err = errors.Join(l.Flush(), l.store.Close())
	})
	return err
}
