package pages

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
)

// MaxTurns is how many changes of its owner are kept for a page or an Instagram
// account. When there are more, the oldest are dropped: earlier events belong to
// nobody.
const MaxTurns = 1000

// Ownership is who an event belongs to. The zero value is nobody.
type Ownership struct {
	// Page is the connected page. For an event of an Instagram account it is the page
	// that held the account.
	Page domain.PageID `json:"page,omitempty"`
	// Company, App and ConnectionID are those of the page's connection.
	Company      string `json:"company,omitempty"`
	App          string `json:"app,omitempty"`
	ConnectionID string `json:"connection_id,omitempty"`
}

// Company is a company of at least one connection, now or before.
type Company struct {
	// Name is the name that events have. It never changes.
	Name string `json:"name"`
	// Pages are the pages that are connected for the company now, in byte order of
	// their ids. Instagram accounts are not among them.
	Pages []domain.PageID `json:"pages"`
}

// Holding is a page or an Instagram account that a company has, or had before.
type Holding struct {
	// ID is the page or account, as events have it.
	ID domain.PageID `json:"id"`
	// From is the sequence of the first event that belongs to the company.
	From uint64 `json:"from"`
}

// turn is the stored row of a change of the owner: from the sequence in its key on,
// events belong to the owner, until the next turn. Nobody's turn has no owner.
type turn struct {
	// Number counts the turns of the id, from 1.
	Number uint64 `json:"n"`
	Ownership
	// from is the sequence in the key.
	from uint64
}

// UnmarshalBinary reads what AppendBinary wrote.
func (t *turn) UnmarshalBinary(b []byte) error { return json.Unmarshal(b, t) }

// AppendBinary appends the row as JSON.
func (t *turn) AppendBinary(b []byte) ([]byte, error) { return store.AppendJSON(b, t) }

// Owner returns who the event of a page at a sequence belongs to. The page is that of
// the event: it may be an Instagram account, whose event belongs to the page that held
// the account at that sequence, and to the owner of that page at that sequence. The
// zero [Ownership] is returned if the event belongs to nobody.
//
// A page belongs to a company from the event that connected it, up to and including the
// event that disconnected it, or up to the event that connected it for another company.
// What it receives after a disconnect belongs to nobody, and a new connection begins a
// new ownership. A token that is refused changes nothing.
//
// The answer depends only on the page.* events up to the sequence. It is final once the
// read model has applied the event at the sequence; before that, a caller must wait
// ([projections.Reader]). It is one short transaction; [Owners] is cheaper for many
// events.
func Owner(v projections.Viewer, page domain.PageID, seq uint64) (o Ownership, err error) {
	err = Owners(v, func(owner OwnerFunc) error {
		o, err = owner(page, seq)
		return err
	})
	return o, err
}

// OwnerFunc is [Owner] within one transaction.
type OwnerFunc func(page domain.PageID, seq uint64) (Ownership, error)

// Owners calls fn with a function that answers as [Owner] does, and reads all answers in
// one transaction. The function must not be used after fn has returned. The answers are
// final for sequences that the read model had applied before Owners was called.
func Owners(v projections.Viewer, fn func(OwnerFunc) error) error {
	return v.View(func(tx *store.Tx) error {
		owners, accounts := tx.Bucket(bucketOwners).Cursor(), tx.Bucket(bucketHolders).Cursor()
		return fn(func(page domain.PageID, seq uint64) (Ownership, error) {
			t, err := turnAt(owners, string(page), seq)
			if err != nil || t.Page != "" {
				return t.Ownership, err
			}
			if t, err = turnAt(accounts, string(page), seq); err != nil || t.Page == "" {
				return Ownership{}, err
			}
			t, err = turnAt(owners, string(t.Page), seq)
			return t.Ownership, err
		})
	})
}

