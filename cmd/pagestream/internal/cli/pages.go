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

// PagesCommand groups the commands for pages.
type PagesCommand struct {
	List        PagesListCommand        `cmd:"" help:"List every known page, connected or not."`
	Show        PagesShowCommand        `cmd:"" help:"Show one page and its subscription."`
	Login       PagesLoginCommand       `cmd:"" help:"Create a link that connects pages in a browser."`
	Connect     PagesConnectCommand     `cmd:"" help:"Connect a page with its page token, or many with a user token."`
	Check       PagesCheckCommand       `cmd:"" help:"Compare the subscriptions of page and app with the wanted fields."`
	Resubscribe PagesResubscribeCommand `cmd:"" help:"Subscribe pages again with all wanted fields."`
	Disconnect  PagesDisconnectCommand  `cmd:"" help:"Unsubscribe a page and remove its connection; its events are kept."`
}

const pagesPath = "/api/v1/pages"

// pagePath returns the API path of a page.
func pagePath(id string) string { return pagesPath + "/" + url.PathEscape(id) }

// PagesListCommand lists every known page.
type PagesListCommand struct {
	Limit   int    `default:"0" env:"PAGESTREAM_PAGES_LIMIT" help:"Maximum number; 0 for all."`
	Company string `placeholder:"NAME" env:"PAGESTREAM_PAGES_LIST_COMPANY" help:"Only the pages that this company has now."`
}

