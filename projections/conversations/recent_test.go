package conversations

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pagestream/pagestream/projections/store"
)

// TestRecentRejectsInvalidBytes checks that any bytes are read or rejected as corrupt.
func TestRecentRejectsInvalidBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := recent(rapid.SliceOfN(rapid.Byte(), 0, 80).Draw(t, "bytes"))
		n := 0
		err := r.each(func(e recentEvent) bool {
			if e.slot != nil {
				if _, _, err := r.find(e.slot); err != nil {
					require.ErrorIs(t, err, store.ErrCorrupt)
				}
			}
			n++
			return true
		})
		if err != nil {
			require.ErrorIs(t, err, store.ErrCorrupt)
		}
		if err == nil && len(r) > 0 {
			require.Equal(t, int(r[0]), n)
		}
	})
	r := recent{}.add(recentEvent{place: place{1000, 7}, slot: midSlot("m")})
	require.ErrorIs(t, r[:len(r)-1].each(func(recentEvent) bool { return true }), store.ErrCorrupt, "cut short")
}
