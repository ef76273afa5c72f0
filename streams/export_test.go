package streams

import "github.com/pagestream/pagestream/domain"

// Waiting returns how many events of a page wait for their turn.
func Waiting(p *Publisher, app string, page domain.PageID) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.queue.flows[flowKey{app, page}]; f != nil {
		return f.waiting
	}
	return 0
}
