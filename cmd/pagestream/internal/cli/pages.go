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
	Forget      PagesForgetCommand      `cmd:"" help:"Remove a page that is not connected from the read models; its events are kept."`
}

const pagesPath = "/api/v1/pages"

// pagePath returns the API path of a page.
func pagePath[S ~string](id S) string { return pagesPath + "/" + url.PathEscape(string(id)) }

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
			fmt.Fprintln(c.Out, "There are no pages yet. Connect some with: "+
				"pagestream pages login --company NAME --new-company")
			return
		}
		writeTable(c, "PAGE, NAME, COMPANY, CONNECTION, TOKEN, SUBSCRIPTION, STATE, EVENTS, LAST EVENT", list,
			func(p operate.Page) cells {
				return cells{
					p.ID, dash(inLine(p.Name)), dash(inLine(p.Company)), p.State, p.Token, p.Subscription,
					toned{p.Judgement.State.Words(), ofSeverity(p.Judgement.Severity)},
					p.Traffic.Events, activity(p.Traffic.LastAt),
				}
			})
	})
}

// PagesShowCommand shows one page.
type PagesShowCommand struct {
	Page PageRef `arg:"" help:"Page, by its id or name."`
}

// pageView is a page with its subscriptions, one per app.
type pageView struct {
	operate.Page
	Subscriptions []subscriptions.Subscription `json:"subscriptions"`
}

// Run prints the page, its subscriptions and what is wrong with it. JSON has all fields.
func (s PagesShowCommand) Run(c *CLI) error {
	page, err := get[operate.Page](c, pagePath(s.Page), nil)
	if err != nil {
		return err
	}
	subs, err := get[api.List[subscriptions.Subscription]](c, pagePath(s.Page)+"/subscription", nil)
	if err != nil && !isNotFound(err) {
		return err
	}
	view := pageView{page, append([]subscriptions.Subscription{}, subs.Items...)}
	return c.Print(view, func() { view.print(c) })
}

// print writes the page for a person.
func (v pageView) print(c *CLI) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(c.Out, "  %-13s "+format+"\n", append([]any{name}, args...)...)
	}
	severity := ofSeverity(v.Judgement.Severity)
	fmt.Fprintf(c.Out, "page %s %s: %s\n", v.ID, inLine(v.Name), c.paint(severity, v.Judgement.State.Words()))
	line("company", "%s", dash(inLine(v.Company)))
	line("connection", "%s", since(string(v.State), v.StateSince, v.StateReason))
	if v.App != "" {
		line("app", "%s", strings.TrimSpace(v.App+" "+v.AppID))
	}
	line("token", "%s", since(string(v.Token), v.TokenSince, v.TokenReason))
	if ends := v.AccessEnds(); !ends.IsZero() {
		line("access ends", "%s", localTime(ends))
	}
	if v.Instagram != "" {
		line("Instagram", "account %s", v.Instagram)
	}
	if v.LinkedPage != "" {
		line("linked to", "page %s", v.LinkedPage)
	}
	line("events", "%d, the last one %s, %s", v.Traffic.Events, localTime(v.Traffic.LastAt), ago(v.Traffic.LastAt))
	for _, s := range v.Subscriptions {
		line("subscription", "%s: %s", dash(s.App), since(string(s.State), s.Since, s.Reason))
		line("", "checked %s, %s", localTime(s.CheckedAt), ago(s.CheckedAt))
		line("", "fields %s", strings.Join(s.Actual, " "))
		if missing := s.Missing(); len(missing) > 0 {
			line("", "%s %s", c.paint(red, "missing"), strings.Join(missing, " "))
		}
	}
	if len(v.Subscriptions) == 0 {
		line("subscription", "none")
	}
	for _, f := range v.Judgement.Findings {
		printFinding(c, f)
	}
}

// since formats a state, since when it is, and why.
func since(state string, at time.Time, reason string) string {
	if !at.IsZero() {
		state += " since " + localTime(at)
	}
	if reason != "" {
		state += ": " + inLine(reason)
	}
	return state
}

