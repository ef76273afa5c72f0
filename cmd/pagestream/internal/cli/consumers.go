package cli

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/consumers"
	"github.com/pagestream/pagestream/domain"
)

// ConsumersCommand groups the commands for programs that read events through NATS.
type ConsumersCommand struct {
	Add        ConsumersAddCommand        `cmd:"" help:"Let a program read the events of chosen pages through NATS."`
	List       ConsumersListCommand       `cmd:"" help:"List consumers and their positions."`
	Rewind     ConsumersRewindCommand     `cmd:"" help:"Let a consumer read again from an event or a time on."`
	NATSConfig ConsumersNATSConfigCommand `cmd:"" name:"nats-config" help:"Write the consumers' accounts for your own NATS server."`
	Remove     ConsumersRemoveCommand     `cmd:"" help:"Remove a consumer and its user."`
}

const consumersPath = "/api/v1/consumers"

// ConsumersAddCommand creates a consumer.
type ConsumersAddCommand struct {
	Name    string        `arg:"" help:"Name: 1 to 40 characters of a-z, 0-9, - and _."`
	Pages   []PageRef     `placeholder:"PAGE" env:"PAGESTREAM_CONSUMERS_ADD_PAGES" help:"Pages, by their ids or names, separated by commas."`
	Company string        `env:"PAGESTREAM_CONSUMERS_ADD_COMPANY" help:"All current and future pages of this company."`
	All     bool          `env:"PAGESTREAM_CONSUMERS_ADD_ALL" help:"Every page, instead of --pages and --company."`
	Types   []domain.Type `env:"PAGESTREAM_CONSUMERS_ADD_TYPES" help:"Event types, for example message.received; contact.erased is always among them. Default: all except page.* and subscription.*"`
	FromNow bool          `name:"from-now" env:"PAGESTREAM_CONSUMERS_ADD_FROM_NOW" help:"Skip the events that are already in the stream."`
}

// Validate returns an error if it is not said which pages.
func (a ConsumersAddCommand) Validate() error {
	if (len(a.Pages) > 0 || a.Company != "") == a.All {
		return errors.New("which pages? Give --pages, --company or both, or --all")
	}
	return nil
}

// Run creates the consumer and prints what its program needs to connect. This is the only time
// that the seed is shown.
func (a ConsumersAddCommand) Run(c *CLI) error {
	in := api.ConsumerRequest{
		Name: a.Name, Pages: pageIDs(a.Pages), Company: a.Company, All: a.All, Types: a.Types, FromNow: a.FromNow,
	}
	out, err := post[consumers.Added](c, consumersPath, nil, in)
	return c.answer(out, err, func() {
		fmt.Fprintf(c.Out, "consumer  %s (stream %s)\nseed      %s\n", out.Durable, out.Stream, out.Seed)
		fmt.Fprintln(c.Out, "The seed is not shown again. Keep it in a file that only the program can read.")
		if out.URL == "" {
			fmt.Fprintf(c.Out, "This server has no NATS listener: set nats.listen. With nats.url, type\n  "+
				"pagestream consumers nats-config DIR\nto write the configuration of your NATS server. "+
				"It has an account for this consumer's key\n  %s\nwhich imports\n  %s\n"+
				"Don't give the key permissions in the account of pagestream: with them it could store events.\n",
				out.PublicKey, strings.Join(out.Publish, "\n  "))
			return
		}
		fmt.Fprintf(c.Out, "url       %s\nTry: nats --server %s --nkey FILE consumer next %s %s\n",
			out.URL, out.URL, out.Stream, out.Durable)
	})
}

// ConsumersListCommand lists consumers.
type ConsumersListCommand struct{}

