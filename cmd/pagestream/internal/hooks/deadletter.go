package hooks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// MaxDeadLetterPage is the largest number of dead letters that [Hooks.DeadLetters]
// returns at once.
const MaxDeadLetterPage = 1000

// Errors of [Hooks.DeadLetters], [Hooks.Redrive] and [Hooks.Enable].
var (
	// ErrUnknownEndpoint is returned when no endpoint has that name.
	ErrUnknownEndpoint = errors.New("no such endpoint")
	// ErrNoDeadLetter is returned when the endpoint has no dead letter with that
	// sequence.
	ErrNoDeadLetter = errors.New("no such dead letter")
)

// DeadLetter is an event that was given up, because all tries to deliver it to an
// endpoint failed. It identifies the event but contains none of its data; the text
// of LastError comes from this package. After a crash between a try and its record,
// a dead letter may have been delivered all the same.
type DeadLetter struct {
	Seq       uint64        `json:"seq"`
	ID        string        `json:"id"`
	Type      domain.Type   `json:"type"`
	Page      domain.PageID `json:"page"`
	Attempts  int           `json:"attempts"`
	LastError string        `json:"last_error"`
	// At is when it was given up, or when it last failed to be sent again.
	At time.Time `json:"at"`
	// Redriving is set while it waits to be sent again.
	Redriving bool `json:"redriving,omitempty"`
}

// forEachOf calls f with each JSON value of one endpoint, in the order of keys.
func forEachOf[T any](b *store.Bucket, name string, f func(key []byte, value T) error) error {
	return b.ForEachPrefix(store.Key(name), func(key, raw []byte) error {
		var v T
		if err := json.Unmarshal(raw, &v); err != nil {
			return fmt.Errorf("decode %d bytes: %w", len(raw), store.ErrCorrupt)
		}
		return f(key, v)
	})
}

// putDeadLetter writes a dead letter, and counts it if it is new.
func (e *endpoint) putDeadLetter(d DeadLetter) error {
	isNew := false
	err := e.store.Update(func(tx *store.Tx) error {
		b, key := tx.Bucket(deadLettersBucket), store.Key(e.Name, d.Seq)
		isNew = !b.Has(key)
		return store.PutJSON(b, key, d)
	})
	if err != nil {
		return fmt.Errorf("write dead letter: %w", err)
	}
	if isNew {
		e.mu.Lock()
		e.dead++
		e.mu.Unlock()
	}
	return nil
}

// erased reports whether an event was erased from the stream.
func (e *endpoint) erased(seq uint64) bool {
	ctx, cancel := context.WithTimeout(context.Background(), streamTimeout)
	defer cancel()
	_, err := streams.Get(ctx, e.opts.JS, streams.Name, seq)
	return errors.Is(err, streams.ErrNotFound)
}

// redriveJob returns the event of a dead letter. A dead letter whose event is no
// longer in the stream is deleted.
func (e *endpoint) redriveJob(ctx context.Context, l *lane, seq uint64) (job, bool, error) {
	d, found, err := e.deadLetter(seq)
	if err != nil {
		return job{}, false, err
	}
	if !found {
		e.cancelRedrive(l, seq)
		return job{}, false, nil
	}
	s, err := streams.Get(ctx, e.opts.JS, streams.Name, seq)
	if errors.Is(err, streams.ErrNotFound) || errors.Is(err, streams.ErrMalformed) || (err == nil && s.ID != d.ID) {
		if err := e.deleteDeadLetter(seq); err != nil {
			return job{}, false, err
		}
		e.cancelRedrive(l, seq)
		return job{}, false, nil
	}
	if err != nil {
		return job{}, false, fmt.Errorf("get dead letter: %w", err)
	}
	return job{event: s, redrive: true}, true, nil
}

// cancelRedrive removes a dead letter from the lane's redrives.
func (e *endpoint) cancelRedrive(l *lane, seq uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	l.redrive = slices.DeleteFunc(l.redrive, func(s uint64) bool { return s == seq })
}

func (e *endpoint) deadLetter(seq uint64) (d DeadLetter, found bool, err error) {
	err = e.store.View(func(tx *store.Tx) error {
		d, found, err = store.GetJSON[DeadLetter](tx.Bucket(deadLettersBucket), store.Key(e.Name, seq))
		return err
	})
	if err != nil {
		return DeadLetter{}, false, fmt.Errorf("read dead letter: %w", err)
	}
	return d, found, nil
}

// deleteDeadLetter deletes a dead letter. It is idempotent.
func (e *endpoint) deleteDeadLetter(seq uint64) error {
	existed := false
	err := e.store.Update(func(tx *store.Tx) error {
		b, key := tx.Bucket(deadLettersBucket), store.Key(e.Name, seq)
		existed = b.Has(key)
		return b.Delete(key)
	})
	if err != nil {
		return fmt.Errorf("delete dead letter: %w", err)
	}
	if existed {
		e.mu.Lock()
		e.dead--
		e.mu.Unlock()
	}
	return nil
}

