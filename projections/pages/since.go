package pages

import (
	"math"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
)

// Since returns the sequence from which on all events of a page, or of an Instagram
// account, belong to a company without a break until now. It returns false if the page
// does not belong to the company now. Now is the last event that the read model has
// applied.
//
// What was derived from these events alone, the company may see; what was derived from
// earlier ones too may be about another's time.
func Since(v projections.Viewer, page domain.PageID, company string) (from uint64, ok bool, err error) {
	if company == "" {
		return 0, false, nil
	}
	err = v.View(func(tx *store.Tx) error {
		owners, accounts := tx.Bucket(bucketOwners).Cursor(), tx.Bucket(bucketHolders).Cursor()
		for at := uint64(math.MaxUint64); ; at = from - 1 {
			t, err := turnAt(owners, string(page), at)
			if err != nil {
				return err
			}
			begun := t.from
			if t.Page == "" {
				holder, err := turnAt(accounts, string(page), at)
				if err != nil || holder.Page == "" {
					return err
				}
				if t, err = turnAt(owners, string(holder.Page), at); err != nil {
					return err
				}
				begun = max(begun, holder.from, t.from)
			}
			if t.Company != company {
				return nil
			}
			if from, ok = begun, true; from == 0 {
				return nil
			}
		}
	})
	return from, ok && err == nil, err
}
