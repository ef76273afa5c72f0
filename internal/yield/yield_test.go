package yield

import (
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// TestLongLoopsYield checks that a loop lets others run once in a turn, and that a short one does not.
func TestLongLoopsYield(t *testing.T) {
	yields := 0
	yield = func() { yields++ }
	defer func() { yield = runtime.Gosched }()

	var short Loop
	for range 2*steps - 1 {
		short.Step()
	}
	assert.Zero(t, yields)

	var long Loop
	began := time.Now()
	for time.Since(began) < 20*turn || yields == 0 {
		long.Step()
	}
	assert.LessOrEqual(t, yields, int(time.Since(began)/turn))
	assert.Positive(t, yields)
}
