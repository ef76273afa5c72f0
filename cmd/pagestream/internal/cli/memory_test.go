package cli

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestMemoryIsReleasedOnceAfterABurst(t *testing.T) {
	t.Parallel()
	var r releaser
	released := 0
	at := uint64(0)
	run := func(times int, bytes uint64) {
		for range times {
			if at += bytes; r.due(at) {
				released++
			}
		}
	}
	run(100, 1<<20) // idle from the start
	assert.Zero(t, released)
	run(10, 100<<20)
	assert.Zero(t, released, "it is busy")
	for range 10 {
		run(releaseTimes-1, 1<<20)
		run(1, 100<<20)
	}
	assert.Zero(t, released, "it is never idle for long")
	run(100, 1<<20)
	assert.Equal(t, 1, released, "it is idle after a burst")
	run(5, 100<<20)
	run(20, 1<<20)
	assert.Equal(t, 2, released)
}
