package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/consumers"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/embedded"
)

// newConsumers wires what lets programs outside read.
func newConsumers(p *Program) *consumers.Consumers {
	o := consumers.Options{JS: p.js, Stream: streams.Name, PagesOf: p.pagesOf, Logger: p.log.With("part", "consumers")}
	if p.server != nil && p.server.Addr() != "" {
		scheme := "nats://"
		if p.cfg.NATS.CertFile != "" {
			scheme = "tls://"
		}
		o.Users = natsUsers{p.server, scheme}
	}
	return consumers.New(o)
}

// pagesOf lists the connected pages of a company, and their Instagram accounts.
func (p *Program) pagesOf(company string) (out []domain.PageID, err error) {
	err = pages.Each(p.model("pages"), func(page pages.Page) error {
		if page.Company != company || page.State == pages.Disconnected {
			return nil
		}
		out = append(out, page.ID)
		if page.Instagram != "" {
			out = append(out, domain.PageID(page.Instagram))
		}
		return nil
	})
	return out, err
}

// natsUsers are the embedded server's as package consumers asks for them.
type natsUsers struct {
	server *embedded.Server
	scheme string
}

func (u natsUsers) SetUser(name, publicKey, durable string) error {
	return u.server.SetUser(embedded.User{Name: name, PublicKey: publicKey, Stream: streams.Name, Consumer: durable})
}
func (u natsUsers) RemoveUser(name string) { u.server.RemoveUser(name) }
func (u natsUsers) URL() string            { return u.scheme + u.server.Addr() }

// ConsumersCommand groups what concerns programs that read events by NATS.
type ConsumersCommand struct {
	Add    ConsumersAddCommand    `cmd:"" help:"Let a program read the events of chosen pages by NATS."`
	List   ConsumersListCommand   `cmd:"" help:"List consumers and how far they are."`
	Remove ConsumersRemoveCommand `cmd:"" help:"End a consumer and its user."`
}

const consumersPath = "/api/v1/consumers"

// ConsumersAddCommand makes a consumer.
type ConsumersAddCommand struct {
	Name    string          `arg:"" help:"1 to 40 of a-z, 0-9, - and _."`
	Pages   []domain.PageID `env:"PAGESTREAM_CONSUMERS_ADD_PAGES" help:"Pages, separated by commas. Without --pages and --company: every page."`
	Company string          `env:"PAGESTREAM_CONSUMERS_ADD_COMPANY" help:"The pages of this company, whichever they are at any time."`
	Types   []domain.Type   `env:"PAGESTREAM_CONSUMERS_ADD_TYPES" help:"Types of events, as in message.received. Default: all but page.* and subscription.*"`
	FromNow bool            `name:"from-now" env:"PAGESTREAM_CONSUMERS_ADD_FROM_NOW" help:"Leave out what the stream holds already."`
}

// Run prints what the program needs, its secret among it: once.
func (a ConsumersAddCommand) Run(c *CLI) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	in := api.ConsumerRequest{Name: a.Name, Pages: a.Pages, Company: a.Company, Types: a.Types, FromNow: a.FromNow}
	var out consumers.Added
	if err := cl.do(c.ctx, http.MethodPost, consumersPath, nil, in, &out); err != nil {
		return err
	}
	return c.Print(out, func() {
		fmt.Fprintf(c.Out, "consumer  %s (stream %s)\nseed      %s\n", out.Durable, out.Stream, out.Seed)
		fmt.Fprintln(c.Out, "The seed is shown this once. Keep it in a file that only the program can read.")
		if out.URL == "" {
			fmt.Fprintf(c.Out, "No listener of ours: set nats.listen; or, on a NATS cluster of yours, make a user with the key\n%s\nthat may publish to\n  %s\nand subscribe to its inbox.\n",
				out.PublicKey, strings.Join(out.Publish, "\n  "))
			return
		}
		fmt.Fprintf(c.Out, "url       %s\nTry: nats --server %s --nkey FILE consumer next %s %s\n", out.URL, out.URL, out.Stream, out.Durable)
	})
}

// ConsumersListCommand lists consumers.
type ConsumersListCommand struct{}

// Run prints a table.
func (ConsumersListCommand) Run(c *CLI) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	list, err := collect[consumers.Consumer](c.ctx, cl, consumersPath, nil, 0)
	if err != nil {
		return err
	}
	return c.Print(list, func() {
		t := tabwriter.NewWriter(c.Out, 0, 4, 2, ' ', 0)
		fmt.Fprintln(t, "CONSUMER\tPAGES\tTYPES\tSEQUENCE\tLAG\tPENDING\tUNACKED\tREDELIVERED\tREADING\tLAST")
		for _, one := range list {
			which := "all"
			switch {
			case one.Company != "":
				which = fmt.Sprintf("%d of %s", len(one.Known), one.Company)
			case len(one.Pages) > 0:
				which = fmt.Sprint(len(one.Pages))
			}
			types, last, reading := "all", "-", "no"
			if len(one.Types) > 0 {
				types = fmt.Sprint(len(one.Types))
			}
			if !one.LastActive.IsZero() {
				last = one.LastActive.Local().Format(time.DateTime)
			}
			if one.Waiting > 0 {
				reading = "yes"
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%s\t%s\n", one.Name, which, types, one.Seq, one.Lag, one.Pending, one.Unacknowledged, one.Redelivered, reading, last)
		}
		_ = t.Flush()
	})
}

// ConsumersRemoveCommand ends a consumer.
type ConsumersRemoveCommand struct {
	Name string `arg:"" help:"As consumers list shows it."`
}

// Run removes the consumer; its program is cut off at once.
func (r ConsumersRemoveCommand) Run(c *CLI) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	if err := cl.do(c.ctx, http.MethodDelete, consumersPath+"/"+url.PathEscape(r.Name), nil, nil, nil); err != nil {
		return err
	}
	return c.Print(map[string]string{"removed": r.Name}, func() { fmt.Fprintf(c.Out, "%s is removed\n", r.Name) })
}

// Consumers lists the programs that read by NATS.
func (a *actions) Consumers(ctx context.Context) (out []any, err error) {
	out = []any{}
	list, err := a.p.consumers.List(ctx)
	for _, c := range list {
		out = append(out, c)
	}
	return out, err
}

// AddConsumer lets a program read by NATS.
func (a *actions) AddConsumer(ctx context.Context, r api.ConsumerRequest) (any, error) {
	out, err := a.p.consumers.Add(ctx, consumers.Spec{Name: r.Name, Pages: r.Pages, Company: r.Company, Types: r.Types, FromNow: r.FromNow})
	for _, wrong := range []error{consumers.ErrName, consumers.ErrExists, consumers.ErrType, consumers.ErrTooMany} {
		if errors.Is(err, wrong) {
			err = fmt.Errorf("%w: %w", api.ErrRefused, err)
		}
	}
	return out, err
}

// RemoveConsumer ends a consumer.
func (a *actions) RemoveConsumer(ctx context.Context, name string) error {
	err := a.p.consumers.Remove(ctx, name)
	if errors.Is(err, consumers.ErrUnknown) {
		err = fmt.Errorf("%w: %w", api.ErrUnknown, err)
	}
	return err
}
