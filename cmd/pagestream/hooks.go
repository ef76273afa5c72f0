package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"text/tabwriter"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/export"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/hooks"
	"github.com/pagestream/pagestream/config"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
)

// maxHooksFile bounds the file of endpoints.
const maxHooksFile = 1 << 20

// hookEndpoint is one endpoint as the file has it.
type hookEndpoint struct {
	Name    string          `yaml:"name"`
	URL     string          `yaml:"url"`
	Secrets []string        `yaml:"secrets"`
	Pages   []domain.PageID `yaml:"pages"`
	Types   []domain.Type   `yaml:"types"`
	Timeout time.Duration   `yaml:"timeout"`
	// From is the first event for an endpoint that is new.
	From uint64 `yaml:"from"`
}

// readHooks reads the file of endpoints. Its errors have no value of it in them,
// as there are secrets.
func readHooks(path string) (out []hooks.Endpoint, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read hooks.file: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxHooksFile+1))
	if err != nil {
		return nil, fmt.Errorf("read hooks.file: %w", err)
	}
	if len(b) > maxHooksFile {
		return nil, errors.New("read hooks.file: it is larger than 1 MiB")
	}
	var list []hookEndpoint
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(&list); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("hooks.file %s is no list of endpoints with name, url, secrets, pages, types, timeout and from; see: pagestream config example", path)
	}
	for _, e := range list {
		out = append(out, hooks.Endpoint(e))
	}
	return out, nil
}

// openHooks makes what sends webhooks to others, or nothing if none are wanted.
func (p *Program) openHooks() (err error) {
	o := hooks.Options{
		JS: p.js, Stream: streams.Name, Identity: p.identity, Path: filepath.Join(p.cfg.ProjectionsDir(), "hooks.db"),
		Encode: export.Event, GiveUpAfter: p.cfg.Hooks.GiveUpAfter, Logger: p.log.With("part", "hooks"),
	}
	if p.cfg.Hooks.File == "" {
		return nil
	}
	if o.Endpoints, err = readHooks(p.cfg.Hooks.File); err != nil {
		return err
	}
	if p.hooks, err = hooks.New(o); err != nil {
		return fmt.Errorf("open webhooks to others: %w", err)
	}
	p.onClose("webhooks to others", func(context.Context) error { return p.hooks.Close() })
	p.background.Go(func() { // until Close
		if err := p.hooks.Run(context.Background()); err != nil && !errors.Is(err, hooks.ErrRan) {
			p.fail(fmt.Errorf("webhooks to others: %w", err))
		}
	})
	return nil
}

// HooksCommand groups what concerns the signed webhooks to others.
type HooksCommand struct {
	List        HooksListCommand        `cmd:"" help:"List endpoints and how far they are."`
	DeadLetters HooksDeadLettersCommand `cmd:"" name:"deadletters" help:"List the events that an endpoint did not take."`
	Redrive     HooksRedriveCommand     `cmd:"" help:"Send an endpoint's dead letters again."`
	Enable      HooksEnableCommand      `cmd:"" help:"Let an endpoint that was disabled go on, and try all at once."`
	Secret      HooksSecretCommand      `cmd:"" help:"Make a secret for an endpoint."`
}

const hooksPath = "/api/v1/hooks"

// HooksListCommand lists endpoints.
type HooksListCommand struct{}

// Run prints a table.
func (HooksListCommand) Run(c *CLI) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	list, err := collect[hooks.Status](c.ctx, cl, hooksPath, nil, 0)
	if err != nil {
		return err
	}
	return c.Print(list, func() {
		t := tabwriter.NewWriter(c.Out, 0, 4, 2, ' ', 0)
		fmt.Fprintln(t, "ENDPOINT\tHOST\tPOSITION\tLAG\tDELIVERED\tFAILED\tDEAD LETTERS\tSTATE")
		for _, s := range list {
			state := "fine"
			switch {
			case s.Disabled != "":
				state = "disabled: " + s.Disabled
			case s.Retrying > 0:
				state = fmt.Sprintf("%d pages are tried again: %s", s.Retrying, s.LastError)
			}
			fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%s\n", s.Name, s.Host, s.Position, s.Lag, s.Delivered, s.Failed, s.DeadLetters, state)
		}
		_ = t.Flush()
	})
}