// Run prints a table of pages: connection, subscription, and the same state as doctor,
// console and status show.
func (l PagesListCommand) Run(c *CLI) error {
	query := url.Values{}
	if l.Company != "" {
		query.Set("company", l.Company)
	}
	list, err := collect[operate.Page](c, pagesPath, query, l.Limit)
	return c.answer(list, err, func() {
		if len(list) == 0 {
			fmt.Fprintln(c.Out, "There are no pages yet. Connect one with: pagestream pages connect PAGE")
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

// pageView is a page with its subscriptions, one per app.
type pageView struct {
	operate.Page
	Subscriptions []subscriptions.Subscription `json:"subscriptions"`
}

// Run prints the page as indented JSON, because it has too many fields for a table.
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

// PagesConnectCommand connects one page with its own token, or pages of a user with the user's
// token.
type PagesConnectCommand struct {
	Pages     []string `arg:"" optional:"" name:"page" help:"Page ids: one with a page token, any number with a user token."`
	Token     string   `placeholder:"TOKEN" env:"PAGESTREAM_PAGE_TOKEN" help:"Page access token. Prefer the environment or --page-token-file: they keep it out of the shell history."`
	TokenFile string   `name:"page-token-file" placeholder:"FILE" env:"PAGESTREAM_PAGE_TOKEN_FILE" help:"File with the page access token."`
	User      string   `name:"user-token" placeholder:"TOKEN" env:"PAGESTREAM_USER_TOKEN" help:"User access token: connects pages that the user has granted to the app."`
	UserFile  string   `name:"user-token-file" placeholder:"FILE" env:"PAGESTREAM_USER_TOKEN_FILE" help:"File with the user access token."`
	All       bool     `env:"PAGESTREAM_PAGES_CONNECT_ALL" help:"With a user token: connect every granted page, except pages that somebody else connected."`
	Verify    string   `name:"page-verify-token" placeholder:"TOKEN" env:"PAGESTREAM_PAGE_VERIFY_TOKEN" help:"The page's own verify token for the webhook handshake (optional)."`
	Company   string   `placeholder:"NAME" env:"PAGESTREAM_PAGES_COMPANY" help:"Company that owns the page; a connected page keeps its company without it."`
	Move      bool     `env:"PAGESTREAM_PAGES_CONNECT_MOVE" help:"Move pages that are connected for another company to --company."`
	App       string   `placeholder:"NAME" env:"PAGESTREAM_PAGES_APP" help:"Configured app (default: the first)."`
	Fields    []string `placeholder:"FIELD" env:"PAGESTREAM_PAGES_FIELDS" help:"Subscription fields (default: every messaging field except response_feedback)."`
}

// Run connects and subscribes pages. It fails if a page is not subscribed with every wanted
// field afterwards. With a user token and no choice of pages it only lists the granted pages.
func (p PagesConnectCommand) Run(c *CLI) error {
	user, err := readSecret(p.User, p.UserFile)
	if err != nil {
		return fmt.Errorf("read user token: %w", err)
	}
	if p.All && len(p.Pages) > 0 {
		return errWhichPages
	}
	if user != "" {
		return p.connectByUser(c, user)
	}
	token, err := readSecret(p.Token, p.TokenFile)
	switch {
	case err != nil:
		return fmt.Errorf("read page token: %w", err)
	case token == "":
		return fmt.Errorf("%w: no token; set PAGESTREAM_PAGE_TOKEN or give --page-token-file, "+
			"or a user token for many pages at once", errUsage)
	case len(p.Pages) != 1:
		return fmt.Errorf("%w: a page token is for one page: give exactly one page id", errUsage)
	}
	return c.changePage(pagesPath, api.ConnectRequest{
		Page: domain.PageID(p.Pages[0]), Token: token, VerifyToken: p.Verify,
		Company: p.Company, Move: p.Move, App: p.App, Fields: p.Fields,
	})
}

// readSecret returns the content of the file without surrounding space, or value if no file is named.
func readSecret(value, file string) (string, error) {
	if file == "" {
		return value, nil
	}
	b, err := os.ReadFile(file)
	return strings.TrimSpace(string(b)), err
}

// connectByUser connects the chosen pages of those that the user has granted. Without a choice it
// prints the granted pages and changes nothing.
func (p PagesConnectCommand) connectByUser(c *CLI, token string) error {
	found, err := post[operate.Login](c, "/api/v1/logins", nil, api.LoginRequest{UserToken: token, App: p.App})
	if err != nil {
		return err
	}
	if len(p.Pages) == 0 && !p.All {
		if p.Company, err = c.companyID(p.Company); err != nil {
			return err
		}
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
	if p.Move {
		for _, g := range found.Pages {
			choice.Move = append(choice.Move, g.Page)
		}
	}
	b := c.batch("connect", total)
	if _, err = follow[meta.Outcome, operate.Connected](c, "/api/v1/logins/"+found.ID, choice, b.add); err != nil {
		return err
	}
	return b.finish(c)
}

func (p PagesConnectCommand) show(c *CLI, found operate.Login) {
	var rows []cells
	for _, g := range found.Pages {
		note := ""
		if g.Lacking {
			note = "the user's role does not allow connecting it"
		}
		if g.Moves(p.Company) {
			note = "moves from " + g.Company + " to " + p.Company + " with --move"
		}
		rows = append(rows, cells{g.Page, dash(g.Name), g.Standing, dash(g.Company), note})
	}
	for _, g := range found.Gone {
		rows = append(rows, cells{g.Page, dash(g.Name), "gone", "-", "this login no longer includes it"})
	}
	writeTable(c.Out, "PAGE, NAME, STATE, COMPANY, NOTE", rows, func(r cells) cells { return r })
	if len(found.MissingScopes) > 0 {
		fmt.Fprintf(c.Out, "Permissions that were not granted: %s\n", strings.Join(found.MissingScopes, ", "))
	}
	fmt.Fprintln(c.Out, "Nothing was changed. "+
		"Choose pages with: pagestream pages connect --user-token-file FILE PAGE..., or --all")
}

// PagesLoginCommand creates a link for the login in a browser.
type PagesLoginCommand struct {
	Company string   `placeholder:"NAME" required:"" env:"PAGESTREAM_PAGES_LOGIN_COMPANY" help:"Company that will own the pages."`
	New     bool     `name:"new-company" env:"PAGESTREAM_PAGES_LOGIN_NEW_COMPANY" help:"The company is not known yet: add it."`
	App     string   `placeholder:"NAME" env:"PAGESTREAM_PAGES_LOGIN_APP" help:"Configured app (default: the first)."`
	Fields  []string `placeholder:"FIELD" env:"PAGESTREAM_PAGES_LOGIN_FIELDS" help:"Subscription fields (default: every messaging field except response_feedback)."`
}

// Run prints a link that is valid for one login and expires.
func (p PagesLoginCommand) Run(c *CLI) error {
	in := operate.InviteRequest{App: p.App, Company: p.Company, NewCompany: p.New, Fields: p.Fields}
	out, err := post[operate.Invite](c, "/api/v1/invites", nil, in)
	return c.answer(out, err, func() {
		fmt.Fprintf(c.Out, "%s\n", out.URL)
		fmt.Fprintf(c.Err, "Open the link once in a browser, before %s.\n", out.Expires.Local().Format("15:04"))
	})
}

// PagesCheckCommand compares the subscriptions of pages with the wanted fields.
type PagesCheckCommand struct {
	Pages []string `arg:"" optional:"" name:"page" help:"Page ids."`
	All   bool     `env:"PAGESTREAM_PAGES_CHECK_ALL" help:"Every connected page."`
}

// Run reads the subscriptions of each page and of the app from Graph and shows the differences.
func (p PagesCheckCommand) Run(c *CLI) error {
	list, err := connectedPages(c, p.Pages, p.All, 0)
	if err != nil {
		return err
	}
	b := c.batch("check", len(list))
	if err := b.run(c, list, "/check"); err != nil {
		return err
	}
	return b.finish(c)
}

// PagesResubscribeCommand subscribes pages again, for example after an app or its fields have changed.
type PagesResubscribeCommand struct {
	Pages  []string      `arg:"" optional:"" name:"page" help:"Page ids."`
	All    bool          `env:"PAGESTREAM_PAGES_RESUBSCRIBE_ALL" help:"Every connected page."`
	DryRun bool          `name:"dry-run" env:"PAGESTREAM_PAGES_RESUBSCRIBE_DRY_RUN" help:"Only show what would be subscribed."`
	Resume time.Duration `placeholder:"DURATION" env:"PAGESTREAM_PAGES_RESUBSCRIBE_RESUME" help:"Skip pages that were confirmed within this time; used to continue after an interruption."`
}

// Run subscribes each page with its own token and reads the result back from Graph.
func (p PagesResubscribeCommand) Run(c *CLI) error {
	list, err := connectedPages(c, p.Pages, p.All, p.Resume)
	if err != nil {
		return err
	}
	name, operation := "resubscribe", "/resubscribe"
	if p.DryRun {
		name, operation = "dry run", "/resubscribe?dry_run=1"
	}
	begun := time.Now()
	b := c.batch(name, len(list))
	if err := b.run(c, list, operation); err != nil {
		fmt.Fprintf(c.Err, "\nStopped after %d of %d pages. Continue with: pagestream pages resubscribe --all --resume %s\n",
			b.done(), len(list), (p.Resume + time.Since(begun) + time.Minute).Round(time.Minute))
		return err
	}
	return b.finish(c)
}

// errWhichPages is returned when neither pages nor --all are given, or both.
var errWhichPages = fmt.Errorf("%w: which pages? Give page ids, or --all", errUsage)

// connectedPages returns the named page ids, or those of all connected pages. It skips pages that were
// confirmed within the duration fresh (0: none are skipped).
func connectedPages(c *CLI, named []string, every bool, fresh time.Duration) ([]string, error) {
	if (len(named) == 0) != every {
		return nil, errWhichPages
	}
	list := named
	if every {
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

// PagesDisconnectCommand unsubscribes a page and removes its connection.
type PagesDisconnectCommand struct {
	Page string `arg:"" help:"Page id."`
}

// Run disconnects the page and prints the outcome.
func (p PagesDisconnectCommand) Run(c *CLI) error {
	return c.changePage(pagePath(p.Page)+"/disconnect", nil)
}

// changePage runs one operation on a page and prints the outcome. It returns an error if the page
// lacks wanted fields afterwards.
func (c *CLI) changePage(path string, in any) error {
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
		return fmt.Errorf("page %s does not have all wanted fields: %s", out.Page, out.State)
	}
	return err
}
