package cli

import (
	"errors"
	"fmt"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/apps"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
)

// AppsCommand groups the commands for the configured apps.
type AppsCommand struct {
	Setup AppsSetupCommand `cmd:"" help:"Set an app's callback URL, verify token and webhook fields at Meta."`
}

// AppsSetupCommand sets up one app at Meta.
type AppsSetupCommand struct {
	App    string `arg:"" optional:"" help:"Configured app (default: the first)."`
	DryRun bool   `name:"dry-run" env:"PAGESTREAM_APPS_SETUP_DRY_RUN" help:"Only show what would be set."`

	Instagram bool `env:"PAGESTREAM_APPS_SETUP_INSTAGRAM" help:"Set the object instagram even if no connected page needs it."`
	Yes       bool `env:"PAGESTREAM_APPS_SETUP_YES" help:"Confirm replacing another callback URL at Meta."`
}

// Run sets what the app lacks at Meta, reads it back and prints what differs. It fails if the app still
// lacks something, unless it was a dry run.
func (a AppsSetupCommand) Run(c *CLI) error {
	in := api.AppSetupRequest{App: a.App, DryRun: a.DryRun, Replace: a.Yes, Instagram: a.Instagram}
	out, err := post[apps.Result](c, "/api/v1/apps/setup", nil, in)
	err = c.answer(out, err, func() {
		for _, o := range out.Objects {
			printObject(c, o, out.DryRun)
		}
		for _, object := range out.LeftOut {
			fmt.Fprintf(c.Out, "object %s: left out, since no connected page of the app uses it; to set it, add --%s\n",
				object, meta.ObjectInstagram)
		}
	})
	if err == nil && !out.DryRun && !out.Complete() {
		return errors.New("the app still lacks something at Meta; set that in the app's dashboard (Webhooks), " +
			"or run the command again")
	}
	return err
}

// printObject prints what was found and done for one object.
func printObject(c *CLI, o apps.Object, dry bool) {
	done := "unchanged"
	switch {
	case o.Reason != "":
		done = "refused"
	case o.Changed:
		done = "set"
	case dry && !o.Before.None():
		done = "would be set"
	}
	fmt.Fprintf(c.Out, "object %s: %s, %d fields to %s\n", o.Object, done, len(o.Fields), o.CallbackURL)
	for _, words := range o.Before.Words() {
		fmt.Fprintf(c.Out, "  before: %s\n", words)
	}
	if dry && o.Before.Elsewhere != "" {
		fmt.Fprintln(c.Out, "  replacing that callback URL needs --yes, since another product may need it")
	}
	if o.Reason != "" {
		fmt.Fprintf(c.Out, "  Meta says: %s (code %d, subcode %d)\n", o.Reason, o.Code, o.Subcode)
	}
	if o.Changed {
		for _, words := range o.After.Words() {
			fmt.Fprintf(c.Out, "  now: %s\n", words)
		}
	}
}
