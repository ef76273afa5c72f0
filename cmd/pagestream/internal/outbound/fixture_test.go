package outbound

import (
	"testing"

	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/projectionstest"
)

// fixture has a real stream with the read model of conversations.
type fixture struct{ *projectionstest.Rig }

func newFixture(t *testing.T) *fixture {
	t.Helper()
	return &fixture{projectionstest.NewRig(t, conversations.New())}
}
