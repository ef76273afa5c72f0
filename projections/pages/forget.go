package pages

import (
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// forget removes the page's row, its traffic and its rhythm. Who its events belonged to stays: the events are still
// in the stream. A connected page is not forgotten; the event counts as ignored.
func forget(tx *store.Tx, key []byte, e streams.Stored) error {
	p, found, err := store.GetJSON[Page](tx.Bucket(bucketPages), key)
	if err != nil {
		return err
	}
	if found && p.State == Connected {
		if err := count(tx.Bucket(bucketTraffic), key, &e); err != nil {
			return err
		}
		p.Ignored++
		return store.PutJSON(tx.Bucket(bucketPages), key, p)
	}
	return store.DeletePrefix(tx, key, bucketPages, bucketTraffic, bucketRhythm, bucketSecrets)
}
