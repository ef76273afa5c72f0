package cli

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/hooks"
)

// HooksCommand groups what concerns the signed webhooks to others.
type HooksCommand struct {
	List        HooksListCommand        `cmd:"" help:"List endpoints and how far they are."`
	DeadLetters HooksDeadLettersCommand `cmd:"" name:"deadletters" help:"List the events that an endpoint did not take."`
	Redrive     HooksRedriveCommand     `cmd:"" help:"Send an endpoint's dead letters again."`
	Enable      HooksEnableCommand      `cmd:"" help:"Let an endpoint that was disabled go on, and try all at once."`
	Secret      HooksSecretCommand      `cmd:"" help:"Make a secret for an endpoint."`
}

const hooksPath = "/api/v1/hooks"

func hookPath(name string) string { return hooksPath + "/" + url.PathEscape(name) }

// HooksListCommand lists endpoints.
type HooksListCommand struct{}

// Run prints a table.
func (HooksListCommand) Run(c *CLI) error {
	list, err := collect[hooks.Status](c, hooksPath, nil, 0)
	return c.answer(list, err, func() {
		writeTable(c.Out, "ENDPOINT, HOST, POSITION, LAG, DELIVERED, FAILED, DEAD LETTERS, STATE", list,
			func(s hooks.Status) cells {
				state := "fine"
				switch {
				case s.Disabled != "":
					state = "disabled: " + s.Disabled
				case s.Retrying > 0:
					state = fmt.Sprintf("%d pages are tried again: %s", s.Retrying, s.LastError)
				}
				return cells{s.Name, s.Host, s.Position, s.Lag, s.Delivered, s.Failed, s.DeadLetters, state}
			})
	})
}

// HooksDeadLettersCommand lists what an endpoint did not take.
type HooksDeadLettersCommand struct {
	Name  string `arg:"" help:"Endpoint."`
	Limit int    `default:"100" env:"PAGESTREAM_HOOKS_DEADLETTERS_LIMIT" help:"At most this many; 0 for all."`
}

// Run prints a table.
func (h HooksDeadLettersCommand) Run(c *CLI) error {
	list, err := collect[hooks.DeadLetter](c, hookPath(h.Name)+"/deadletters", nil, h.Limit)
	return c.answer(list, err, func() {
		writeTable(c.Out, "SEQUENCE, PAGE, TYPE, TRIED, GIVEN UP, WHY", list, func(d hooks.DeadLetter) cells {
			return cells{d.Seq, d.Page, d.Type, d.Attempts, d.At.Local().Format(time.DateTime), d.LastError}
		})
	})
}

// HooksRedriveCommand sends dead letters again.
type HooksRedriveCommand struct {
	Name  string `arg:"" help:"Endpoint."`
	Event uint64 `arg:"" optional:"" help:"Sequence of one; default: all."`
}

// Run says how many are sent again.
func (h HooksRedriveCommand) Run(c *CLI) error {
	query := url.Values{"event": {strconv.FormatUint(h.Event, 10)}}
	out, err := post[api.HookRedriven](c, hookPath(h.Name)+"/redrive", query, nil)
	return c.answer(out, err, func() { fmt.Fprintf(c.Out, "%d are sent again\n", out.Count) })
}

// HooksEnableCommand lets an endpoint go on.
type HooksEnableCommand struct {
	Name string `arg:"" help:"Endpoint."`
}

// Run enables it.
func (h HooksEnableCommand) Run(c *CLI) error {
	_, err := do[any](c, http.MethodPost, hookPath(h.Name)+"/enable", nil, nil)
	return c.answer(map[string]string{"enabled": h.Name}, err, func() { fmt.Fprintf(c.Out, "%s goes on\n", h.Name) })
}

// HooksSecretCommand makes a secret.
type HooksSecretCommand struct{}

// Run prints it.
func (HooksSecretCommand) Run(c *CLI) error {
	secret := hooks.NewSecret()
	return c.Print(map[string]string{"secret": secret}, func() { fmt.Fprintln(c.Out, secret) })
}