// Companies lists every company that a connection ever named, in byte order of the
// names, with the pages of each.
func Companies(v projections.Viewer) ([]Company, error) {
	now := map[string][]domain.PageID{}
	err := Each(v, func(p Page) error {
		if p.State == Connected && p.Company != "" {
			now[p.Company] = append(now[p.Company], p.ID)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	out := []Company{}
	err = v.View(func(tx *store.Tx) error {
		return tx.Bucket(bucketHeld).ForEachPrefix(nil, func(_, value []byte) error {
			var row held
			if err := json.Unmarshal(value, &row); err != nil {
				return fmt.Errorf("decode holding: %w", store.ErrCorrupt)
			}
			if len(out) == 0 || out[len(out)-1].Name != row.Company {
				out = append(out, Company{Name: row.Company, Pages: append([]domain.PageID{}, now[row.Company]...)})
			}
			return nil
		})
	})
	slices.SortFunc(out, func(a, b Company) int { return strings.Compare(a.Name, b.Name) })
	return out, err
}

// Held lists the pages and Instagram accounts that a company has or had, in byte order
// of their ids. [Owner] says which of their events belong to the company.
func Held(v projections.Viewer, company string) (list []Holding, err error) {
	err = v.View(func(tx *store.Tx) error {
		return tx.Bucket(bucketHeld).ForEachPrefix(store.Key(company), func(_, value []byte) error {
			var row held
			if err := json.Unmarshal(value, &row); err != nil {
				return fmt.Errorf("decode holding: %w", store.ErrCorrupt)
			}
			list = append(list, row.Holding)
			return nil
		})
	})
	return list, err
}

// held is the stored row of a [Holding].
type held struct {
	Company string `json:"company"`
	Holding
}

// turnKey returns the key of a turn. The turns of an id are stored newest first, so
// that a search finds the last one that began at or before a sequence.
func turnKey(id string, from uint64) []byte {
	return binary.BigEndian.AppendUint64(pageKey(id), math.MaxUint64-from)
}

// turnAt returns the turn of an id at a sequence, the zero turn if there is none.
func turnAt(c *store.Cursor, id string, seq uint64) (t turn, err error) {
	seek := turnKey(id, seq)
	key, value := c.Seek(seek)
	if len(key) != len(seek) || !bytes.HasPrefix(key, seek[:len(seek)-8]) {
		return turn{}, nil
	}
	if err := t.UnmarshalBinary(value); err != nil {
		return turn{}, fmt.Errorf("decode owner: %w", store.ErrCorrupt)
	}
	t.from = math.MaxUint64 - binary.BigEndian.Uint64(key[len(key)-8:])
	return t, nil
}

// changeOwner begins a turn of an id, and drops the oldest one if there are too many.
func changeOwner(bucket *store.Bucket, id string, from uint64, o Ownership) error {
	c := bucket.Cursor()
	before, err := turnAt(c, id, from-1)
	if err != nil {
		return err
	}
	// The turn replaces one that began at the same sequence and so had no event.
	next, replaced := turn{Number: before.Number + 1, Ownership: o}, bucket.Has(turnKey(id, from))
	if err := store.EncodeRow(bucket, turnKey(id, from), &next); err != nil {
		return err
	}
	if replaced || next.Number <= MaxTurns {
		return nil
	}
	// The oldest turn is the last one of the id.
	end := turnKey(id, 0)
	key, _ := c.Before(end)
	if !bytes.HasPrefix(key, end[:len(end)-8]) {
		return nil
	}
	if err := bucket.Delete(bytes.Clone(key)); err != nil {
		return fmt.Errorf("drop oldest owner: %w", err)
	}
	return nil
}

// owner returns who the page belongs to by its state.
func (p *Page) owner() Ownership {
	if p.State != Connected {
		return Ownership{}
	}
	return Ownership{Page: p.ID, Company: p.Company, App: p.App, ConnectionID: p.ConnectionID}
}

// recordOwner records a change of the page's owner, and what the owner has now. A
// disconnect is the last event of the owner.
func (f *fold) recordOwner(before Page) error {
	owner := f.p.owner()
	changed := owner != before.owner()
	if changed {
		from := f.e.Seq
		if owner == (Ownership{}) {
			from++
		}
		if err := changeOwner(f.tx.Bucket(bucketOwners), string(f.e.Page), from, owner); err != nil {
			return err
		}
	}
	if owner.Company == "" || !changed && f.p.Instagram == before.Instagram {
		return nil
	}
	bucket := f.tx.Bucket(bucketHeld)
	for _, id := range []string{string(f.e.Page), f.p.Instagram} {
		key := store.Key(owner.Company, id)
		if id == "" || bucket.Has(key) {
			continue
		}
		row := held{Company: owner.Company, Holding: Holding{ID: domain.PageID(id), From: f.e.Seq}}
		if err := store.PutJSON(bucket, key, row); err != nil {
			return err
		}
	}
	return nil
}

// link links the Instagram account to the page, and unlinks the one before. An account
// is linked to one page: it is unlinked at the page that had it.
func (f *fold) link(account string) error {
	old := f.p.Instagram
	f.p.Instagram = account
	links, holders := f.tx.Bucket(bucketInstagram), f.tx.Bucket(bucketHolders)
	if old != "" && old != account && string(links.Get(pageKey(old))) == string(f.e.Page) {
		if err := links.Delete(pageKey(old)); err != nil {
			return fmt.Errorf("unlink account: %w", err)
		}
		if err := changeOwner(holders, old, f.e.Seq, Ownership{}); err != nil {
			return err
		}
	}
	if account == "" {
		return nil
	}
	holder := string(links.Get(pageKey(account)))
	if holder == string(f.e.Page) {
		return nil
	}
	if holder != "" {
		if err := f.unlinkAt(holder); err != nil {
			return err
		}
	}
	if err := links.Put(pageKey(account), []byte(f.e.Page)); err != nil {
		return fmt.Errorf("link account: %w", err)
	}
	return changeOwner(holders, account, f.e.Seq, Ownership{Page: f.e.Page})
}

// unlinkAt removes the account from the row of the page that had it.
func (f *fold) unlinkAt(page string) error {
	pages := f.tx.Bucket(bucketPages)
	p, found, err := store.GetJSON[Page](pages, pageKey(page))
	if err != nil || !found {
		return err
	}
	p.Instagram = ""
	return store.PutJSON(pages, pageKey(page), p)
}
