package conversations

import (
	"errors"
	"testing"

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
				if _, _, err := r.find(e.slot); err != nil && !errors.Is(err, store.ErrCorrupt) {
					t.Fatal(err)
				}
			}
			n++
			return true
		})
		if err != nil && !errors.Is(err, store.ErrCorrupt) || err == nil && len(r) > 0 && n != int(r[0]) {
			t.Fatalf("%d events, %v", n, err)
		}
	})
	r := recent{}.add(recentEvent{place: place{1000, 7}, slot: midSlot("m")})
	if err := r[:len(r)-1].each(func(recentEvent) bool { return true }); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("cut short: %v", err)
	}
}