// PagesConnectCommand connects one page with its own token, or pages of a user with the user's
// token.
type PagesConnectCommand struct {
	Pages     []string `arg:"" optional:"" name:"page" help:"Page ids: one with a page token, any number with a user token. A page that is known already may be named by its name."`
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
			"or --user-token-file for many pages at once; without a token: pagestream pages login --company NAME", errUsage)
	case len(p.Pages) != 1:
		return fmt.Errorf("%w: a page token is for one page: give exactly one page id", errUsage)
	}
	page, err := c.newPage(p.Pages[0])
	if err != nil {
		return err
	}
	return c.changePage(pagesPath, api.ConnectRequest{
		Page: domain.PageID(page), Token: token, VerifyToken: p.Verify,
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
	for _, given := range p.Pages {
		id, err := grantedPage(c, given, found)
		if err != nil {
			return err
		}
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

// newPage returns the id of a page that may not be known yet: an id is taken as it is, a name is that of a known page.
func (c *CLI) newPage(given string) (string, error) {
	if isNumber(given) {
		return given, nil
	}
	return c.findPage(given, false)
}

// grantedPage is [CLI.newPage] that knows the names of the granted pages too.
func grantedPage(c *CLI, given string, found operate.Login) (string, error) {
	var named []string
	for _, g := range found.Pages {
		if strings.EqualFold(g.Name, given) {
			named = append(named, string(g.Page))
		}
	}
	switch {
	case isNumber(given) || len(named) == 0:
		return c.newPage(given)
	case len(named) > 1:
		return "", fmt.Errorf("%d pages have the name %q; give the id of one: %s", len(named), given, strings.Join(named, ", "))
	}
	return named[0], nil
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
	writeTable(c, "PAGE, NAME, STATE, COMPANY, NOTE", rows, func(r cells) cells { return r })
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
	Pages []PageRef `arg:"" optional:"" name:"page" help:"Pages, by their ids or names."`
	All   bool      `env:"PAGESTREAM_PAGES_CHECK_ALL" help:"Every connected page."`
}

// Validate returns an error if it is not said which pages.
func (p PagesCheckCommand) Validate() error { return whichPages(p.Pages, p.All) }

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
	Pages  []PageRef     `arg:"" optional:"" name:"page" help:"Pages, by their ids or names."`
	All    bool          `env:"PAGESTREAM_PAGES_RESUBSCRIBE_ALL" help:"Every connected page."`
	DryRun bool          `name:"dry-run" env:"PAGESTREAM_PAGES_RESUBSCRIBE_DRY_RUN" help:"Only show what would be subscribed."`
	Resume time.Duration `placeholder:"DURATION" env:"PAGESTREAM_PAGES_RESUBSCRIBE_RESUME" help:"Skip pages that were confirmed within this time; used to continue after an interruption."`
}

// Validate returns an error if it is not said which pages.
func (p PagesResubscribeCommand) Validate() error { return whichPages(p.Pages, p.All) }

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
var errWhichPages = fmt.Errorf("%w: which pages? Name them, or give --all", errUsage)

// whichPages returns [errWhichPages] unless either pages or all of them are named.
func whichPages(named []PageRef, all bool) error {
	if (len(named) == 0) != all {
		return errWhichPages
	}
	return nil
}

// connectedPages returns the named page ids, or those of all connected pages. It skips pages that were
// confirmed within the duration fresh (0: none are skipped).
func connectedPages(c *CLI, named []PageRef, every bool, fresh time.Duration) ([]PageRef, error) {
	list := named
	if every {
		all, err := collect[operate.Page](c, pagesPath, nil, 0)
		if err != nil {
			return nil, err
		}
		for _, p := range all {
			if p.State == pages.Connected {
				list = append(list, PageRef(p.ID))
			}
		}
	}
	if fresh <= 0 {
		return list, nil
	}
	var due []PageRef
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
	Page PageRef `arg:"" help:"Page, by its id or name."`
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
