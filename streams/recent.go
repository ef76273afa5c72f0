package streams

import (
	"slices"
	"time"
)

// recentGeneration is how many ids one generation of [recent] has.
const recentGeneration = 32 << 10

// maxGenerations bounds the generations that [recent] keeps for an index that is behind.
const maxGenerations = 16

// recent remembers the last ids that were stored: so a duplicate that arrives soon after the first does not make
// JetStream reject a whole batch, and with a journal nothing else knows the ids that the index does not have yet. It
// has at least one generation of ids, and more while the index does not have those of the oldest. Maps cost a quarter
// of what an LRU list costs, and no allocation per id; which of the oldest ids are evicted first does not matter here.
type recent struct {
	generations []generation // the oldest first
	// forgotten is the highest sequence of what was dropped, forgottenTime the latest time that one of those events has
	// itself: one that happened later is none of them.
	forgotten     uint64
	forgottenTime time.Time
}

type generation struct {
	ids      map[string]uint64
	youngest uint64    // the highest sequence
	latest   time.Time // of the events' own
}

// get returns the sequence of an id, false if it is not remembered.
func (r *recent) get(id string) (uint64, bool) {
	for _, g := range slices.Backward(r.generations) {
		if seq, ok := g.ids[id]; ok {
			return seq, true
		}
	}
	return 0, false
}

// put adds the id of an event with its own time. When a generation is full, the oldest ones are dropped that the index has;
// indexed returns up to which sequence that is. Others are only dropped when there are too many.
func (r *recent) put(id string, at time.Time, seq uint64, indexed func() uint64) {
	n := len(r.generations)
	if n == 0 || len(r.generations[n-1].ids) >= recentGeneration {
		r.generations = append(r.generations, generation{ids: make(map[string]uint64, recentGeneration)})
		upto := indexed()
		for n++; n > 2; n-- {
			oldest := r.generations[0]
			if oldest.youngest > upto && n <= maxGenerations {
				break
			}
			r.forgotten, r.forgottenTime = max(r.forgotten, oldest.youngest), later(r.forgottenTime, oldest.latest)
			r.generations = append([]generation(nil), r.generations[1:]...)
		}
	}
	g := &r.generations[len(r.generations)-1]
	g.ids[id] = seq
	g.youngest, g.latest = max(g.youngest, seq), later(g.latest, at)
}
