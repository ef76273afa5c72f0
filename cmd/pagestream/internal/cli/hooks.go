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

// HooksCommand groups the commands for outgoing signed webhooks.
type HooksCommand struct {
	List        HooksListCommand        `cmd:"" help:"List endpoints and their positions."`
	DeadLetters HooksDeadLettersCommand `cmd:"" name:"deadletters" help:"List the events that an endpoint did not accept."`
	Redrive     HooksRedriveCommand     `cmd:"" help:"Send an endpoint's dead letters again."`
	Enable      HooksEnableCommand      `cmd:"" help:"Enable a disabled endpoint again, and retry all pages immediately."`
	Secret      HooksSecretCommand      `cmd:"" help:"Generate a secret for an endpoint."`
}

const hooksPath = "/api/v1/hooks"

func hookPath(name string) string { return hooksPath + "/" + url.PathEscape(name) }

// HooksListCommand lists endpoints.
type HooksListCommand struct{}

// Run prints a table of the endpoints.
func (HooksListCommand) Run(c *CLI) error {
	list, err := whole[hooks.Status](c, hooksPath)
	return c.answer(list, err, func() {
		writeTable(c, "ENDPOINT, HOST, POSITION, LAG, DELIVERED, FAILED, DEAD LETTERS, STATE", list,
			func(s hooks.Status) cells {
				state := "ok"
				switch {
				case s.Disabled != "":
					state = "disabled: " + s.Disabled
				case s.Retrying > 0:
					state = fmt.Sprintf("retrying %d pages: %s", s.Retrying, s.LastError)
				case len(s.UnknownPages) > 0:
					state = fmt.Sprintf("there is no page %s; run: pagestream pages list", s.UnknownPages[0])
				}
				if state == "ok" && s.UnknownCompany != "" {
					state = fmt.Sprintf("there is no company %s; run: pagestream companies list", s.UnknownCompany)
				}
				return cells{s.Name, s.Host, s.Position, s.Lag, s.Delivered, s.Failed, s.DeadLetters, state}
			})
	})
}

// HooksDeadLettersCommand lists the events that an endpoint did not accept.
type HooksDeadLettersCommand struct {
	Name  string `arg:"" help:"Name of the endpoint."`
	Limit int    `default:"100" env:"PAGESTREAM_HOOKS_DEADLETTERS_LIMIT" help:"Maximum number; 0 for all."`
}

// Run prints a table of the dead letters.
func (h HooksDeadLettersCommand) Run(c *CLI) error {
	list, err := collect[hooks.DeadLetter](c, hookPath(h.Name)+"/deadletters", nil, h.Limit)
	return c.answer(list, err, func() {
		writeTable(c, "SEQUENCE, PAGE, TYPE, TRIED, GIVEN UP, WHY", list, func(d hooks.DeadLetter) cells {
			return cells{d.Seq, d.Page, d.Type, d.Attempts, d.At.Local().Format(time.DateTime), d.LastError}
		})
	})
}

// HooksRedriveCommand sends the dead letters of an endpoint again.
type HooksRedriveCommand struct {
	Name  string `arg:"" help:"Name of the endpoint."`
	Event uint64 `arg:"" optional:"" help:"Sequence of one dead letter."`
	All   bool   `env:"PAGESTREAM_HOOKS_REDRIVE_ALL" help:"All dead letters of the endpoint."`
}

// Run starts sending them again and prints their number.
func (h HooksRedriveCommand) Run(c *CLI) error {
	if (h.Event > 0) == h.All {
		return fmt.Errorf("%w: which dead letters? Name one by its sequence, or give --all", errUsage)
	}
	query := url.Values{"all": {"true"}}
	if !h.All {
		query = url.Values{"event": {strconv.FormatUint(h.Event, 10)}}
	}
	out, err := post[api.HookRedriven](c, hookPath(h.Name)+"/redrive", query, nil)
	return c.answer(out, err, func() { fmt.Fprintf(c.Out, "%d dead letters are sent again\n", out.Count) })
}

// HooksEnableCommand enables a disabled endpoint.
type HooksEnableCommand struct {
	Name string `arg:"" help:"Name of the endpoint."`
}

// Run enables the endpoint and retries all its pages immediately.
func (h HooksEnableCommand) Run(c *CLI) error {
	_, err := do[any](c, http.MethodPost, hookPath(h.Name)+"/enable", nil, nil)
	return c.answer(map[string]string{"enabled": h.Name}, err, func() { fmt.Fprintf(c.Out, "%s is enabled\n", h.Name) })
}

// HooksSecretCommand generates a secret for hooks.file.
type HooksSecretCommand struct{}

// Run prints a new random secret. It calls no server.
func (HooksSecretCommand) Run(c *CLI) error {
	secret := hooks.NewSecret()
	return c.Print(map[string]string{"secret": secret}, func() { fmt.Fprintln(c.Out, secret) })
}
