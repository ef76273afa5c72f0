package operate

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/streams"
)

const (
	// shownDeadLetters bounds the dead letters that a result lists.
	shownDeadLetters = 100
	// maxReason bounds an operator's reason, in bytes.
	maxReason = 1000
	// parkedTimeout bounds the listing of events that reactors have parked.
	parkedTimeout = 10 * time.Second
)

// Errors of [Decision.Check].
var (
	// ErrDecisionAction is returned when the action is neither redrive nor discard.
	ErrDecisionAction = errors.New(`action is "redrive" or "discard"`)
	// ErrDecisionWhich is returned when a decision has not exactly one of Event, Page
	// and All.
	ErrDecisionWhich = errors.New("say which dead letters: one of event, page, all")
	// ErrDecisionReason is returned when a discard has no reason, or when the reason
	// is too long.
	ErrDecisionReason = errors.New("a reason of at most 1000 bytes is needed to discard")
)

// Decision redrives or discards dead letters: the one of Event, those of Page, or All.
// Exactly one of the three must be set.
type Decision struct {
	Action streams.DecisionAction `json:"action"`
	// Projection is the name of a read model or reactor; empty means all.
	Projection string        `json:"projection,omitempty"`
	Event      uint64        `json:"event,omitempty"`
	Page       domain.PageID `json:"page,omitempty"`
	All        bool          `json:"all,omitempty"`
	// Reason is required to discard.
	Reason string `json:"reason,omitempty"`
	// DryRun only lists the dead letters that the decision applies to.
	DryRun bool `json:"dry_run,omitempty"`
}

// Check returns nil if the decision is valid. Otherwise it returns
// [ErrDecisionAction], [ErrDecisionWhich] or [ErrDecisionReason].
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

// Record puts on record what the decision is about.
func (d Decision) Record(a *history.Action) {
	a.On("action", string(d.Action))
	a.On("projection", d.Projection)
	a.On("page", string(d.Page))
	if d.Event > 0 {
		a.On("event", strconv.FormatUint(d.Event, 10))
	}
	if d.DryRun {
		a.On("dry_run", "true")
	}
}

// DecisionResult is the result of a [Decision].
type DecisionResult struct {
	// Count is the number of dead letters that the decision applied to. DeadLetters
	// are the first hundred of them.
	Count       int                      `json:"count"`
	DeadLetters []projections.DeadLetter `json:"dead_letters"`
	// Outcomes are by name of the read model or reactor; empty for a dry run.
	Outcomes map[string]projections.Redriven `json:"outcomes,omitempty"`
}

// DeadLetters lists at most limit dead letters that come after the given one: of the
// read model or reactor with that name, or of all if it is empty. They are ordered
// by read model and then by reactor. It fails with [ErrUnknown].
func (o *Operator) DeadLetters(of string, after projections.DeadLetter, limit int) (
	out []projections.DeadLetter, err error,
) {
	models, err := o.modelsNamed(of)
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

// parked lists the dead letters of reactors that a decision applies to. A decision
// without an action applies to all parked events.
func (o *Operator) parked(d streams.Decision, of string) (out []projections.DeadLetter, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), parkedTimeout)
	defer cancel()
	list, err := o.Parking.List(ctx, of)
	for _, p := range list {
		applies := d.Event == p.Seq || d.Event == 0 && p.Behind == 0 && (d.Page == "" || d.Page == p.Page)
		if d.Action == "" || applies {
			out = append(out, projections.DeadLetter{
				Projection: p.Reactor, Seq: p.Seq, Page: p.Page, Contact: p.Contact, Type: p.Type,
				Behind: p.Behind, Error: p.Error, Attempts: p.Attempts,
			})
		}
	}
	return out, err
}

// modelsNamed returns the read model of that name, all if the name is empty, or none
// if it is the name of a reactor.
func (o *Operator) modelsNamed(of string) (Models, error) {
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

// Decide redrives or discards dead letters, in each read model and reactor that has
// matching ones. It fails with [projections.ErrNoDeadLetter] if there are none.
func (o *Operator) Decide(ctx context.Context, r Decision) (DecisionResult, error) {
	out := DecisionResult{DeadLetters: []projections.DeadLetter{}, Outcomes: map[string]projections.Redriven{}}
	if err := r.Check(); err != nil {
		return out, err
	}
	models, err := o.modelsNamed(r.Projection)
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

// decideReactor carries out a decision for one dead letter of a reactor, and adds the
// result to the outcomes.
func (o *Operator) decideReactor(ctx context.Context, d streams.Decision, l projections.DeadLetter,
	outcomes map[string]projections.Redriven,
) error {
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
