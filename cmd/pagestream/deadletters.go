package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/streams"
)

// DeadLettersCommand groups what concerns events that a read model could not take
// in.
type DeadLettersCommand struct {
	List    DeadLettersListCommand    `cmd:"" help:"List events that a read model could not take in, and what waits behind them."`
	Show    DeadLettersShowCommand    `cmd:"" help:"Show one event and why it was parked."`
	Redrive DeadLettersRedriveCommand `cmd:"" help:"Try dead letters again, and what waits behind them."`
	Discard DeadLettersDiscardCommand `cmd:"" help:"Give dead letters up, and go on with what waits behind them."`
}

const deadLettersPath = "/api/v1/deadletters"

// DeadLettersListCommand lists dead letters.
type DeadLettersListCommand struct {
	Projection string `env:"PAGESTREAM_DEADLETTERS_LIST_PROJECTION" help:"Only of this read model or reactor."`
	Limit      int    `default:"100" env:"PAGESTREAM_DEADLETTERS_LIST_LIMIT" help:"At most this many; 0 for all."`
}

// Run prints a table.
func (d DeadLettersListCommand) Run(c *CLI) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	list, err := collect[projections.DeadLetter](c.ctx, cl, deadLettersPath, url.Values{"projection": {d.Projection}}, d.Limit)
	if err != nil {
		return err
	}
	return c.Print(list, func() {
		if len(list) == 0 {
			fmt.Fprintln(c.Out, "None.")
			return
		}
		writeDeadLetters(c, list)
	})
}

