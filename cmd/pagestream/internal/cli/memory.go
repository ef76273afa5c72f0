package cli

import (
	"context"
	"runtime/metrics"
	"time"

	"github.com/pagestream/pagestream/internal/backoff"
)

// After a burst, such as a catch-up, the process keeps the memory of its largest heap: Go gives it back slowly while it
// collects garbage, and an idle process collects none. What was read of the files of read models stays too.
const (
	releaseEvery = 3 * time.Second
	// releaseAfter is how many bytes must have been allocated since the last release for another one to be of use.
	releaseAfter = 128 << 20
	// releaseIdle is how many bytes a process allocates in releaseEvery at most that is idle, and releaseTimes how often
	// in a row it must have been idle: what is released has to be made resident again when the next burst begins.
	releaseIdle  = 8 << 20
	releaseTimes = 5
)

// releaser tells when memory is to be given back to the system.
type releaser struct {
	seen, released uint64
	idle           int // how often in a row
}

// due reports whether the process, which has allocated so many bytes since its start, is idle after a burst.
func (r *releaser) due(allocated uint64) bool {
	r.idle++
	if allocated-r.seen >= releaseIdle {
		r.idle = 0
	}
	r.seen = allocated
	if r.idle < releaseTimes || allocated-r.released < releaseAfter {
		return false
	}
	r.released = allocated
	return true
}

// releaseMemory calls release each time that the process has become idle, until the context ends.
func releaseMemory(ctx context.Context, release func()) {
	var r releaser
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	for backoff.Sleep(ctx, releaseEvery) == nil {
		if metrics.Read(sample); r.due(sample[0].Value.Uint64()) {
			release()
		}
	}
}
