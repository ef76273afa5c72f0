package profile

import (
	"testing"

	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/projectionstest"
)

// rig is a real stream with the read model of conversations.
type rig struct{ *projectionstest.Rig }

func newRig(t *testing.T) *rig {
	t.Helper()
	return &rig{projectionstest.NewRig(t, conversations.New())}
}

// Stats returns the counts so far.
func (r *Reactor) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stats
}