// Run prints a table of the consumers.
func (ConsumersListCommand) Run(c *CLI) error {
	list, err := whole[consumers.Consumer](c, consumersPath)
	return c.answer(list, err, func() {
		writeTable(c, "CONSUMER, PAGES, TYPES, SEQUENCE, FILLED, LAG, PENDING, UNACKED, REDELIVERED, READING, LAST", list,
			func(one consumers.Consumer) cells {
				which := "all"
				switch {
				case one.Company != "":
					which = fmt.Sprintf("%d of %s", len(one.Known), one.Company)
				case len(one.Pages) > 0:
					which = fmt.Sprint(len(one.Pages))
				}
				types, last, reading := "all", "-", "no"
				filled := fmt.Sprintf("%d of %d", one.Filled, one.Head)
				if one.Full {
					filled += " (full)"
				}
				if len(one.Types) > 0 {
					types = fmt.Sprint(len(one.Types))
				}
				if !one.LastActive.IsZero() {
					last = one.LastActive.Local().Format(time.DateTime)
				}
				if one.Waiting > 0 {
					reading = "yes"
				}
				return cells{
					one.Name, which, types, one.Seq, filled, one.Lag, one.Pending, one.Unacknowledged, one.Redelivered, reading, last,
				}
			})
	})
}

// ConsumersRewindCommand rewinds a consumer.
type ConsumersRewindCommand struct {
	Name string `arg:"" help:"Name, as shown by consumers list."`
	To   string `required:"" placeholder:"SEQ|TIME" env:"PAGESTREAM_CONSUMERS_REWIND_TO" help:"First event to read again: its sequence, a time (2026-11-23T10:00:00Z) or a duration before now (2h)."`
}

// Run rewinds the consumer. Its program stays connected.
func (r ConsumersRewindCommand) Run(c *CLI) error {
	to := r.To
	if _, err := strconv.ParseUint(to, 10, 64); err != nil {
		at, err := parseTime(to, time.Now())
		if err != nil {
			return err
		}
		to = at.UTC().Format(time.RFC3339Nano)
	}
	path := consumersPath + "/" + url.PathEscape(r.Name) + "/rewind"
	out, err := post[consumers.Consumer](c, path, nil, api.RewindRequest{To: to})
	return c.answer(out, err, func() { fmt.Fprintf(c.Out, "%s reads again from event %d on\n", r.Name, out.Seq+1) })
}

// ConsumersNATSConfigCommand writes the accounts of the consumers for an external NATS server.
type ConsumersNATSConfigCommand struct {
	Dir     string `arg:"" help:"Directory for exports.conf and accounts.conf, which are replaced."`
	Account string `default:"PAGESTREAM" env:"PAGESTREAM_CONSUMERS_NATS_CONFIG_ACCOUNT" help:"The account that pagestream itself uses on that server."`
}

// Run writes two files, with all consumers that there are, and prints where they belong.
func (n ConsumersNATSConfigCommand) Run(c *CLI) error {
	list, err := whole[consumers.Consumer](c, consumersPath)
	if err != nil {
		return err
	}
	conf, err := consumers.NATSAccounts(n.Account, list)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(n.Dir, 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	exports, accounts := filepath.Join(n.Dir, "exports.conf"), filepath.Join(n.Dir, "accounts.conf")
	for path, text := range map[string]string{exports: conf.Exports, accounts: conf.Accounts} {
		err := writeAtomic(path, 0o600, func(w io.Writer) error {
			_, err := io.WriteString(w, text)
			return err
		})
		if err != nil {
			return fmt.Errorf("write configuration: %w", err)
		}
	}
	out := map[string]any{"exports": exports, "accounts": accounts, "consumers": len(list)}
	return c.answer(out, nil, func() {
		dir := filepath.Base(n.Dir)
		fmt.Fprintf(c.Out, "%d consumers are in %s and %s.\nOnce, in the configuration of the NATS server:\n\n"+
			"accounts {\n  %s {\n    …\n    include %q\n  }\n  include %q\n}\n\n"+
			"Paths are relative to that file. Then, and after each consumers add and remove, reload the server twice\n"+
			"(nats-server --signal reload): it connects a new account with the second reload.\n",
			len(list), exports, accounts, n.Account, dir+"/exports.conf", dir+"/accounts.conf")
	})
}

// ConsumersRemoveCommand removes a consumer.
type ConsumersRemoveCommand struct {
	Name string `arg:"" help:"Name, as shown by consumers list."`
}

// Run removes the consumer and its user. Its program is disconnected immediately.
func (r ConsumersRemoveCommand) Run(c *CLI) error {
	_, err := do[any](c, http.MethodDelete, consumersPath+"/"+url.PathEscape(r.Name), nil, nil)
	return c.answer(map[string]string{"removed": r.Name}, err, func() { fmt.Fprintf(c.Out, "%s is removed\n", r.Name) })
}
