package main

import (
	"encoding/json"
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
	Login       PagesLoginCommand       `cmd:"" help:"Make a link that connects pages in a browser."`
	Connect     PagesConnectCommand     `cmd:"" help:"Connect a page with its page token, or many with a user token."`
	Check       PagesCheckCommand       `cmd:"" help:"Compare subscriptions with what is wanted: page and app."`
	Resubscribe PagesResubscribeCommand `cmd:"" help:"Subscribe pages again with all wanted fields."`
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

// PagesConnectCommand connects one page by its own token, or those that a user's
// token shows.
type PagesConnectCommand struct {
	Pages     []string `arg:"" optional:"" name:"page" help:"Page ids: one with a page token, any with a user token."`
	Token     string   `placeholder:"TOKEN" env:"PAGESTREAM_PAGE_TOKEN" help:"Page access token. The environment or --page-token-file keep it out of the shell's history."`
	TokenFrom string   `name:"page-token-file" placeholder:"FILE" env:"PAGESTREAM_PAGE_TOKEN_FILE" help:"File with the page access token."`
	User      string   `name:"user-token" placeholder:"TOKEN" env:"PAGESTREAM_USER_TOKEN" help:"User access token: connects pages that the person has let the app use."`
	UserFrom  string   `name:"user-token-file" placeholder:"FILE" env:"PAGESTREAM_USER_TOKEN_FILE" help:"File with the user access token."`
	All       bool     `env:"PAGESTREAM_PAGES_CONNECT_ALL" help:"With a user token: every page of the login but those of others."`
	Verify    string   `name:"page-verify-token" placeholder:"TOKEN" env:"PAGESTREAM_PAGE_VERIFY_TOKEN" help:"The page's own token for the webhook's handshake, if it shall have one."`
	Company   string   `placeholder:"NAME" env:"PAGESTREAM_PAGES_COMPANY" help:"Company that owns the page."`
	App       string   `placeholder:"NAME" env:"PAGESTREAM_PAGES_APP" help:"Configured app (default: the first)."`
	Fields    []string `placeholder:"FIELD" env:"PAGESTREAM_PAGES_FIELDS" help:"Subscription fields (default: every messaging field but response_feedback)."`
}

// Run connects and subscribes. It fails when a page did not end up subscribed
// with every wanted field.
func (p PagesConnectCommand) Run(c *CLI) error {
	user, err := given(p.User, p.UserFrom)
	if err != nil {
		return fmt.Errorf("read user token: %w", err)
	}
	if user != "" {
		return p.byUser(c, user)
	}
	token, err := given(p.Token, p.TokenFrom)
	switch {
	case err != nil:
		return fmt.Errorf("read page token: %w", err)
	case token == "":
		return fmt.Errorf("%w: no token; set PAGESTREAM_PAGE_TOKEN or give --page-token-file, or a user token for many pages at once", errUsage)
	case len(p.Pages) != 1:
		return fmt.Errorf("%w: a page token is of one page: name that page", errUsage)
	}
	return c.verb("/api/v1/pages", api.ConnectRequest{
		Page: domain.PageID(p.Pages[0]), Token: token, VerifyToken: p.Verify, Company: p.Company, App: p.App, Fields: p.Fields,
	})
}

// given returns a secret that stands in a flag or in a file.
func given(value, file string) (string, error) {
	if file == "" {
		return value, nil
	}
	b, err := os.ReadFile(file)
	return strings.TrimSpace(string(b)), err
}

// byUser shows what the person lets the app use, and connects what was chosen.
func (p PagesConnectCommand) byUser(c *CLI, token string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var found api.Login
	if err := cl.do(c.ctx, http.MethodPost, "/api/v1/logins", nil, api.LoginRequest{UserToken: token, App: p.App}, &found); err != nil {
		return err
	}
	if len(p.Pages) == 0 && !p.All {
		return c.Print(found, func() { p.show(c, found) })
	}
	for _, g := range found.Gone {
		fmt.Fprintf(c.Err, "this login no longer includes page %s %s\n", g.Page, g.Name)
	}
	choice := api.LoginChoice{All: p.All, Company: p.Company, Fields: p.Fields}
	total := len(found.Pages)
	for _, id := range p.Pages {
		choice.Pages = append(choice.Pages, domain.PageID(id))
		total = len(p.Pages)
	}
	b := c.batch("connect", total)
	_, err = cl.run(c.ctx, "/api/v1/logins/"+found.ID, choice, func(raw json.RawMessage) error {
		var o api.SubscriptionOutcome
		if err := json.Unmarshal(raw, &o); err != nil {
			return err
		}
		b.add(o)
		return nil
	})
	if err != nil {
		return err
	}
	return b.end(c)
}

func (p PagesConnectCommand) show(c *CLI, found api.Login) {
	t := tabwriter.NewWriter(c.Out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "PAGE\tNAME\tSTATE\tCOMPANY\tNOTE")
	for _, g := range found.Pages {
		note := ""
		if g.Lacking {
			note = "the role does not let connect it"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", g.Page, dash(g.Name), g.State, dash(g.Company), note)
	}
	for _, g := range found.Gone {
		fmt.Fprintf(t, "%s\t%s\tgone\t-\tthis login no longer includes it\n", g.Page, dash(g.Name))
	}
	_ = t.Flush()
	if len(found.MissingScopes) > 0 {
		fmt.Fprintf(c.Out, "Permissions that were not given: %s\n", strings.Join(found.MissingScopes, ", "))
	}
	fmt.Fprintln(c.Out, "Nothing was changed. Choose with: pagestream pages connect --user-token-file FILE PAGE..., or --all")
}

// PagesLoginCommand makes a link.
type PagesLoginCommand struct {
	Company string   `placeholder:"NAME" env:"PAGESTREAM_PAGES_LOGIN_COMPANY" help:"Company that owns the pages."`
	App     string   `placeholder:"NAME" env:"PAGESTREAM_PAGES_LOGIN_APP" help:"Configured app (default: the first)."`
	Fields  []string `placeholder:"FIELD" env:"PAGESTREAM_PAGES_LOGIN_FIELDS" help:"Subscription fields (default: every messaging field but response_feedback)."`
}

// Run prints a link that opens one login.
func (p PagesLoginCommand) Run(c *CLI) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var out api.Invite
	if err := cl.do(c.ctx, http.MethodPost, "/api/v1/invites", nil, api.InviteRequest{App: p.App, Company: p.Company, Fields: p.Fields}, &out); err != nil {
		return err
	}
	return c.Print(out, func() {
		fmt.Fprintf(c.Out, "%s\n", out.URL)
		fmt.Fprintf(c.Err, "Open it in a browser, once, before %s.\n", out.Expires.Local().Format("15:04"))
	})
}

// PagesCheckCommand compares subscriptions with what is wanted.
type PagesCheckCommand struct {
	Pages []string `arg:"" optional:"" name:"page" help:"Page ids; none is every connected page."`
}

// Run asks Graph about each page and the app, and shows what differs.
func (p PagesCheckCommand) Run(c *CLI) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	list, err := connectedPages(c, cl, p.Pages, 0)
	if err != nil {
		return err
	}
	b := c.batch("check", len(list))
	if err := each4(c.ctx, list, b, func(page string) api.SubscriptionOutcome { return cl.outcome(c.ctx, page, "check") }); err != nil {
		return err
	}
	return b.end(c)
}

