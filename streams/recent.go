package streams

// recentGeneration is how many ids one generation of [recent] has.
const recentGeneration = 32 << 10

// recent remembers the last ids that were stored, so that a duplicate that arrives soon after the first
// does not make JetStream reject a whole batch. It has between one and two generations of ids. Two maps
// cost a quarter of what an LRU list costs, and no allocation per id; which of the oldest ids are
// evicted first does not matter here.
type recent struct {
	young, old map[string]uint64
	// youngest and oldest are the highest sequences in young and old, forgotten that of what was dropped.
	youngest, oldest, forgotten uint64
}

// get returns the sequence of an id, false if it is not remembered.
func (r *recent) get(id string) (uint64, bool) {
	if seq, ok := r.young[id]; ok {
		return seq, true
	}
	seq, ok := r.old[id]
	return seq, ok
}

// put adds an id. When the young generation is full, the old one is dropped.
func (r *recent) put(id string, seq uint64) {
	if r.young == nil || len(r.young) >= recentGeneration {
		r.old, r.young = r.young, make(map[string]uint64, recentGeneration)
		r.forgotten, r.oldest, r.youngest = max(r.forgotten, r.oldest), r.youngest, 0
	}
	r.young[id] = seq
	r.youngest = max(r.youngest, seq)
}
