package operate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/comments"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/streams"
)

// Status is the state of a running server.
type Status struct {
	Version string       `json:"version"`
	Started time.Time    `json:"started"`
	Ready   bool         `json:"ready"`
	Reasons []string     `json:"reasons,omitempty"`
	Stream  StreamStatus `json:"stream"`
	// Space is how full the limits of the stream and the disks are.
	Space []SpaceStatus `json:"space"`
	// Durability is what an external NATS says of how it stores the stream, nil with the embedded one.
	Durability *DurabilityStatus `json:"durability,omitempty"`
	// Projections are the statuses of the read models.
	Projections []projections.Status `json:"projections"`
	Pages       PagesStatus          `json:"pages"`
	// Stored contains the counts of the deliveries read model, which covers the whole
	// stream. Received contains the counts of this node's webhook endpoint; the last
	// second before a crash may be missing in them.
	Stored        deliveries.Summary   `json:"stored"`
	Received      deliveries.Counts    `json:"received"`
	Conversations conversations.Counts `json:"conversations"`
	Comments      comments.Counts      `json:"comments"`
}

// DurabilityStatus is how an external NATS stores the stream.
type DurabilityStatus struct {
	meta.Durability

	// Doubts are the reasons why acknowledged events may be lost, none if there is no reason.
	Doubts []string `json:"doubts"`
}

// SpaceStatus is one limit of what can be stored.
type SpaceStatus struct {
	meta.Space

	Percent int `json:"percent"`
	// Level is the level that was reached: 0, 80, 95 or 100.
	Level meta.SpaceLevel `json:"level"`
}

// StreamStatus is the state of the stream.
type StreamStatus struct {
	Name     string `json:"name"`
	FirstSeq uint64 `json:"first_seq"`
	LastSeq  uint64 `json:"last_seq"`
	Events   uint64 `json:"events"`
	Bytes    uint64 `json:"bytes"`
	// Journal is the state of the journal before the embedded server's stream, nil with an external NATS.
	Journal *streams.JournalStatus `json:"journal,omitempty"`
	// Lost are the events that the stream has lost, nil if there are none.
	Lost *streams.Losses `json:"lost,omitempty"`
}

// PagesStatus sums up the judgements of all pages.
type PagesStatus struct {
	// States are the numbers of pages by state.
	States map[meta.State]int `json:"states"`
	// Wrong and Warnings count the pages that need attention, by severity.
	Wrong    int `json:"wrong"`
	Warnings int `json:"warnings"`
	// Unhealthy are the first hundred of them, the wrong ones before the warnings.
	Unhealthy []UnhealthyPage `json:"ill"`
}

// UnhealthyPage is a page that needs attention.
type UnhealthyPage struct {
	Page     domain.PageID `json:"page"`
	Name     string        `json:"name,omitempty"`
	Company  string        `json:"company,omitempty"`
	State    meta.State    `json:"state"`
	Severity meta.Severity `json:"severity"`
	Summary  string        `json:"summary"`
}

// maxUnhealthy bounds the pages that a status lists.
const maxUnhealthy = 100

// Status returns the current state of the server.
func (o *Operator) Status(ctx context.Context) (Status, error) {
	stream, err := o.JS.Stream(ctx, o.Stream)
	if err != nil {
		return Status{}, fmt.Errorf("read stream info: %w", err)
	}
	state := stream.CachedInfo().State
	out := Status{
		Version: o.Version, Started: o.Started, Ready: true,
		Stream: StreamStatus{
			Name: o.Stream, FirstSeq: state.FirstSeq, LastSeq: state.LastSeq, Events: state.Msgs, Bytes: state.Bytes,
		},
		Space:       []SpaceStatus{},
		Projections: o.Models.Statuses(),
		Received:    o.Ledger.Counts(),
	}
	if o.Journal != nil {
		s := o.Journal.Status()
		out.Stream.Journal = &s
	}
	if lost := o.Lost.Found(); lost.Events > 0 {
		out.Stream.Lost = &lost
	}
	// The counts of a damaged read model are left out: its status says why.
	if out.Stored, err = deliveries.Read(o.Models.Deliveries()); err != nil && !errors.Is(err, projections.ErrDamaged) {
		return Status{}, fmt.Errorf("read deliveries: %w", err)
	}
	out.Conversations, err = conversations.Count(o.Models.Conversations(), "")
	if err != nil && !errors.Is(err, projections.ErrDamaged) {
		return Status{}, fmt.Errorf("count conversations: %w", err)
	}
	if out.Comments, err = comments.Count(o.Models.Comments(), ""); err != nil && !errors.Is(err, projections.ErrDamaged) {
		return Status{}, fmt.Errorf("count comments: %w", err)
	}
	if out.Pages, err = o.PagesStatus(); err != nil && !errors.Is(err, projections.ErrDamaged) {
		return Status{}, fmt.Errorf("judge pages: %w", err)
	}
	for _, s := range o.Space() {
		out.Space = append(out.Space, SpaceStatus{s, s.Percent(), s.Level()})
	}
	if d := o.Durability(); d != nil {
		out.Durability = &DurabilityStatus{*d, append([]string{}, d.Doubts()...)}
	}
	for _, err := range o.NotReady() {
		out.Ready = false
		out.Reasons = append(out.Reasons, err.Error())
	}
	return out, nil
}

// NotReady returns every reason why the process should get no traffic.
func (o *Operator) NotReady() []error { return o.Ready() }

// Received returns the counts of this node's webhook endpoint since its ledger was
// created.
func (o *Operator) Received() deliveries.Counts { return o.Ledger.Counts() }

// PagesStatus judges every page and sums up the judgements.
func (o *Operator) PagesStatus() (PagesStatus, error) {
	out := PagesStatus{States: map[meta.State]int{}, Unhealthy: []UnhealthyPage{}}
	var warnings []UnhealthyPage
	err := o.EachPage(func(p Page) error {
		j := p.Judgement
		out.States[j.State]++
		page := UnhealthyPage{p.ID, p.Name, p.Company, j.State, j.Severity, j.Summary}
		switch j.Severity {
		case meta.Wrong:
			if out.Wrong++; len(out.Unhealthy) < maxUnhealthy {
				out.Unhealthy = append(out.Unhealthy, page)
			}
		case meta.Warning:
			if out.Warnings++; len(warnings) < maxUnhealthy {
				warnings = append(warnings, page)
			}
		case meta.Fine:
		}
		return nil
	})
	out.Unhealthy = append(out.Unhealthy, warnings[:min(len(warnings), maxUnhealthy-len(out.Unhealthy))]...)
	return out, err
}