// HooksDeadLettersCommand lists what an endpoint did not take.
type HooksDeadLettersCommand struct {
	Name  string `arg:"" help:"Endpoint."`
	Limit int    `default:"100" env:"PAGESTREAM_HOOKS_DEADLETTERS_LIMIT" help:"At most this many; 0 for all."`
}

// Run prints a table.
func (h HooksDeadLettersCommand) Run(c *CLI) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	list, err := collect[hooks.DeadLetter](c.ctx, cl, hooksPath+"/"+url.PathEscape(h.Name)+"/deadletters", nil, h.Limit)
	if err != nil {
		return err
	}
	return c.Print(list, func() {
		t := tabwriter.NewWriter(c.Out, 0, 4, 2, ' ', 0)
		fmt.Fprintln(t, "SEQUENCE\tPAGE\tTYPE\tTRIED\tGIVEN UP\tWHY")
		for _, d := range list {
			fmt.Fprintf(t, "%d\t%s\t%s\t%d\t%s\t%s\n", d.Seq, d.Page, d.Type, d.Attempts, d.At.Local().Format(time.DateTime), d.LastError)
		}
		_ = t.Flush()
	})
}

// HooksRedriveCommand sends dead letters again.
type HooksRedriveCommand struct {
	Name  string `arg:"" help:"Endpoint."`
	Event uint64 `arg:"" optional:"" help:"Sequence of one; default: all."`
}

// Run says how many are sent again.
func (h HooksRedriveCommand) Run(c *CLI) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var out api.HookRedriven
	if err := cl.do(c.ctx, http.MethodPost, hooksPath+"/"+url.PathEscape(h.Name)+"/redrive", url.Values{"event": {strconv.FormatUint(h.Event, 10)}}, nil, &out); err != nil {
		return err
	}
	return c.Print(out, func() { fmt.Fprintf(c.Out, "%d are sent again\n", out.Count) })
}

// HooksEnableCommand lets an endpoint go on.
type HooksEnableCommand struct {
	Name string `arg:"" help:"Endpoint."`
}

// Run enables it.
func (h HooksEnableCommand) Run(c *CLI) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	if err := cl.do(c.ctx, http.MethodPost, hooksPath+"/"+url.PathEscape(h.Name)+"/enable", nil, nil, nil); err != nil {
		return err
	}
	return c.Print(map[string]string{"enabled": h.Name}, func() { fmt.Fprintf(c.Out, "%s goes on\n", h.Name) })
}

// HooksSecretCommand makes a secret.
type HooksSecretCommand struct{}

// Run prints it.
func (HooksSecretCommand) Run(c *CLI) error {
	secret := config.Secret(hooks.NewSecret())
	return c.Print(map[string]string{"secret": string(secret)}, func() { fmt.Fprintln(c.Out, string(secret)) })
}

// Hooks lists the endpoints that webhooks are sent to.
func (a *actions) Hooks() []any {
	out := []any{}
	if a.p.hooks == nil {
		return out
	}
	for _, s := range a.p.hooks.Status() {
		out = append(out, s)
	}
	return out
}

// hook does something with one endpoint.
func (a *actions) hook(do func(*hooks.Hooks) error) error {
	if a.p.hooks == nil {
		return fmt.Errorf("%w: set hooks.file", api.ErrUnknown)
	}
	err := do(a.p.hooks)
	if errors.Is(err, hooks.ErrUnknownEndpoint) || errors.Is(err, hooks.ErrNoDeadLetter) {
		err = fmt.Errorf("%w: %w", api.ErrUnknown, err)
	}
	return err
}

// HookDeadLetters lists what an endpoint did not take.
func (a *actions) HookDeadLetters(name string, after uint64, limit int) (out []any, last uint64, err error) {
	out = []any{}
	err = a.hook(func(h *hooks.Hooks) error {
		list, err := h.DeadLetters(name, after, limit)
		for _, d := range list {
			out, last = append(out, d), d.Seq
		}
		return err
	})
	return out, last, err
}

// RedriveHook sends an endpoint's dead letters again, one or all.
func (a *actions) RedriveHook(name string, event uint64) (n int, err error) {
	err = a.hook(func(h *hooks.Hooks) error {
		n, err = h.Redrive(name, event)
		return err
	})
	return n, err
}

// EnableHook lets an endpoint go on.
func (a *actions) EnableHook(name string) error {
	return a.hook(func(h *hooks.Hooks) error { return h.Enable(name) })
}
