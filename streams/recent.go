package streams

// recentGeneration is how many ids one generation of [recent] holds.
const recentGeneration = 32 << 10

// recent remembers the last ids that were stored, so that a duplicate close
// behind does not reject a whole batch. It holds between one and two
// generations of ids. Two maps cost a quarter of what a list in order of use
// costs, and no allocation for an id; which of the oldest ids go first does not
// matter here.
type recent struct{ young, old map[string]uint64 }

// get returns the sequence of an id that is remembered.
func (r *recent) get(id string) (uint64, bool) {
	if seq, ok := r.young[id]; ok {
		return seq, true
	}
	seq, ok := r.old[id]
	return seq, ok
}

// put remembers an id. When a generation is full the oldest one is forgotten.
func (r *recent) put(id string, seq uint64) {
	if r.young == nil || len(r.young) >= recentGeneration {
		r.old, r.young = r.young, make(map[string]uint64, recentGeneration)
	}
	r.young[id] = seq
}
