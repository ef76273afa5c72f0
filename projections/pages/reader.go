package pages

import (
	"errors"
	"hash/maphash"
	"math"
	"slices"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
)

// Errors of the readers.
var (
	// ErrNotFound is returned when the page has no events, or no page is linked to
	// the account.
	ErrNotFound = errors.New("page not found")
	// ErrNoCredentials is returned when the page is not connected, or was connected
	// without a token.
	ErrNoCredentials = errors.New("page has no credentials; connect it first")
	// ErrCursor is returned when a cursor was not returned by an earlier call.
	ErrCursor = projections.ErrCursor
)

// List returns pages in byte order of their ids, connected or not, and the
// cursor of the next ones, which is empty at the end. The limit is as in
// [projections.Limit]. It fails with [ErrCursor] if the cursor is not valid. Each call
// is one short transaction; a page that is new between two calls is included if its id
// is after the cursor.
func List(v projections.Viewer, cursor string, limit int) (list []Page, next string, err error) {
	return projections.List(v, bucketTraffic, nil, cursor, limit, func(tx *store.Tx, key, _ []byte) (Page, error) {
		return assemble(tx, key)
	})
}

// ListOf is [List] with only the pages and Instagram accounts that a company has now; no
// company means all. It may return fewer than limit pages before the end, but not none.
func ListOf(v projections.Viewer, company, cursor string, limit int) (list []Page, next string, err error) {
	list, next, err = List(v, cursor, limit)
	for company != "" && err == nil {
		err = Owners(v, func(owner OwnerFunc) (err error) {
			list = slices.DeleteFunc(list, func(p Page) bool {
				o, e := owner(p.ID, math.MaxUint64)
				err = errors.Join(err, e)
				return o.Company != company
			})
			return err
		})
		if err != nil || len(list) > 0 || next == "" {
			break
		}
		list, next, err = List(v, next, limit)
	}
	return list, next, err
}

// Each calls fn for every page in byte order of their ids. It reads many pages in one
// transaction, and no transaction is open while fn runs. It stops at the first error of
// fn and returns it.
func Each(v projections.Viewer, fn func(Page) error) error {
	for cursor := ""; ; {
		list, next, err := List(v, cursor, projections.MaxLimit)
		if err != nil {
			return err
		}
		for _, p := range list {
			if err := fn(p); err != nil {
				return err
			}
		}
		if cursor = next; next == "" {
			return nil
		}
	}
}

// Get returns one page, or fails with [ErrNotFound].
func Get(v projections.Viewer, page domain.PageID) (p Page, err error) {
	err = v.View(func(tx *store.Tx) error {
		p, err = assemble(tx, pageKey(string(page)))
		return err
	})
	return p, err
}

// Credentials returns a connected page's connection with the reference to its secret,
// or fails with [ErrNoCredentials]. The token may be invalid: see Connection.Token.
func Credentials(v projections.Viewer, page domain.PageID) (out Connection, err error) {
	err = v.View(func(tx *store.Tx) error {
		key := pageKey(string(page))
		ref, err := secret(tx, key)
		if err != nil {
			return err
		}
		p, found, err := store.GetJSON[Page](tx.Bucket(bucketPages), key)
		if err != nil {
			return err
		}
		if !found || ref == "" {
			return ErrNoCredentials
		}
		out = Connection{
			Page: p.ID, ConnectionID: p.ConnectionID, App: p.App, Company: p.Company, Secret: ref, Token: p.Token,
		}
		return nil
	})
	return out, err
}

// versionSeed makes versions of [Secrets] differ between processes.
var versionSeed = maphash.MakeSeed()

// Secrets returns the references that [Credentials] would return for the connected pages,
// and a version of them, which is never 0. If the version is still before, it returns
// only the version; this takes 0.1 ms for 1,000 pages.
func Secrets(v projections.Viewer, before uint64) (refs map[domain.PageID]string, version uint64, err error) {
	err = v.View(func(tx *store.Tx) error {
		var h maphash.Hash
		h.SetSeed(versionSeed)
		b := tx.Bucket(bucketSecrets)
		err := b.ForEachPrefix(nil, func(key, value []byte) error {
			_, _ = h.Write(key) // neither fails
			_, _ = h.Write(value)
			return nil
		})
		version = h.Sum64() | 1
		if err != nil || version == before {
			return err
		}
		refs = map[domain.PageID]string{}
		return b.ForEachPrefix(nil, func(key, _ []byte) error {
			var page string
			if !store.ParseKey(key, &page) {
				return nil
			}
			ref, err := secret(tx, key)
			refs[domain.PageID(page)] = ref
			return err
		})
	})
	return refs, version, err
}

// ByInstagram returns the connected page that an Instagram account is linked
// to, or fails with [ErrNotFound].
func ByInstagram(v projections.Viewer, account string) (page domain.PageID, err error) {
	err = v.View(func(tx *store.Tx) error {
		b := tx.Bucket(bucketInstagram).Get(pageKey(account))
		if b == nil {
			return ErrNotFound
		}
		page = domain.PageID(b)
		return nil
	})
	return page, err
}

// Unrouted returns the traffic without a page: unreadable deliveries, and in Tests
// the events of the dashboard's Test button.
func Unrouted(v projections.Viewer) (Traffic, error) {
	var row traffic
	err := v.View(func(tx *store.Tx) (err error) {
		row, _, err = store.GetRow[traffic](tx.Bucket(bucketUnrouted), unrouted())
		return err
	})
	return row.Traffic, err
}

// assemble reads a page from its buckets, or fails with [ErrNotFound].
func assemble(tx *store.Tx, key []byte) (Page, error) {
	t, found, err := store.GetRow[traffic](tx.Bucket(bucketTraffic), key)
	if err != nil {
		return Page{}, err
	}
	if !found {
		return Page{}, ErrNotFound
	}
	p, known, err := store.GetJSON[Page](tx.Bucket(bucketPages), key)
	if err != nil {
		return Page{}, err
	}
	if !known {
		p = Page{State: Unknown, Token: TokenNone}
	}
	p.ID, p.Traffic, p.Object = t.Page, t.Traffic, t.Object
	p.LinkedPage = domain.PageID(tx.Bucket(bucketInstagram).Get(key))
	return p, nil
}

// pageKey returns the key of a page. Keys sort in byte order of the ids.
func pageKey(id string) []byte { return store.AppendText(make([]byte, 0, 64), id) }

// unrouted returns the only key of bucketUnrouted.
func unrouted() []byte { return store.Key(string(domain.NoPage)) }

// OfCompany returns the pages of a company that are not disconnected, and their
// Instagram accounts, in byte order of the page ids.
func OfCompany(v projections.Viewer, company string) (out []domain.PageID, err error) {
	err = Each(v, func(p Page) error {
		if p.Company != company || p.State == Disconnected {
			return nil
		}
		out = append(out, p.ID)
		if p.Instagram != "" {
			out = append(out, domain.PageID(p.Instagram))
		}
		return nil
	})
	return out, err
}
