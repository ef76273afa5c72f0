package conversations

import "github.com/pagestream/pagestream/projections/store"

// RecentMessages returns the number of messages that the rows of conversations index.
func RecentMessages(tx *store.Tx) (n uint64, err error) {
	c := tx.Bucket(bucketConversations).Cursor()
	for k, b := c.First(); k != nil; k, b = c.Next() {
		var row conversation
		if err := unpack(b, &row, "conversation"); err != nil {
			return 0, err
		}
		err := row.Recent.each(func(e recentEvent) bool {
			if e.slot != nil {
				n++
			}
			return true
		})
		if err != nil {
			return 0, err
		}
	}
	return n, nil
}
