package profile

import (
	"container/list"
	"sync"
	"time"
)

// memory holds one time a key, for the keys that were set last. It is safe for
// concurrent use.
type memory struct {
	mu    sync.Mutex
	most  int
	order *list.List // of *entry, the newest first
	keys  map[string]*list.Element
}

type entry struct {
	key  string
	time time.Time
}

func newMemory(most int) *memory {
	return &memory{most: most, order: list.New(), keys: make(map[string]*list.Element)}
}

// get returns the key's time, zero where there is none.
func (m *memory) get(key string) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.keys[key]; ok {
		return e.Value.(*entry).time
	}
	return time.Time{}
}

// set keeps the key's time and lets go of the oldest if there are too many.
func (m *memory) set(key string, t time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.keys[key]; ok {
		e.Value.(*entry).time = t
		m.order.MoveToFront(e)
		return
	}
	m.keys[key] = m.order.PushFront(&entry{key, t})
	if m.order.Len() > m.most {
		delete(m.keys, m.order.Remove(m.order.Back()).(*entry).key)
	}
}
