// Package yield lets other goroutines run during a loop that takes long.
//
// The scheduler interrupts a goroutine only after 10 ms or more. A request passes through several goroutines, and before
// each of them it may wait that long for every processor that is busy with such a loop.
package yield

import (
	"runtime"
	"time"
)

// turn is how long a loop runs before others may. A change of goroutines takes less than a microsecond.
const turn = 300 * time.Microsecond

// yield is replaced by tests.
var yield = runtime.Gosched

// steps is how many steps of a loop are made before it is looked at the time.
const steps = 8

// Loop counts the steps of a loop. The zero value is ready. It must not be copied.
type Loop struct {
	n     uint
	since time.Time
}

// Step is called once in each step. Each step should take less than a tenth of a millisecond.
func (l *Loop) Step() {
	if l.n++; l.n%steps != 0 {
		return
	}
	now := time.Now()
	if l.since.IsZero() {
		l.since = now
	}
	if now.Sub(l.since) >= turn {
		yield()
		l.since = time.Now()
	}
}
