package store

import "fmt"

// MetaBucket is the bucket of the position. It is not part of the state: [Digest] leaves it out.
const MetaBucket = "meta"

var metaKey = []byte("position")

// Meta is the position of a read model in the stream. It is written in the transaction that changes the
// state, so the state is always exactly the fold of events 1 to Seq, except as Begun says.
type Meta struct {
	// Identity is the identity of the stream (streams.Identity).
	Identity string `json:"identity"`
	// Version is the version of the projection that wrote the state.
	Version int `json:"version"`
	// Seq is the sequence of the last event in the state, 0 for none.
	Seq uint64 `json:"seq"`
	// Begun is the sequence of an event after Seq of which a part is in the state; 0, the usual case, means that none is.
	// The event is applied again from its beginning.
	Begun uint64 `json:"begun,omitempty"`
	// Dropped counts events that were left out because an earlier one has the same id, and Malformed
	// counts messages that were not events.
	Dropped   uint64 `json:"dropped,omitempty"`
	Malformed uint64 `json:"malformed,omitempty"`
	// Parked counts events that are not in the state: those that could not be applied, and those that
	// wait behind them. Discarded counts parked events that an operator discarded.
	Parked    uint64 `json:"parked,omitempty"`
	Discarded uint64 `json:"discarded,omitempty"`
	// Decision is the sequence of the last decision about parked events that was applied.
	Decision uint64 `json:"decision,omitempty"`
}

// ReadMeta returns the position, or false if the store has none yet.
func ReadMeta(tx *Tx) (Meta, bool, error) {
	m, ok, err := GetJSON[Meta](tx.Bucket(MetaBucket), metaKey)
	if err != nil {
		return Meta{}, false, fmt.Errorf("read position: %w", err)
	}
	return m, ok, nil
}

// WriteMeta writes the position.
func WriteMeta(tx *Tx, m Meta) error {
	if err := PutJSON(tx.Bucket(MetaBucket), metaKey, m); err != nil {
		return fmt.Errorf("write position: %w", err)
	}
	return nil
}