func writeDeadLetters(c *CLI, list []projections.DeadLetter) {
	t := tabwriter.NewWriter(c.Out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "PROJECTION\tSEQUENCE\tPAGE\tCONTACT\tTYPE\tTRIED\tWHY")
	for _, d := range list {
		why := d.Error
		if d.Behind > 0 {
			why = fmt.Sprintf("waits behind %d", d.Behind)
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%d\t%s\n", d.Projection, d.Seq, d.Page, dash(string(d.Contact)), d.Type, d.Attempts, why)
	}
	_ = t.Flush()
}

// DeadLettersShowCommand shows one.
type DeadLettersShowCommand struct {
	Event uint64 `arg:"" help:"Sequence of the event."`
}

// Run prints why each read model parked the event, and the event without its
// text.
func (d DeadLettersShowCommand) Run(c *CLI) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var out struct {
		Event       eventLine                `json:"event"`
		DeadLetters []projections.DeadLetter `json:"dead_letters"`
	}
	err = each(c.ctx, cl, deadLettersPath, nil, 0, func(l projections.DeadLetter) error {
		if l.Seq == d.Event {
			out.DeadLetters = append(out.DeadLetters, l)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(out.DeadLetters) == 0 {
		return fmt.Errorf("event %d is no dead letter; type: pagestream deadletters list", d.Event)
	}
	if err := cl.do(c.ctx, http.MethodGet, "/api/v1/events/"+strconv.FormatUint(d.Event, 10), nil, nil, &out.Event); err != nil && !isNotFound(err) {
		return err
	}
	return c.Print(out, func() {
		writeDeadLetters(c, out.DeadLetters)
		out.Event.write(c.Out)
	})
}

// deadLetters say which dead letters a command is about.
type deadLetters struct {
	Event      uint64        `arg:"" optional:"" help:"Sequence of one dead letter."`
	Page       domain.PageID `env:"PAGESTREAM_DEADLETTERS_PAGE" help:"All of one page."`
	All        bool          `env:"PAGESTREAM_DEADLETTERS_ALL" help:"All."`
	Projection string        `env:"PAGESTREAM_DEADLETTERS_PROJECTION" help:"Only of this read model or reactor."`
	DryRun     bool          `name:"dry-run" env:"PAGESTREAM_DEADLETTERS_DRY_RUN" help:"Only show which it would be."`
	Yes        bool          `env:"PAGESTREAM_DEADLETTERS_YES" help:"Yes, all that were shown."`
}

// decide shows how many it is about, and does it where that was agreed to.
func (d deadLetters) decide(c *CLI, r api.DecisionRequest) error {
	given := 0
	for _, g := range []bool{d.Event > 0, d.Page != "", d.All} {
		if g {
			given++
		}
	}
	if given != 1 {
		return fmt.Errorf("%w: which dead letters? Name one by its sequence, or give --page or --all", errUsage)
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	r.Event, r.Page, r.All, r.Projection, r.DryRun = d.Event, d.Page, d.All, d.Projection, true
	var out api.DecisionResult
	if err := cl.do(c.ctx, http.MethodPost, deadLettersPath, nil, r, &out); err != nil {
		return err
	}
	if !c.JSON {
		fmt.Fprintf(c.Out, "%s: %d dead letters\n", r.Action, out.Count)
		writeDeadLetters(c, out.DeadLetters)
	}
	switch {
	case d.DryRun:
		return c.Print(out, func() {})
	case out.Count > 1 && !d.Yes:
		return fmt.Errorf("%w: this is about %d dead letters; add --yes to %s them", errUsage, out.Count, r.Action)
	}
	r.DryRun = false
	if err := cl.do(c.ctx, http.MethodPost, deadLettersPath, nil, r, &out); err != nil {
		return err
	}
	left := uint64(0)
	err = c.Print(out, func() {
		for name, o := range out.Outcomes {
			fmt.Fprintf(c.Out, "%s: %d events applied, %d discarded, %d still parked\n", name, o.Applied, o.Discarded, o.Parked)
		}
	})
	for _, o := range out.Outcomes {
		left += o.Parked
	}
	if err == nil && r.Action == streams.Redrive && left > 0 {
		err = fmt.Errorf("%d events are still parked; type: pagestream deadletters list", left)
	}
	return err
}

// DeadLettersRedriveCommand tries again.
type DeadLettersRedriveCommand struct{ deadLetters }

// Run redrives. It fails where something is parked still.
func (d DeadLettersRedriveCommand) Run(c *CLI) error {
	return d.decide(c, api.DecisionRequest{Action: streams.Redrive})
}

// DeadLettersDiscardCommand gives up.
type DeadLettersDiscardCommand struct {
	deadLetters

	Reason string `env:"PAGESTREAM_DEADLETTERS_REASON" help:"Why; it is kept with the decision."`
}

// Run discards.
func (d DeadLettersDiscardCommand) Run(c *CLI) error {
	if d.Reason == "" && !d.DryRun {
		return fmt.Errorf("%w: why? Give --reason", errUsage)
	}
	return d.decide(c, api.DecisionRequest{Action: streams.Discard, Reason: d.Reason})
}

// shown bounds the dead letters that an answer lists.
const shown = 100

// DeadLetters lists those of one read model or reactor, or of all, one after the
// other.
func (a *actions) DeadLetters(of string, after projections.DeadLetter, limit int) (out []projections.DeadLetter, err error) {
	runners, err := a.deciders(of)
	if err != nil {
		return nil, err
	}
	past := after.Projection == ""
	for _, r := range runners {
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
	parked, err := a.parked(streams.Decision{}, of)
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
func (a *actions) parked(d streams.Decision, of string) (out []projections.DeadLetter, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), parkedTimeout)
	defer cancel()
	list, err := a.p.parking.List(ctx, of)
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

// parkedTimeout bounds a look at what reactors have parked.
const parkedTimeout = 10 * time.Second

// deciders are the read models of that name, or all; none where a reactor has the
// name.
func (a *actions) deciders(of string) ([]*projections.Runner, error) {
	if of == "" {
		return a.p.runners, nil
	}
	r, err := a.runner(of)
	if err == nil {
		return []*projections.Runner{r}, nil
	}
	if parked, lookErr := a.parked(streams.Decision{}, of); lookErr != nil || len(parked) == 0 {
		return nil, errors.Join(lookErr, err)
	}
	return nil, nil
}

// Decide redrives or discards dead letters, in each read model and reactor that
// has such.
func (a *actions) Decide(ctx context.Context, r api.DecisionRequest) (api.DecisionResult, error) {
	out := api.DecisionResult{DeadLetters: []projections.DeadLetter{}, Outcomes: map[string]projections.Redriven{}}
	runners, err := a.deciders(r.Projection)
	if err != nil {
		return out, err
	}
	d := streams.Decision{Action: r.Action, Event: r.Event, Page: r.Page, Reason: r.Reason}
	about := func(list []projections.DeadLetter) {
		out.Count += len(list)
		out.DeadLetters = append(out.DeadLetters, list[:min(len(list), shown-len(out.DeadLetters))]...)
	}
	for _, run := range runners {
		list, err := run.About(d)
		if err != nil {
			return out, err
		}
		if about(list); len(list) == 0 || r.DryRun {
			continue
		}
		if out.Outcomes[run.Name()], err = run.Decide(ctx, d); err != nil {
			return out, err
		}
	}
	parked, err := a.parked(d, r.Projection)
	if err != nil {
		return out, err
	}
	if about(parked); !r.DryRun {
		for _, l := range parked {
			if err := a.decideReactor(ctx, d, l, out.Outcomes); err != nil {
				return out, err
			}
		}
	}
	if out.Count == 0 {
		return out, projections.ErrNoDeadLetter
	}
	return out, nil
}

// decideReactor carries a decision out for one dead letter of a reactor, and notes
// what came of it.
func (a *actions) decideReactor(ctx context.Context, d streams.Decision, l projections.DeadLetter, outcomes map[string]projections.Redriven) error {
	o := outcomes[l.Projection]
	o.Heads++
	do := a.p.parking.Redrive
	if d.Action == streams.Discard {
		do = a.p.parking.Discard
		o.Discarded++
		a.p.log.Warn("dead letter of a reactor discarded", "reactor", l.Projection, "seq", l.Seq, "reason", d.Reason)
	}
	done, err := do(ctx, l.Projection, l.Seq)
	if err != nil {
		return err
	}
	left, err := a.parked(streams.Decision{}, l.Projection)
	o.Applied, o.Parked = o.Applied+uint64(done), uint64(len(left))
	outcomes[l.Projection] = o
	return err
}
