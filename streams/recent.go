package streams

// recent remembers the last ids that were stored, so that a duplicate close
// behind does not reject a whole batch. It holds between one and two
// generations of ids.
type recent struct{ young, old map[string]uint64 }

const recentGeneration = 32 << 10

func (r *recent) get(id string) (uint64, bool) {
	if seq, ok := r.young[id]; ok {
		return seq, true
	}
	seq, ok := r.old[id]
	return seq, ok
}

func (r *recent) put(id string, seq uint64) {
	if r.young == nil || len(r.young) >= recentGeneration {
		r.old, r.young = r.young, make(map[string]uint64, recentGeneration)
	}
	r.young[id] = seq
}