// Forget deletes the dead letters of the events at these sequences, which were erased
// from the stream, and overwrites their bytes in the file. It returns how many it
// deleted. Those of the events that wait to be sent are not sent any more; a try that is
// under way is finished.
func (h *Hooks) Forget(ctx context.Context, seqs map[uint64]bool) (n int, err error) {
	for _, e := range h.endpoints {
		e.mu.Lock()
		for _, l := range e.lanes {
			if slices.ContainsFunc(l.queue, func(s streams.Stored) bool { return seqs[s.Seq] }) {
				e.spill(l) // the stream has the others
			}
		}
		e.mu.Unlock()
	}
	var of []string // endpoints that are not configured any more have dead letters too
	err = h.store.View(func(tx *store.Tx) error {
		return tx.Bucket(deadLettersBucket).ForEachPrefix(nil, func(key, _ []byte) error {
			var name string
			var seq uint64
			if store.ParseKey(key, &name, &seq) && seqs[seq] && (len(of) == 0 || of[len(of)-1] != name) {
				of = append(of, name)
			}
			return nil
		})
	})
	if err != nil {
		return 0, fmt.Errorf("read dead letters: %w", err)
	}
	for _, name := range of {
		e, err := h.endpoint(name)
		if err != nil {
			e = &endpoint{Endpoint: Endpoint{Name: name}, store: h.store}
		}
		for seq := range seqs {
			_, found, err := e.deadLetter(seq)
			if err != nil {
				return n, err
			}
			if !found {
				continue
			}
			if err := e.deleteDeadLetter(seq); err != nil {
				return n, err
			}
			n++
		}
	}
	return n, h.store.Scrub(ctx)
}

// redriveDone deletes a dead letter that was delivered. If it can't be deleted it
// stays, and may be sent once more.
func (e *endpoint) redriveDone(l *lane, seq uint64) {
	if err := e.deleteDeadLetter(seq); err != nil {
		e.log.Error("webhook dead letter not deleted", "seq", seq, "err", err)
	}
	e.cancelRedrive(l, seq)
	e.releaseAfter(l, func() { e.delivered, e.dirty = e.delivered+1, true })
}

// redriveFailed records the failed try of a dead letter. It stays a dead letter: a
// redrive is a single try.
func (e *endpoint) redriveFailed(l *lane, j job, out outcome) {
	now := time.Now()
	err := e.store.Update(func(tx *store.Tx) error {
		b, key := tx.Bucket(deadLettersBucket), store.Key(e.Name, j.event.Seq)
		d, found, err := store.GetJSON[DeadLetter](b, key)
		if err != nil || !found {
			return err
		}
		d.Attempts, d.LastError, d.At, d.Redriving = d.Attempts+1, out.failure, now, false
		return store.PutJSON(b, key, d)
	})
	if err != nil {
		e.log.Error("webhook dead letter not written", "seq", j.event.Seq, "err", err)
	}
	e.cancelRedrive(l, j.event.Seq)
	e.releaseAfter(l, func() {
		e.failed, e.dirty = e.failed+1, true
		e.setLastError(out.failure)
		e.pauseIfLimited(out, 1)
	})
}

// redrive marks one dead letter, or all if seq is 0, and queues the marked ones in
// their lanes. It returns how many were marked.
func (e *endpoint) redrive(seq uint64) (int, error) {
	var list []DeadLetter
	err := e.store.Update(func(tx *store.Tx) error {
		list = nil
		b := tx.Bucket(deadLettersBucket)
		if seq != 0 {
			d, found, err := store.GetJSON[DeadLetter](b, store.Key(e.Name, seq))
			if err != nil {
				return err
			}
			if !found {
				return ErrNoDeadLetter
			}
			list = append(list, d)
		} else if err := forEachOf(b, e.Name, func(_ []byte, d DeadLetter) error {
			list = append(list, d)
			return nil
		}); err != nil {
			return err
		}
		for _, d := range list {
			d.Redriving = true
			if err := store.PutJSON(b, store.Key(e.Name, d.Seq), d); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("redrive: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, d := range list {
		l := e.lane(d.Page)
		if !slices.Contains(l.redrive, d.Seq) {
			l.redrive = append(l.redrive, d.Seq)
		}
		if l.state == idle || l.state == waiting {
			e.enqueue(l)
		}
	}
	return len(list), nil
}

// deadLetters returns at most limit dead letters with a sequence above after, in
// order.
func (e *endpoint) deadLetters(after uint64, limit int) ([]DeadLetter, error) {
	if limit <= 0 || limit > MaxDeadLetterPage {
		limit = MaxDeadLetterPage
	}
	var list []DeadLetter
	if after+1 == 0 {
		return nil, nil
	}
	err := e.store.View(func(tx *store.Tx) error {
		c, prefix := tx.Bucket(deadLettersBucket).Cursor(), store.Key(e.Name)
		k, v := c.Seek(store.Key(e.Name, after+1))
		for ; k != nil && bytes.HasPrefix(k, prefix) && len(list) < limit; k, v = c.Next() {
			var d DeadLetter
			if err := json.Unmarshal(v, &d); err != nil {
				return fmt.Errorf("decode %d bytes: %w", len(v), store.ErrCorrupt)
			}
			list = append(list, d)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read dead letters: %w", err)
	}
	return list, nil
}
