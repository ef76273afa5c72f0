package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// Buckets of the file.
const (
	endpointsBucket   = "endpoints"   // name -> endpointRow
	pagesBucket       = "pages"       // name, page -> pageRow
	deadLettersBucket = "deadletters" // name, sequence -> DeadLetter
)

// endpointRow is the stored state of an endpoint.
type endpointRow struct {
	Identity  streams.Identity `json:"identity,omitempty"`
	Read      uint64           `json:"read"`
	Trail     streams.Trail    `json:"trail,omitempty"`
	Disabled  string           `json:"disabled,omitempty"`
	Delivered uint64           `json:"delivered"`
	Failed    uint64           `json:"failed"`
}

// pageRow is the stored state of a page that an endpoint is behind with: events
// before Next are finished. A page without a row is finished up to
// endpointRow.Read.
type pageRow struct {
	Page     domain.PageID `json:"page"`
	Next     uint64        `json:"next"`
	Attempts int           `json:"attempts,omitempty"`
	Since    time.Time     `json:"since,omitzero"`
}

// change contains the rows of an endpoint that must be written; a nil row must be
// deleted.
type change struct {
	row   endpointRow
	pages map[domain.PageID]*pageRow
}

// changes returns the rows that changed since the last call, as one consistent
// snapshot, and resets the marks. It returns false if there are none.
func (e *endpoint) changes() (change, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.known || (!e.dirty && len(e.dirtyPages) == 0) {
		return change{}, false
	}
	c := change{
		row: endpointRow{
			Identity: e.opts.Identity, Read: e.read, Trail: e.trail, Disabled: e.disabled, Delivered: e.delivered, Failed: e.failed,
		},
		pages: make(map[domain.PageID]*pageRow, len(e.dirtyPages)),
	}
	for page := range e.dirtyPages {
		c.pages[page] = nil
		if l := e.lanes[page]; l != nil && l.work() {
			c.pages[page] = &pageRow{Page: page, Next: l.next, Attempts: l.attempts, Since: l.since}
		}
	}
	e.dirty, e.dirtyPages = false, make(map[domain.PageID]bool)
	return c, true
}

// markUnwritten marks changes that could not be written as changed again. Nothing is
// delivered until they are written: all of it would be repeated after a crash.
func (e *endpoint) markUnwritten(c change) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dirty, e.unwritten = true, true
	for page := range c.pages {
		e.dirtyPages[page] = true
	}
}

// markWritten resumes deliveries after a successful write.
func (e *endpoint) markWritten() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.unwritten {
		e.unwritten = false
		e.cond.Broadcast()
	}
}

func (c change) write(tx *store.Tx, name string) error {
	if err := store.PutJSON(tx.Bucket(endpointsBucket), store.Key(name), c.row); err != nil {
		return fmt.Errorf("write endpoint: %w", err)
	}
	b := tx.Bucket(pagesBucket)
	for page, row := range c.pages {
		err := error(nil)
		if key := store.Key(name, page); row == nil {
			err = b.Delete(key)
		} else {
			err = store.PutJSON(b, key, row)
		}
		if err != nil {
			return fmt.Errorf("write page: %w", err)
		}
	}
	return nil
}

// load reads the stored state of the endpoint. It is called before run.
func (e *endpoint) load() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	var old []*lane
	forget := false
	err := e.store.View(func(tx *store.Tx) error {
		row, found, err := store.GetJSON[endpointRow](tx.Bucket(endpointsBucket), store.Key(e.Name))
		if err != nil || !found {
			return err
		}
		now, then := e.opts.Identity, row.Identity
		// A stream that was made again is compared by its events, in initPosition.
		if now != "" && then != "" && now != then && (now.Name() != then.Name() || len(row.Trail) == 0) {
			forget = true
			return nil
		}
		e.known, e.read, e.trail, e.disabled = true, row.Read, row.Trail.Upto(row.Read), row.Disabled
		e.delivered, e.failed = row.Delivered, row.Failed
		err = forEachOf(tx.Bucket(pagesBucket), e.Name, func(_ []byte, r pageRow) error {
			old = append(old, &lane{
				page: r.Page, spilled: true, next: r.Next, tail: row.Read, attempts: r.Attempts, since: r.Since,
			})
			return nil
		})
		if err != nil {
			return err
		}
		for _, l := range old {
			e.lanes[l.page] = l
		}
		return forEachOf(tx.Bucket(deadLettersBucket), e.Name, func(_ []byte, d DeadLetter) error {
			e.dead++
			if d.Redriving {
				l := e.lane(d.Page)
				l.redrive = append(l.redrive, d.Seq)
			}
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("read position of endpoint %q: %w", e.Name, err)
	}
	if forget {
		e.log.Warn("webhook endpoint starts like a new one: the stream is another one")
		return e.forget()
	}
	for _, l := range e.lanes {
		e.enqueue(l)
	}
	return nil
}

// forget deletes the stored state and the dead letters of the endpoint.
func (e *endpoint) forget() error {
	err := e.store.Update(func(tx *store.Tx) error {
		if err := tx.Bucket(endpointsBucket).Delete(store.Key(e.Name)); err != nil {
			return err
		}
		for _, name := range []string{pagesBucket, deadLettersBucket} {
			b := tx.Bucket(name)
			var keys [][]byte
			err := b.ForEachPrefix(store.Key(e.Name), func(key, _ []byte) error {
				keys = append(keys, append([]byte(nil), key...))
				return nil
			})
			for _, key := range keys {
				err = errors.Join(err, b.Delete(key))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("forget endpoint %q: %w", e.Name, err)
	}
	return nil
}

// ErrPosition is returned by [CheckPositions] when the position of an endpoint is not one of the stream.
var ErrPosition = errors.New("the position of a webhook endpoint is not in the stream")

// CheckPositions compares the positions in the file of a stopped [Hooks] with the stream. It returns how many
// endpoints the file has, 0 if there is no file, or [ErrPosition]. A position without fingerprints tells nothing.
func CheckPositions(ctx context.Context, path string, js jetstream.JetStream, stream string) (n int, err error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	s, err := store.Open(path, store.Options{})
	if err != nil {
		return 0, fmt.Errorf("open positions of webhooks: %w", err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	rows := map[string]endpointRow{}
	err = s.View(func(tx *store.Tx) error {
		return tx.Bucket(endpointsBucket).ForEachPrefix(nil, func(key, raw []byte) error {
			var name string
			var row endpointRow
			if !store.ParseKey(key, &name) {
				return store.ErrCorrupt
			}
			if err := json.Unmarshal(raw, &row); err != nil {
				return fmt.Errorf("decode %d bytes: %w", len(raw), store.ErrCorrupt)
			}
			rows[name] = row
			return nil
		})
	})
	if err != nil {
		return 0, fmt.Errorf("read positions of webhooks: %w", err)
	}
	for name, row := range rows {
		c, err := row.Trail.Upto(row.Read).Compare(ctx, js, stream)
		if err != nil {
			return 0, err
		}
		if c.Differs.Seq > 0 || row.Read > c.Last {
			return 0, fmt.Errorf("endpoint %s at event %d: %w", name, row.Read, ErrPosition)
		}
	}
	return len(rows), nil
}