// PagesResubscribeCommand subscribes pages again: after an app or its fields
// have changed, for all of them.
type PagesResubscribeCommand struct {
	Pages  []string      `arg:"" optional:"" name:"page" help:"Page ids."`
	All    bool          `env:"PAGESTREAM_PAGES_RESUBSCRIBE_ALL" help:"Every connected page."`
	DryRun bool          `name:"dry-run" env:"PAGESTREAM_PAGES_RESUBSCRIBE_DRY_RUN" help:"Only show what would be subscribed."`
	Resume time.Duration `placeholder:"DURATION" env:"PAGESTREAM_PAGES_RESUBSCRIBE_RESUME" help:"Leave out pages that were confirmed within this time, to go on after an interruption."`
}

// Run subscribes each page with its own token and reads back what Graph lists.
func (p PagesResubscribeCommand) Run(c *CLI) error {
	if len(p.Pages) == 0 && !p.All {
		return fmt.Errorf("%w: which pages? Name them, or give --all", errUsage)
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	list, err := connectedPages(c, cl, p.Pages, p.Resume)
	if err != nil {
		return err
	}
	what, path := "resubscribe", "resubscribe"
	if p.DryRun {
		what, path = "dry run", "resubscribe?dry_run=1"
	}
	begun := time.Now()
	b := c.batch(what, len(list))
	err = each4(c.ctx, list, b, func(page string) api.SubscriptionOutcome { return cl.outcome(c.ctx, page, path) })
	if err != nil {
		fmt.Fprintf(c.Err, "\nStopped after %d of %d pages. Go on with: pagestream pages resubscribe --all --resume %s\n",
			b.done(), len(list), (p.Resume + time.Since(begun) + time.Minute).Round(time.Minute))
		return err
	}
	return b.end(c)
}

// connectedPages lists the ids that were named, or of all connected pages; fresh
// leaves out those that were confirmed within that time.
func connectedPages(c *CLI, cl *client, named []string, fresh time.Duration) ([]string, error) {
	list := named
	if len(list) == 0 {
		err := each(c.ctx, cl, "/api/v1/pages", nil, 0, func(p pages.Page) error {
			if p.State == pages.Connected {
				list = append(list, string(p.ID))
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if fresh <= 0 {
		return list, nil
	}
	var due []string
	for _, page := range list {
		var subs api.List[subscriptions.Subscription]
		err := cl.do(c.ctx, http.MethodGet, "/api/v1/pages/"+url.PathEscape(page)+"/subscription", nil, nil, &subs)
		if err != nil && !isNotFound(err) {
			return nil, err
		}
		done := false
		for _, s := range subs.Items {
			done = done || s.State == subscriptions.Confirmed && time.Since(s.CheckedAt) < fresh
		}
		if !done {
			due = append(due, page)
		}
	}
	return due, nil
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
