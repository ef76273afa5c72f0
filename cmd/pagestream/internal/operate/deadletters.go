package operate

import (
	"context"
	"errors"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/streams"
)

const (
	// shownDeadLetters bounds the dead letters that an answer lists.
	shownDeadLetters = 100
	// maxReason bounds an operator's words, in bytes.
	maxReason = 1000
	// parkedTimeout bounds a look at what reactors have parked.
	parkedTimeout = 10 * time.Second
)

// Errors of a [Decision] that can't be taken as it is.
var (
	ErrDecisionAction = errors.New(`action is "redrive" or "discard"`)
	ErrDecisionWhich  = errors.New("say which dead letters: one of event, page, all")
	ErrDecisionReason = errors.New("a reason of at most 1000 bytes is needed to discard")
)

// Decision is about the dead letter Event, those of Page, or All; one of the three.
type Decision struct {
	Action     streams.DecisionAction `json:"action"`
	Projection string                 `json:"projection,omitempty"`
	Event      uint64                 `json:"event,omitempty"`
	Page       domain.PageID          `json:"page,omitempty"`
	All        bool                   `json:"all,omitempty"`
	// Reason is needed to discard.
	Reason string `json:"reason,omitempty"`
	// DryRun only says what it would be about.
	DryRun bool `json:"dry_run,omitempty"`
}

// Check returns why a decision can't be taken as it is, nil if it can.
func (d Decision) Check() error {
	which := 0
	for _, given := range []bool{d.Event > 0, d.Page != "", d.All} {
		if given {
			which++
		}
	}
	switch {
	case d.Action != streams.Redrive && d.Action != streams.Discard:
		return ErrDecisionAction
	case which != 1:
		return ErrDecisionWhich
	case d.Action == streams.Discard && !d.DryRun && d.Reason == "", len(d.Reason) > maxReason:
		return ErrDecisionReason
	}
	return nil
}

// Decided is what became of dead letters.
type Decided struct {
	// Count is how many it was about, DeadLetters the first hundred of them.
	Count       int                      `json:"count"`
	DeadLetters []projections.DeadLetter `json:"dead_letters"`
	// Outcomes are by read model or reactor; empty for a dry run.
	Outcomes map[string]projections.Redriven `json:"outcomes,omitempty"`
}

// DeadLetters lists at most limit of what read models and reactors could not
// handle, of one name or of all, one after the other, from behind after on.
func (o *Operator) DeadLetters(of string, after projections.DeadLetter, limit int) (out []projections.DeadLetter, err error) {
	models, err := o.deciders(of)
	if err != nil {
		return nil, err
	}
	past := after.Projection == ""
	for _, r := range models {
		at := projections.DeadLetter{}
		if !past && r.Name() == after.Projection {
			past, at = true, after
		}
		if !past || len(out) == limit {
			continue
		}
		list, err := r.DeadLetters(at, limit-len(out))
		if err != nil {
			return nil, err
		}
		out = append(out, list...)
	}
	parked, err := o.parked(streams.Decision{}, of)
	if err != nil {
		return nil, err
	}
	for _, d := range parked {
		if !past && d.Projection == after.Projection && d.Seq == after.Seq {
			past = true
			continue
		}
		if past && len(out) < limit {
			out = append(out, d)
		}
	}
	return out, nil
}

// parked lists the dead letters of reactors that a decision would be about; one
// without an action is about all that is parked.
func (o *Operator) parked(d streams.Decision, of string) (out []projections.DeadLetter, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), parkedTimeout)
	defer cancel()
	list, err := o.Parking.List(ctx, of)
	for _, p := range list {
		about := d.Event == p.Seq || d.Event == 0 && p.Behind == 0 && (d.Page == "" || d.Page == p.Page)
		if d.Action == "" || about {
			out = append(out, projections.DeadLetter{
				Projection: p.Reactor, Seq: p.Seq, Page: p.Page, Contact: p.Contact, Type: p.Type, Behind: p.Behind, Error: p.Error, Attempts: p.Attempts,
			})
		}
	}
	return out, err
}

// deciders are the read models of that name, or all; none where a reactor has the
// name.
func (o *Operator) deciders(of string) (Models, error) {
	if of == "" {
		return o.Models, nil
	}
	r, err := o.Models.Find(of)
	if err == nil {
		return Models{r}, nil
	}
	if parked, listErr := o.parked(streams.Decision{}, of); listErr != nil || len(parked) == 0 {
		return nil, errors.Join(listErr, err)
	}
	return nil, nil
}

// Decide redrives or discards dead letters, in each read model and reactor that
// has such. It fails with [projections.ErrNoDeadLetter] where there is none.
func (o *Operator) Decide(ctx context.Context, r Decision) (Decided, error) {
	out := Decided{DeadLetters: []projections.DeadLetter{}, Outcomes: map[string]projections.Redriven{}}
	if err := r.Check(); err != nil {
		return out, err
	}
	models, err := o.deciders(r.Projection)
	if err != nil {
		return out, err
	}
	d := streams.Decision{Action: r.Action, Event: r.Event, Page: r.Page, Reason: r.Reason}
	add := func(list []projections.DeadLetter) {
		out.Count += len(list)
		out.DeadLetters = append(out.DeadLetters, list[:min(len(list), shownDeadLetters-len(out.DeadLetters))]...)
	}
	for _, m := range models {
		list, err := m.About(d)
		if err != nil {
			return out, err
		}
		if add(list); len(list) == 0 || r.DryRun {
			continue
		}
		if out.Outcomes[m.Name()], err = m.Decide(ctx, d); err != nil {
			return out, err
		}
	}
	parked, err := o.parked(d, r.Projection)
	if err != nil {
		return out, err
	}
	if add(parked); !r.DryRun {
		for _, l := range parked {
			if err := o.decideReactor(ctx, d, l, out.Outcomes); err != nil {
				return out, err
			}
		}
	}
	if out.Count == 0 {
		return out, projections.ErrNoDeadLetter
	}
	return out, nil
}

// decideReactor carries a decision out for one dead letter of a reactor, and adds
// what came of it to the outcomes.
func (o *Operator) decideReactor(ctx context.Context, d streams.Decision, l projections.DeadLetter, outcomes map[string]projections.Redriven) error {
	sum := outcomes[l.Projection]
	sum.Heads++
	do := o.Parking.Redrive
	if d.Action == streams.Discard {
		do = o.Parking.Discard
		sum.Discarded++
		o.Logger.Warn("dead letter of a reactor discarded", "reactor", l.Projection, "seq", l.Seq, "reason", d.Reason)
	}
	done, err := do(ctx, l.Projection, l.Seq)
	if err != nil {
		return err
	}
	left, err := o.parked(streams.Decision{}, l.Projection)
	sum.Applied, sum.Parked = sum.Applied+uint64(done), uint64(len(left))
	outcomes[l.Projection] = sum
	return err
}
