package fakegraph

// SetStandby says whether another app owns the threads of a page: then all that
// happens there comes in the entry's standby.
func (e *Engine) SetStandby(page string, on bool) { e.set(e.standby, page, on) }

// SetQuiet says whether the people of a page write nothing. What they wrote
// before may still come, and what the Send API sends is echoed.
func (e *Engine) SetQuiet(page string, on bool) { e.set(e.quiet, page, on) }

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

// SetDelivery switches delivery off and on. While it is off people go on
// writing, but what they write, and what had not been answered 200 by then, is
// never sent: a gap that only the Conversations API can fill. A POST that is on
// its way is not broken off.
func (e *Engine) SetDelivery(on bool) { e.outage.Store(!on) }

// SetSecret changes what POSTs are signed with; empty is the app's own secret.
func (e *Engine) SetSecret(secret string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.secret = secret
}
