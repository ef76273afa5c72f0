package dev

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/console"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
	"github.com/pagestream/pagestream/domain"
)

// The rates of the deliveries' faults, in percent.
const (
	allTwice = 100
	halfLate = 50
)

// errNotDelivering is returned when a fault of deliveries is chosen before they have begun.
var errNotDelivering = errors.New("the fake Meta does not deliver yet; try again in a moment")

// breaker breaks and heals the fake Meta for the console. Its methods are safe for
// concurrent use.
type breaker struct {
	graph *fakegraph.Graph

	mu     sync.Mutex
	engine *fakegraph.Engine  // nil before the deliveries begin
	normal fakegraph.Switches // the switches at the start
	// dropped are the pages whose subscription was removed here.
	dropped map[domain.PageID]bool
}

var _ console.Breaker = (*breaker)(nil)

func newBreaker(g *fakegraph.Graph) *breaker {
	return &breaker{graph: g, dropped: map[domain.PageID]bool{}}
}

// deliver sets the engine of the deliveries.
func (b *breaker) deliver(e *fakegraph.Engine) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.engine, b.normal = e, e.Switches()
}

// Faults returns what is broken now.
func (b *breaker) Faults() (f console.Faults) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.engine != nil {
		s := b.engine.Switches()
		f.Outage = !s.Delivery
		f.Duplicates, f.Reorder = s.Duplicates > b.normal.Duplicates, s.Reorder > b.normal.Reorder
	}
	for _, who := range []string{user, assistant} {
		for _, page := range b.graph.Checkpointed(appID, who) {
			f.TokenDead = append(f.TokenDead, domain.PageID(page))
		}
	}
	slices.Sort(f.TokenDead)
	for page := range b.dropped {
		if _, on := b.graph.SubscribedFields(appID, string(page)); on {
			delete(b.dropped, page)
			continue
		}
		f.Unsubscribed = append(f.Unsubscribed, page)
	}
	slices.Sort(f.Unsubscribed)
	return f
}

// Break turns a fault on.
func (b *breaker) Break(f console.Fault, page domain.PageID) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch f {
	case console.FaultSubscription:
		if _, on := b.graph.SubscribedFields(appID, string(page)); !on {
			return errors.New("the page is not subscribed")
		}
		b.graph.SetSubscription(appID, string(page))
		b.dropped[page] = true
		return nil
	case console.FaultToken:
		err := b.graph.KillTokens(appID, adminOf(string(page)), string(page), fakegraph.Checkpoint)
		if errors.Is(err, fakegraph.ErrUnknown) {
			return errors.New("the page has no valid token")
		}
		return err
	case console.FaultDuplicates, console.FaultReorder, console.FaultOutage:
	default:
		return fmt.Errorf("there is no fault %q", string(f))
	}
	if b.engine == nil {
		return errNotDelivering
	}
	switch f {
	case console.FaultDuplicates:
		b.engine.SetDuplicates(allTwice)
	case console.FaultReorder:
		b.engine.SetReorder(halfLate)
	default:
		b.engine.SetDelivery(false)
	}
	return nil
}

// Heal turns all faults off. What pagestream can repair itself stays: subscriptions.
func (b *breaker) Heal() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, who := range []string{user, assistant} {
		for _, page := range b.graph.Checkpointed(appID, who) {
			b.graph.ReviveTokens(appID, who, page)
		}
	}
	if b.engine != nil {
		b.engine.SetDelivery(b.normal.Delivery)
		b.engine.SetDuplicates(b.normal.Duplicates)
		b.engine.SetReorder(b.normal.Reorder)
	}
	return nil
}
