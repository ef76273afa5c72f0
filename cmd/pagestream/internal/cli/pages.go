package cli

import (
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
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

const pagesPath = "/api/v1/pages"

// pagePath is a page in the API.
func pagePath(id string) string { return pagesPath + "/" + url.PathEscape(id) }

// PagesListCommand lists pages.
type PagesListCommand struct {
	Limit int `default:"0" env:"PAGESTREAM_PAGES_LIMIT" help:"At most this many; 0 for all."`
}

// Run prints a table of pages: what is connected and subscribed, and the state that
// doctor, console and status show as well.
func (l PagesListCommand) Run(c *CLI) error {
	list, err := collect[operate.Page](c, pagesPath, nil, l.Limit)
	return c.answer(list, err, func() {
		if len(list) == 0 {
			fmt.Fprintln(c.Out, "No page was seen yet. Connect one with: pagestream pages connect PAGE")
			return
		}
		writeTable(c.Out, "PAGE, NAME, COMPANY, CONNECTION, TOKEN, SUBSCRIPTION, STATE, EVENTS, LAST EVENT", list,
			func(p operate.Page) cells {
				return cells{
					p.ID, dash(p.Name), dash(p.Company), p.State, p.Token, p.Subscription, p.Judgement.State.Words(),
					p.Traffic.Events, ago(p.Traffic.LastAt),
				}
			})
	})
}

// PagesShowCommand shows one page.
type PagesShowCommand struct {
	Page string `arg:"" help:"Page id."`
}

// pageView is a page with its subscriptions, one for each app.
type pageView struct {
	operate.Page
	Subscriptions []subscriptions.Subscription `json:"subscriptions"`
}

// Run prints the page as indented JSON: there is too much of it for a table.
func (s PagesShowCommand) Run(c *CLI) error {
	page, err := get[operate.Page](c, pagePath(s.Page), nil)
	if err != nil {
		return err
	}
	subs, err := get[api.List[subscriptions.Subscription]](c, pagePath(s.Page)+"/subscription", nil)
	if err != nil && !isNotFound(err) {
		return err
	}
	return c.printJSON(pageView{page, subs.Items})
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
	Verify    string   `name:"page-verify-token" placeholder:"TOKEN" env:"PAGESTREAM_PAGE_VERIFY_TOKEN" help:"The page's own token for the webhook's handshake, optional."`
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
	return c.verb(pagesPath, api.ConnectRequest{
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
	found, err := post[operate.Login](c, "/api/v1/logins", nil, api.LoginRequest{UserToken: token, App: p.App})
	if err != nil {
		return err
	}
	if len(p.Pages) == 0 && !p.All {
		return c.Print(found, func() { p.show(c, found) })
	}
	for _, g := range found.Gone {
		fmt.Fprintf(c.Err, "this login no longer includes page %s %s\n", g.Page, g.Name)
	}
	choice := meta.Choice{All: p.All, Company: p.Company, Fields: p.Fields}
	total := len(found.Pages)
	for _, id := range p.Pages {
		choice.Pages = append(choice.Pages, domain.PageID(id))
		total = len(p.Pages)
	}
	b := c.batch("connect", total)
	if _, err = follow[meta.Outcome, operate.Connected](c, "/api/v1/logins/"+found.ID, choice, b.add); err != nil {
		return err
	}
	return b.end(c)
}

func (p PagesConnectCommand) show(c *CLI, found operate.Login) {
	var rows []cells
	for _, g := range found.Pages {
		note := ""
		if g.Lacking {
			note = "the role does not let connect it"
		}
		rows = append(rows, cells{g.Page, dash(g.Name), g.Standing, dash(g.Company), note})
	}
	for _, g := range found.Gone {
		rows = append(rows, cells{g.Page, dash(g.Name), "gone", "-", "this login no longer includes it"})
	}
	writeTable(c.Out, "PAGE, NAME, STATE, COMPANY, NOTE", rows, func(r cells) cells { return r })
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
	in := operate.InviteRequest{App: p.App, Company: p.Company, Fields: p.Fields}
	out, err := post[operate.Invite](c, "/api/v1/invites", nil, in)
	return c.answer(out, err, func() {
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
	list, err := connectedPages(c, p.Pages, 0)
	if err != nil {
		return err
	}
	b := c.batch("check", len(list))
	if err := b.over(c, list, "/check"); err != nil {
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
	list, err := connectedPages(c, p.Pages, p.Resume)
	if err != nil {
		return err
	}
	what, verb := "resubscribe", "/resubscribe"
	if p.DryRun {
		what, verb = "dry run", "/resubscribe?dry_run=1"
	}
	begun := time.Now()
	b := c.batch(what, len(list))
	if err := b.over(c, list, verb); err != nil {
		fmt.Fprintf(c.Err, "\nStopped after %d of %d pages. Go on with: pagestream pages resubscribe --all --resume %s\n",
			b.done(), len(list), (p.Resume + time.Since(begun) + time.Minute).Round(time.Minute))
		return err
	}
	return b.end(c)
}

// connectedPages lists the ids that were named, or of all connected pages; fresh
// leaves out those that were confirmed within that time.
func connectedPages(c *CLI, named []string, fresh time.Duration) ([]string, error) {
	list := named
	if len(list) == 0 {
		all, err := collect[operate.Page](c, pagesPath, nil, 0)
		if err != nil {
			return nil, err
		}
		for _, p := range all {
			if p.State == pages.Connected {
				list = append(list, string(p.ID))
			}
		}
	}
	if fresh <= 0 {
		return list, nil
	}
	var due []string
	for _, page := range list {
		subs, err := get[api.List[subscriptions.Subscription]](c, pagePath(page)+"/subscription", nil)
		if err != nil && !isNotFound(err) {
			return nil, err
		}
		if !slices.ContainsFunc(subs.Items, func(s subscriptions.Subscription) bool {
			return s.State == subscriptions.Confirmed && time.Since(s.CheckedAt) < fresh
		}) {
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
	return c.verb(pagePath(p.Page)+"/disconnect", nil)
}

// verb carries out one verb on a page and prints the outcome. An outcome that
// is not what was wanted is an error: exit code 1.
func (c *CLI) verb(path string, in any) error {
	out, err := post[meta.Outcome](c, path, nil, in)
	err = c.answer(out, err, func() {
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
	if err == nil && (out.State == subscriptions.Failed || out.State == subscriptions.Drifted) {
		return fmt.Errorf("page %s is not subscribed as wanted: %s", out.Page, out.State)
	}
	return err
}
