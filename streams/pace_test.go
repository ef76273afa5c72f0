package streams

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestPaceChoosesTheTurn(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fixed, event time.Duration
		turn         int
	}{
		"fast":                           {time.Millisecond, 20 * time.Microsecond, 256},
		"a larger turn takes too long":   {4 * time.Millisecond, 40 * time.Microsecond, 128},
		"slow events":                    {time.Millisecond, time.Millisecond, 64},
		"a smaller turn would not help":  {200 * time.Millisecond, 100 * time.Microsecond, 256},
		"a smaller turn would help more": {60 * time.Millisecond, 300 * time.Microsecond, 128},
		"both":                           {20 * time.Millisecond, 800 * time.Microsecond, 64},
	} {
		t.Run(name, func(t *testing.T) {
			var p pace
			turns := map[int]int{}
			for i := range 1000 {
				if i >= 500 {
					turns[p.turn()]++
				}
				p.observe(c.fixed + time.Duration(p.turn())*c.event)
			}
			assert.Greater(t, turns[c.turn], 450, "%v", turns)
		})
	}
}
