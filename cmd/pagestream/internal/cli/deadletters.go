package cli

import (
	"errors"
	"fmt"
	"net/url"
	"slices"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/streams"
)

// DeadLettersCommand groups the commands for events that a read model could not apply.
type DeadLettersCommand struct {
	List    DeadLettersListCommand    `cmd:"" help:"List events that a read model could not apply, and the events that wait behind them."`
	Show    DeadLettersShowCommand    `cmd:"" help:"Show one event and why it was parked."`
	Redrive DeadLettersRedriveCommand `cmd:"" help:"Apply dead letters and the events that wait behind them again."`
	Discard DeadLettersDiscardCommand `cmd:"" help:"Discard dead letters and apply the events that wait behind them."`
}

const deadLettersPath = "/api/v1/deadletters"

// DeadLettersListCommand lists dead letters.
type DeadLettersListCommand struct {
	Projection string `env:"PAGESTREAM_DEADLETTERS_LIST_PROJECTION" help:"Only dead letters of this read model or reactor."`
	Limit      int    `default:"100" env:"PAGESTREAM_DEADLETTERS_LIST_LIMIT" help:"Maximum number; 0 for all."`
}

// Run prints a table of the dead letters.
func (d DeadLettersListCommand) Run(c *CLI) error {
	query := url.Values{}
	if d.Projection != "" {
		query.Set("projection", d.Projection)
	}
	list, err := collect[projections.DeadLetter](c, deadLettersPath, query, d.Limit)
	return c.answer(list, err, func() {
		if len(list) == 0 {
			fmt.Fprintln(c.Out, "There are no dead letters.")
			return
		}
		writeDeadLetters(c, list)
	})
}

func writeDeadLetters(c *CLI, list []projections.DeadLetter) {
	writeTable(c, "PROJECTION, SEQUENCE, PAGE, CONTACT, TYPE, TRIED, WHY", list,
		func(d projections.DeadLetter) cells {
			why := d.Error
			if d.Behind > 0 {
				why = fmt.Sprintf("waits behind %d", d.Behind)
			}
			return cells{d.Projection, d.Seq, d.Page, dash(d.Contact), d.Type, d.Attempts, why}
		})
}

// DeadLettersShowCommand shows one dead letter.
type DeadLettersShowCommand struct {
	Event uint64 `arg:"" help:"Sequence of the event."`
}

// Run prints why each read model parked the event, and the event without its text.
func (d DeadLettersShowCommand) Run(c *CLI) error {
	var out struct {
		Event       eventLine                `json:"event"`
		DeadLetters []projections.DeadLetter `json:"dead_letters"`
	}
	all, err := collect[projections.DeadLetter](c, deadLettersPath, nil, 0)
	if err != nil {
		return err
	}
	out.DeadLetters = slices.DeleteFunc(all, func(l projections.DeadLetter) bool { return l.Seq != d.Event })
	if len(out.DeadLetters) == 0 {
		return fmt.Errorf("event %d is not a dead letter; run: pagestream deadletters list", d.Event)
	}
	if out.Event, err = get[eventLine](c, eventPath(d.Event), nil); err != nil && !isNotFound(err) {
		return err
	}
	return c.Print(out, func() {
		writeDeadLetters(c, out.DeadLetters)
		fmt.Fprintln(c.Out, out.Event.text("", 0))
	})
}

// deadLetters are the flags that select dead letters.
type deadLetters struct {
	Event      uint64  `arg:"" optional:"" help:"Sequence of one dead letter."`
	Page       PageRef `placeholder:"PAGE" env:"PAGESTREAM_DEADLETTERS_PAGE" help:"All dead letters of one page, by its id or name."`
	All        bool    `env:"PAGESTREAM_DEADLETTERS_ALL" help:"All dead letters."`
	Projection string  `env:"PAGESTREAM_DEADLETTERS_PROJECTION" help:"Only dead letters of this read model or reactor."`
	DryRun     bool    `name:"dry-run" env:"PAGESTREAM_DEADLETTERS_DRY_RUN" help:"Only show the selected dead letters."`
	Yes        bool    `env:"PAGESTREAM_DEADLETTERS_YES" help:"Confirm the operation on several dead letters."`
}

// decide lists the selected dead letters with a dry run. Then it makes the decision, unless --dry-run
// was given. It returns a usage error if --yes is missing for more than one.
func (d deadLetters) decide(c *CLI, r operate.Decision) error {
	r.Event, r.Page, r.All, r.Projection, r.DryRun = d.Event, domain.PageID(d.Page), d.All, d.Projection, true
	if errors.Is(r.Check(), operate.ErrDecisionWhich) {
		return fmt.Errorf("%w: which dead letters? Name one by its sequence, or give --page or --all", errUsage)
	}
	out, err := post[operate.DecisionResult](c, deadLettersPath, nil, r)
	if err != nil {
		return err
	}
	if !c.machine() {
		fmt.Fprintf(c.Out, "%s: %d dead letters\n", r.Action, out.Count)
		writeDeadLetters(c, out.DeadLetters)
	}
	switch {
	case d.DryRun:
		return c.Print(out, func() {})
	case out.Count > 1 && !d.Yes:
		return fmt.Errorf("%w: %d dead letters are selected; add --yes to %s them", errUsage, out.Count, r.Action)
	}
	r.DryRun = false
	out, err = post[operate.DecisionResult](c, deadLettersPath, nil, r)
	left := uint64(0)
	err = c.answer(out, err, func() {
		for name, o := range out.Outcomes {
			fmt.Fprintf(c.Out, "%s: %d events applied, %d discarded, %d still parked\n",
				name, o.Applied, o.Discarded, o.Parked)
		}
	})
	for _, o := range out.Outcomes {
		left += o.Parked
	}
	if err == nil && r.Action == streams.Redrive && left > 0 {
		err = fmt.Errorf("%d events are still parked; run: pagestream deadletters list", left)
	}
	return err
}

// DeadLettersRedriveCommand applies dead letters again.
type DeadLettersRedriveCommand struct{ deadLetters }

// Run redrives the selected dead letters. It fails if some are still parked afterwards.
func (d DeadLettersRedriveCommand) Run(c *CLI) error {
	return d.decide(c, operate.Decision{Action: streams.Redrive})
}

// DeadLettersDiscardCommand discards dead letters.
type DeadLettersDiscardCommand struct {
	deadLetters

	Reason string `env:"PAGESTREAM_DEADLETTERS_REASON" help:"Reason, stored with the decision."`
}

// Run discards the selected dead letters. It requires a reason.
func (d DeadLettersDiscardCommand) Run(c *CLI) error {
	if d.Reason == "" && !d.DryRun {
		return fmt.Errorf("%w: a reason is required; give --reason", errUsage)
	}
	return d.decide(c, operate.Decision{Action: streams.Discard, Reason: d.Reason})
}
