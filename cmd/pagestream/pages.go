package main

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

// PagesCommand groups what concerns pages.
type PagesCommand struct {
	List        PagesListCommand        `cmd:"" help:"List every page that was seen, connected or not."`
	Show        PagesShowCommand        `cmd:"" help:"Show one page and its subscription."`
	Connect     PagesConnectCommand     `cmd:"" help:"Connect a page with its page token, and subscribe it."`
	Check       PagesCheckCommand       `cmd:"" help:"Compare a page's subscription with what is wanted."`
	Resubscribe PagesResubscribeCommand `cmd:"" help:"Subscribe a page again with all wanted fields."`
	Disconnect  PagesDisconnectCommand  `cmd:"" help:"Unsubscribe a page and drop its connection; its events stay."`
}

// PagesListCommand lists pages.
type PagesListCommand struct {
	Limit int `default:"0" env:"PAGESTREAM_PAGES_LIMIT" help:"At most this many; 0 for all."`
}

// Run prints a table of pages.
func (l PagesListCommand) Run(c *CLI) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	list, err := collect[pages.Page](c.ctx, cl, "/api/v1/pages", nil, l.Limit)
	if err != nil {
		return err
	}
	return c.Print(list, func() {
		if len(list) == 0 {
			fmt.Fprintln(c.Out, "No page was seen yet. Connect one with: pagestream pages connect PAGE")
			return
		}
		t := tabwriter.NewWriter(c.Out, 0, 4, 2, ' ', 0)
		fmt.Fprintln(t, "PAGE\tNAME\tCONNECTION\tTOKEN\tEVENTS\tLAST EVENT")
		for _, p := range list {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\n", p.ID, dash(p.Name), p.State, p.Token, p.Traffic.Events, ago(p.Traffic.LastAt))
		}
		_ = t.Flush()
	})
}

// ago says how long something is past, in one unit.
func ago(at time.Time) string {
	if at.IsZero() {
		return "never"
	}
	d := time.Since(at)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds ago", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", int(d.Hours()))
	}
	return fmt.Sprintf("%dd ago", int(d.Hours()/24))
}

// PagesShowCommand shows one page.
type PagesShowCommand struct {
	Page string `arg:"" help:"Page id."`
}

// pageView is a page with its subscriptions, one an app.
type pageView struct {
	pages.Page
	Subscriptions []subscriptions.Subscription `json:"subscriptions"`
}

// Run prints the page as indented JSON: there is too much of it for a table.
func (s PagesShowCommand) Run(c *CLI) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var v pageView
	path := "/api/v1/pages/" + url.PathEscape(s.Page)
	if err := cl.do(c.ctx, http.MethodGet, path, nil, nil, &v.Page); err != nil {
		return err
	}
	var subs api.List[subscriptions.Subscription]
	if err := cl.do(c.ctx, http.MethodGet, path+"/subscription", nil, nil, &subs); err != nil && !isNotFound(err) {
		return err
	}
	v.Subscriptions = subs.Items
	c.JSON = true
	return c.Print(v, nil)
}

// PagesConnectCommand connects one page.
type PagesConnectCommand struct {
	Page      string   `arg:"" help:"Page id."`
	Token     string   `placeholder:"TOKEN" env:"PAGESTREAM_PAGE_TOKEN" help:"Page access token. The environment or --page-token-file keep it out of the shell's history."`
	TokenFrom string   `name:"page-token-file" placeholder:"FILE" env:"PAGESTREAM_PAGE_TOKEN_FILE" help:"File with the page access token."`
	Verify    string   `name:"page-verify-token" placeholder:"TOKEN" env:"PAGESTREAM_PAGE_VERIFY_TOKEN" help:"The page's own token for the webhook's handshake, if it shall have one."`
	Company   string   `placeholder:"NAME" env:"PAGESTREAM_PAGES_COMPANY" help:"Company that owns the page."`
	App       string   `placeholder:"NAME" env:"PAGESTREAM_PAGES_APP" help:"Configured app (default: the first)."`
	Fields    []string `placeholder:"FIELD" env:"PAGESTREAM_PAGES_FIELDS" help:"Subscription fields (default: every messaging field but response_feedback)."`
}

// Run connects and subscribes the page. It fails when the page did not end up
// subscribed with every wanted field.
func (p PagesConnectCommand) Run(c *CLI) error {
	token := p.Token
	if p.TokenFrom != "" {
		b, err := os.ReadFile(p.TokenFrom)
		if err != nil {
			return fmt.Errorf("read page token: %w", err)
		}
		token = strings.TrimSpace(string(b))
	}
	if token == "" {
		return fmt.Errorf("%w: no page token; set PAGESTREAM_PAGE_TOKEN or give --page-token-file", errUsage)
	}
	return c.verb("/api/v1/pages", api.ConnectRequest{
		Page: domain.PageID(p.Page), Token: token, VerifyToken: p.Verify, Company: p.Company, App: p.App, Fields: p.Fields,
	})
}

// PagesCheckCommand compares one page's subscription with what is wanted.
type PagesCheckCommand struct {
	Page string `arg:"" help:"Page id."`
}

// Run asks Graph and prints wanted and actual.
func (p PagesCheckCommand) Run(c *CLI) error {
	return c.verb("/api/v1/pages/"+url.PathEscape(p.Page)+"/check", nil)
}

// PagesResubscribeCommand subscribes a page again.
type PagesResubscribeCommand struct {
	Page string `arg:"" help:"Page id."`
}

// Run subscribes and reads back.
func (p PagesResubscribeCommand) Run(c *CLI) error {
	return c.verb("/api/v1/pages/"+url.PathEscape(p.Page)+"/resubscribe", nil)
}

// PagesDisconnectCommand drops a page's connection.
type PagesDisconnectCommand struct {
	Page string `arg:"" help:"Page id."`
}

// Run unsubscribes the page.
func (p PagesDisconnectCommand) Run(c *CLI) error {
	return c.verb("/api/v1/pages/"+url.PathEscape(p.Page)+"/disconnect", nil)
}

// verb carries out one verb on a page and prints the outcome. An outcome that
// is not what was wanted is an error: exit code 1.
func (c *CLI) verb(path string, in any) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var out api.SubscriptionOutcome
	if err := cl.do(c.ctx, http.MethodPost, path, nil, in, &out); err != nil {
		return err
	}
	err = c.Print(out, func() {
		fmt.Fprintf(c.Out, "page %s %s: %s\n", out.Page, out.Name, out.State)
		if len(out.Wanted) > 0 {
			fmt.Fprintf(c.Out, "  wanted   %s\n", strings.Join(out.Wanted, " "))
		}
		if len(out.Actual) > 0 {
			fmt.Fprintf(c.Out, "  actual   %s\n", strings.Join(out.Actual, " "))
		}
		if len(out.Missing) > 0 {
			fmt.Fprintf(c.Out, "  missing  %s\n", strings.Join(out.Missing, " "))
		}
		if out.Reason != "" {
			fmt.Fprintf(c.Out, "  reason   %s (code %d, subcode %d)\n", out.Reason, out.Code, out.Subcode)
		}
	})
	if err != nil {
		return err
	}
	switch out.State {
	case "failed", "drifted":
		return fmt.Errorf("page %s is not subscribed as wanted: %s", out.Page, out.State)
	}
	return nil
}
