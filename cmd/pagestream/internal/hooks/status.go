package hooks

import (
	"net/url"
	"time"

	"github.com/pagestream/pagestream/domain"
)

// Status is the state of an endpoint.
type Status struct {
	Name string `json:"name"`
	// Host is the host of the URL; the rest of a URL may be a secret.
	Host string `json:"host"`
	// Position is the sequence up to which every event for the endpoint is
	// finished: delivered, or a dead letter. Lag is the distance from there to the
	// stream's head, which is read once a second.
	Position uint64 `json:"position"`
	Lag      uint64 `json:"lag"`
	// Delivered and Failed count tries over the endpoint's lifetime. After a crash
	// the last tries may be missing.
	Delivered uint64 `json:"delivered"`
	Failed    uint64 `json:"failed"`
	// Behind is the number of pages that have events to send. Retrying is how many
	// of them have a first event that failed before.
	Behind   int `json:"behind"`
	Retrying int `json:"retrying"`
	// NextTry is the earliest time at which an event that failed is tried again.
	// RetryingUntil is the earliest time at which one is given up.
	NextTry       time.Time `json:"next_try,omitzero"`
	RetryingUntil time.Time `json:"retrying_until,omitzero"`
	// LastError is the last failure, also if later tries succeeded.
	LastError   string    `json:"last_error,omitempty"`
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
	// Disabled is the reason why the endpoint is disabled; empty if it is enabled.
	Disabled    string `json:"disabled,omitempty"`
	DeadLetters int    `json:"dead_letters"`
	// UnknownPages are the pages of the endpoint that don't exist, or not yet.
	UnknownPages []domain.PageID `json:"unknown_pages,omitempty"`
	// UnknownCompany is the company of the endpoint if there is none of that name, or not
	// yet. It is then found by its first name only, until the next start.
	UnknownCompany string `json:"unknown_company,omitempty"`
}

func (e *endpoint) status() Status {
	unknown, company := e.unknownPages(), ""
	if _, found := e.findCompany(); !found {
		company = string(e.Company)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	s := Status{
		Name: e.Name, Position: e.read, Delivered: e.delivered, Failed: e.failed, UnknownPages: unknown,
		UnknownCompany: company, LastError: e.lastError, LastErrorAt: e.lastErrorAt, Disabled: e.disabled, DeadLetters: e.dead,
	}
	if u, err := url.Parse(e.URL); err == nil {
		s.Host = u.Host
	}
	for _, l := range e.lanes {
		if !l.work() {
			continue
		}
		s.Behind++
		s.Position = min(s.Position, l.next-1)
		if l.attempts == 0 {
			continue
		}
		s.Retrying++
		s.NextTry = earlier(s.NextTry, l.until)
		s.RetryingUntil = earlier(s.RetryingUntil, l.since.Add(e.opts.GiveUpAfter))
	}
	if e.head > s.Position {
		s.Lag = e.head - s.Position
	}
	return s
}

// unknownPages returns the endpoint's pages that are not known.
func (e *endpoint) unknownPages() (out []domain.PageID) {
	for _, page := range e.Pages {
		if e.opts.KnowsPage != nil && !e.opts.KnowsPage(page) {
			out = append(out, page)
		}
	}
	return out
}

// earlier returns the earlier of two times; the zero time means no time.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}
