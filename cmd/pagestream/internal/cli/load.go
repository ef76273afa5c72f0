package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/loadgen"
)

// LoadCommand sends signed traffic and checks that the server has stored it exactly once.
type LoadCommand struct {
	URL         string        `name:"url" placeholder:"URL" env:"PAGESTREAM_LOAD_URL" help:"Webhook URL of the server (default: from the configuration)."`
	Secret      string        `placeholder:"SECRET" env:"PAGESTREAM_LOAD_SECRET" help:"App secret to sign with (default: the first app's)."`
	SecretFile  string        `placeholder:"FILE" env:"PAGESTREAM_LOAD_SECRET_FILE" help:"File with the app secret."`
	Rate        int           `default:"0" placeholder:"N" env:"PAGESTREAM_LOAD_RATE" help:"POSTs per second; 0 sends as fast as the connections allow."`
	Concurrency int           `default:"64" placeholder:"N" env:"PAGESTREAM_LOAD_CONCURRENCY" help:"Number of connections."`
	Pages       int           `default:"10" placeholder:"N" env:"PAGESTREAM_LOAD_PAGES" help:"Number of pages."`
	Contacts    int           `default:"100" placeholder:"N" env:"PAGESTREAM_LOAD_CONTACTS" help:"Contacts per page."`
	Items       int           `default:"1" placeholder:"N" env:"PAGESTREAM_LOAD_ITEMS" help:"Items per POST."`
	Duplicates  int           `default:"20" placeholder:"PERCENT" env:"PAGESTREAM_LOAD_DUPLICATES" help:"Percentage of POSTs that repeat an earlier one."`
	Duration    time.Duration `default:"10s" placeholder:"TIME" env:"PAGESTREAM_LOAD_DURATION" help:"Duration of sending."`
	Seed        uint64        `default:"1" placeholder:"N" env:"PAGESTREAM_LOAD_SEED" help:"Random seed: the same seed gives the same traffic, except for ids, which are unique per run."`
	AllowRemote bool          `env:"PAGESTREAM_LOAD_ALLOW_REMOTE" help:"Allow a server that is not on this machine."`
}

// errAudit is returned when the audit finds acknowledged messages that are lost or duplicated.
var errAudit = errors.New("the audit found lost or duplicated acknowledged messages")

// Run sends the traffic, audits it, forgets the pages that it made, and prints a summary. It fails if any message
// is lost or duplicated.
func (l LoadCommand) Run(c *CLI) error {
	cfg, err := c.load(nil)
	if err != nil {
		return err
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	secret, err := readSecret(l.Secret, l.SecretFile)
	if err != nil {
		return fmt.Errorf("read app secret: %w", err)
	}
	if secret == "" && len(cfg.Apps) > 0 && len(cfg.Apps[0].Secrets) > 0 {
		secret = string(cfg.Apps[0].Secrets[0])
	}
	if secret == "" {
		return fmt.Errorf("%w: no app secret; give --secret-file, or a configuration with an app", errUsage)
	}
	target := l.URL
	if target == "" {
		if target, err = listenURL("http.public", cfg.HTTP.Public); err != nil {
			return err
		}
		target += "/webhooks"
	}

	b := c.bar(l.Duration.Milliseconds())
	defer b.end()
	report, err := loadgen.Run(c.ctx, loadgen.Config{
		URL: target, Secret: secret, Rate: l.Rate, Concurrency: l.Concurrency, Pages: l.Pages, Contacts: l.Contacts,
		Items: l.Items, Duplicates: l.Duplicates, Duration: l.Duration, Seed: l.Seed,
		API: cl.base, Token: cl.token, AllowRemote: l.AllowRemote,
		Progress: func(p loadgen.Progress) {
			b.show(uint64(p.Elapsed.Milliseconds()), uint64(l.Duration.Milliseconds()),
				"%s  %d posts answered with 200", p.Phase, p.Acked)
		},
	})
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	b.end()
	if err := c.Print(report, func() { printLoad(c, report) }); err != nil {
		return err
	}
	if !report.OK() {
		return errAudit
	}
	return nil
}

func printLoad(c *CLI, r loadgen.Report) {
	fmt.Fprintf(c.Out, "%d messages in %d requests, %.0f messages/s; 50 %% were answered within %.1f ms, 99 %% within %.1f ms\n",
		r.Items, r.Posts, r.RateItems, r.P50, r.P99)
	fmt.Fprintf(c.Out, "%d were acknowledged; %d requests were repeated on purpose, %d were sent again\n",
		r.Acked, r.DuplicatesSent, r.Resent)
	if r.Unacked > 0 {
		fmt.Fprintf(c.Out, "%d were never acknowledged\n", r.Unacked)
	}
	verdict := c.paint(green, "none of them is lost or duplicated")
	if !r.OK() {
		verdict = c.paint(red, fmt.Sprintf("LOST %d, DUPLICATED %d, under another page or contact %d; in conversations LOST %d, "+
			"DUPLICATED %d", r.Lost, r.Duplicated, r.Misplaced, r.LostInConversations, r.DuplicatedInConversations))
	}
	fmt.Fprintf(c.Out, "%d are in the stream: %s\n", r.Stored, verdict)
	if r.Forgotten > 0 {
		fmt.Fprintf(c.Out, "the %d test pages are forgotten; their events stay in the stream\n", r.Forgotten)
	}
}
