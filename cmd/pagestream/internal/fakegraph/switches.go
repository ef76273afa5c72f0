package fakegraph

// SetStandby sets whether another app owns the threads of a page. If it does, all
// items of the page are sent in the entry's standby.
func (e *Engine) SetStandby(page string, on bool) { e.set(e.standby, page, on) }

// SetQuiet sets whether the people of a page stop writing. Earlier items may still be
// delivered, and messages of the Send API are still echoed.
func (e *Engine) SetQuiet(page string, on bool) { e.set(e.quiet, page, on) }

// SetMuted sets whether Meta delivers nothing of a page that the app is subscribed to. People
// keep writing, and their messages are in the Conversations API, but none is ever sent.
// Earlier items may still be delivered.
func (e *Engine) SetMuted(page string, on bool) { e.set(e.muted, page, on) }

func (e *Engine) has(pages map[string]bool, page string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return pages[page]
}

func (e *Engine) set(pages map[string]bool, page string, on bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if on {
		pages[page] = true
	} else {
		delete(pages, page)
	}
}

// SetDelivery turns delivery on or off. While it is off, people keep writing, but
// their messages, and all items that were not yet answered 200, are never sent:
// a gap that only the Conversations API can fill. A POST in flight is not canceled.
func (e *Engine) SetDelivery(on bool) { e.outage.Store(!on) }

// SetSecret changes the secret that signs POSTs; empty is the app's own secret.
func (e *Engine) SetSecret(secret string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.secret = secret
}

// SetDuplicates changes [EngineOptions.Duplicates]; it is limited to 0 to 100.
func (e *Engine) SetDuplicates(percent int) { e.duplicates.Store(percentage(percent)) }

// SetReorder changes [EngineOptions.Reorder]; it is limited to 0 to 100.
func (e *Engine) SetReorder(percent int) { e.reorder.Store(percentage(percent)) }

func percentage(n int) int32 { return int32(min(max(n, 0), 100)) }

// Switches are the switches of an engine that concern all its pages.
type Switches struct {
	Delivery            bool
	Duplicates, Reorder int
}

// Switches returns the current switches.
func (e *Engine) Switches() Switches {
	return Switches{!e.outage.Load(), int(e.duplicates.Load()), int(e.reorder.Load())}
}
