package operate

import (
	"context"
	"fmt"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/deliveries"
)

// Status is what a running server is doing.
type Status struct {
	Version string       `json:"version"`
	Started time.Time    `json:"started"`
	Ready   bool         `json:"ready"`
	Reasons []string     `json:"reasons,omitempty"`
	Stream  StreamStatus `json:"stream"`
	// Projections say how far each read model is.
	Projections []projections.Status `json:"projections"`
	Pages       PagesStatus          `json:"pages"`
	// Stored is the fold of the stream; Received is what this node counted at its
	// webhook, and may miss the last second before a crash.
	Stored        deliveries.Summary   `json:"stored"`
	Received      deliveries.Counts    `json:"received"`
	Conversations conversations.Counts `json:"conversations"`
}

// StreamStatus is the state of the stream.
type StreamStatus struct {
	Name     string `json:"name"`
	FirstSeq uint64 `json:"first_seq"`
	LastSeq  uint64 `json:"last_seq"`
	Events   uint64 `json:"events"`
	Bytes    uint64 `json:"bytes"`
}

// PagesStatus sums up the judgements of all pages.
type PagesStatus struct {
	// States counts the pages by their state.
	States map[meta.State]int `json:"states"`
	// Wrong and Warnings count the pages that need somebody.
	Wrong    int `json:"wrong"`
	Warnings int `json:"warnings"`
	// Ill are the first hundred of them, what is wrong before what is a warning.
	Ill []IllPage `json:"ill"`
}

// IllPage is a page that needs somebody.
type IllPage struct {
	Page     domain.PageID `json:"page"`
	Name     string        `json:"name,omitempty"`
	Company  string        `json:"company,omitempty"`
	State    meta.State    `json:"state"`
	Severity meta.Severity `json:"severity"`
	Summary  string        `json:"summary"`
}

// maxIll bounds the pages that a status names.
const maxIll = 100

// Status returns what the server is doing now.
func (o *Operator) Status(ctx context.Context) (Status, error) {
	stream, err := o.JS.Stream(ctx, o.Stream)
	if err != nil {
		return Status{}, fmt.Errorf("ask the stream: %w", err)
	}
	state := stream.CachedInfo().State
	out := Status{
		Version: o.Version, Started: o.Started, Ready: true,
		Stream: StreamStatus{
			Name: o.Stream, FirstSeq: state.FirstSeq, LastSeq: state.LastSeq, Events: state.Msgs, Bytes: state.Bytes,
		},
		Projections: o.Models.Statuses(),
		Received:    o.Ledger.Counts(),
	}
	if out.Stored, err = deliveries.Read(o.Models.Deliveries()); err != nil {
		return Status{}, fmt.Errorf("read ledger: %w", err)
	}
	if out.Conversations, err = conversations.Count(o.Models.Conversations(), ""); err != nil {
		return Status{}, fmt.Errorf("count conversations: %w", err)
	}
	if out.Pages, err = o.PagesStatus(); err != nil {
		return Status{}, fmt.Errorf("judge pages: %w", err)
	}
	for _, err := range o.NotReady() {
		out.Ready = false
		out.Reasons = append(out.Reasons, err.Error())
	}
	return out, nil
}

// NotReady returns every reason why the process should get no traffic.
func (o *Operator) NotReady() []error { return o.Ready() }

// Received counts what this node received since its ledger was begun.
func (o *Operator) Received() deliveries.Counts { return o.Ledger.Counts() }

// PagesStatus judges every page.
func (o *Operator) PagesStatus() (PagesStatus, error) {
	out := PagesStatus{States: map[meta.State]int{}, Ill: []IllPage{}}
	var warnings []IllPage
	err := o.EachPage(func(p Page) error {
		j := p.Judgement
		out.States[j.State]++
		ill := IllPage{p.ID, p.Name, p.Company, j.State, j.Severity, j.Summary}
		switch j.Severity {
		case meta.Wrong:
			if out.Wrong++; len(out.Ill) < maxIll {
				out.Ill = append(out.Ill, ill)
			}
		case meta.Warning:
			if out.Warnings++; len(warnings) < maxIll {
				warnings = append(warnings, ill)
			}
		case meta.Fine:
		}
		return nil
	})
	out.Ill = append(out.Ill, warnings[:min(len(warnings), maxIll-len(out.Ill))]...)
	return out, err
}
