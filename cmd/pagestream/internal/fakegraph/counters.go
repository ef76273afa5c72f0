package fakegraph

import (
	"maps"
	"time"
)

// Counters count one page's items. An item may be sent several times.
type Counters struct {
	// Sent counts items in first tries, Duplicated those of them that repeat
	// others, Retried items in later tries, Acked those in POSTs that were
	// answered 200, Dropped those given up when the page was unsubscribed, Lost
	// those never sent or given up because delivery was off.
	Sent       uint64 `json:"sent"`
	Duplicated uint64 `json:"duplicated"`
	Retried    uint64 `json:"retried"`
	Acked      uint64 `json:"acked"`
	Dropped    uint64 `json:"dropped"`
	Lost       uint64 `json:"lost"`
	// Failing is since when every POST with the page has failed, zero if the last
	// was answered 200. Removed counts how often the page was unsubscribed for
	// that.
	Failing time.Time `json:"failing,omitzero"`
	Removed uint64    `json:"removed"`
}

// Stats returns the counters of every page that had traffic.
func (e *Engine) Stats() map[string]Counters {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.counters)
}

func (e *Engine) count(items []item, change func(*Counters)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, i := range items {
		c := e.counters[i.page]
		change(&c)
		e.counters[i.page] = c
	}
}
