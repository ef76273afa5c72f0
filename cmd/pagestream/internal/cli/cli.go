// Package cli implements the command line: one file per noun, with its subcommands. A
// subcommand calls the API of a running server, or works on the files of a stopped one.
package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/pagestream/pagestream/config"
	"github.com/pagestream/pagestream/internal/nearest"
)

// The exit codes are part of the command line's contract.
const (
	ExitOK     = 0
	ExitFailed = 1
	ExitUsage  = 2
)

// errUsage is returned when the command line itself is wrong: the exit code is ExitUsage.
var errUsage = errors.New("usage")

// CLI is the command line: the global flags, one field per command, and the writers of
// the output.
type CLI struct {
	ConfigFile string `name:"config" short:"c" placeholder:"FILE" env:"PAGESTREAM_CONFIG" help:"Configuration file (YAML)."`
	JSON       bool   `name:"json" env:"PAGESTREAM_JSON" help:"Print one JSON document."`
	NDJSON     bool   `name:"ndjson" env:"PAGESTREAM_NDJSON" help:"Print JSON, each item of a list on a line."`
	NoColor    bool   `name:"no-color" env:"PAGESTREAM_NO_COLOR" help:"No colours on a terminal; NO_COLOR does the same."`
	Server     string `placeholder:"URL" env:"PAGESTREAM_SERVER" help:"Private listener of a running server: a URL, or host:port on this machine (default: from the configuration)."`
	TokenFile  string `name:"token-file" placeholder:"FILE" env:"PAGESTREAM_TOKEN_FILE" help:"File with a token (default: the admin token of the configuration)."`
	LogLevel   string `name:"log-level" placeholder:"LEVEL" env:"PAGESTREAM_LOG_LEVEL" help:"debug, info, warn or error."`
	LogFormat  string `name:"log-format" placeholder:"FORMAT" env:"PAGESTREAM_LOG_FORMAT" help:"text or json."`
	ShowBuild  bool   `name:"version" help:"Print the version, as the command version does."`

	Dev           DevCommand           `cmd:"" help:"Run everything offline: server, fake Meta, 40 pages, live traffic."`
	Serve         ServeCommand         `cmd:"" help:"Run the server."`
	Pages         PagesCommand         `cmd:"" help:"List, connect and check pages."`
	Apps          AppsCommand          `cmd:"" help:"Set up the apps at Meta."`
	Doctor        DoctorCommand        `cmd:"" help:"Show what is wrong with pages, why, and how to fix it."`
	Send          SendCommand          `cmd:"" help:"Send a message as a page."`
	Backfill      BackfillCommand      `cmd:"" help:"Fill a gap in a page's messages from Meta's history."`
	Erase         EraseCommand         `cmd:"" help:"Remove a contact from the stream and the read models."`
	Person        PersonCommand        `cmd:"" help:"Export what is held on a person."`
	Erasures      ErasuresCommand      `cmd:"" help:"List erasures, and who has acknowledged them."`
	Keys          KeysCommand          `cmd:"" help:"List and rotate the keys that seal page tokens."`
	Events        EventsCommand        `cmd:"" help:"Read the stream of events."`
	Conversations ConversationsCommand `cmd:"" help:"Read conversations."`
	Comments      CommentsCommand      `cmd:"" help:"Read comments on posts."`
	Posts         PostsCommand         `cmd:"" help:"Read posts and the comments on them."`
	Projections   ProjectionsCommand   `cmd:"" help:"Show, verify and rebuild the read models."`
	Companies     CompaniesCommand     `cmd:"" help:"Manage the companies that pages belong to."`
	Tokens        TokensCommand        `cmd:"" help:"Manage the tokens of the private listener."`
	History       HistoryCommand       `cmd:"" help:"List what operators did: who, from where, on what."`
	Consumers     ConsumersCommand     `cmd:"" help:"Manage programs that read events through NATS."`
	Hooks         HooksCommand         `cmd:"" help:"Manage signed webhooks to services without NATS."`
	DeadLetters   DeadLettersCommand   `cmd:"" name:"deadletters" help:"Manage events that a read model could not apply."`
	Backup        BackupCommand        `cmd:"" help:"Copy streams, keys and configuration while the server runs."`
	Restore       RestoreCommand       `cmd:"" help:"Create an installation from a backup."`
	Migrate       MigrateCommand       `cmd:"" help:"Move a stopped installation with the embedded server to a NATS cluster."`
	Recover       RecoverCommand       `cmd:"" help:"Show which events the stream has lost, and what read models still have of them."`
	Audit         AuditCommand         `cmd:"" help:"Check the whole stream for lost and duplicated events."`
	Cluster       ClusterCommand       `cmd:"" help:"Change how many copies of the streams a NATS cluster keeps."`
	Status        StatusCommand        `cmd:"" help:"Show what a running server is doing."`
	Load          LoadCommand          `cmd:"" help:"Send signed traffic to a server, then check that none of it was lost or duplicated."`
	Bench         BenchCommand         `cmd:"" help:"Measure performance on this machine, relative to baselines of the same run or to another version."`
	CheckFile     CheckFileCommand     `cmd:"" hidden:"" help:"Check a file of a read model. The server runs this itself."`
	BareHandler   BareHandlerCommand   `cmd:"" hidden:"" help:"Check signatures and answer. The bench compares with it."`
	Config        ConfigCommand        `cmd:"" help:"Check and print the configuration."`
	Completion    CompletionCommand    `cmd:"" help:"Print the script that completes commands in bash, zsh or fish."`
	Version       VersionCommand       `cmd:"" help:"Print the version, and the commit and time that it was built from."`

	Out io.Writer `kong:"-"`
	Err io.Writer `kong:"-"`
	Env []string  `kong:"-"`
	// flagEnv has the environment variables of flags, which are not keys of the configuration.
	flagEnv []string
	// checkFile checks a file of a read model in a process of its own; nil in tests, whose
	// program has no command for it.
	checkFile func(ctx context.Context, path string) error
	build     Build           // what a release sets
	ctx       context.Context //nolint:containedctx // set once by Main, for the subcommand's Run
	api       *Client         // made by client at the first use
	model     *kong.Application
}

// Program is [Main] for the program itself: it may start itself again to check a file, and it may have been built as a
// release.
func Program(ctx context.Context, args, env []string, stdout, stderr io.Writer, b Build) int {
	return run(&CLI{Out: stdout, Err: stderr, Env: env, ctx: ctx, checkFile: checkInChild, build: b}, args)
}

// Main runs one command line and returns the exit code. It never calls os.Exit, so tests
// can run it in process.
func Main(ctx context.Context, args, env []string, stdout, stderr io.Writer) int {
	return run(&CLI{Out: stdout, Err: stderr, Env: env, ctx: ctx}, args)
}

func run(c *CLI, args []string) int {
	stdout, stderr := c.Out, c.Err
	exit := -1
	parser, err := kong.New(c,
		kong.Name("pagestream"),
		kong.Description("Facebook Page webhooks as a durable stream of events, with read models.\n"+
			"Start with: pagestream dev"),
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { exit = code }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	)
	if err != nil {
		fmt.Fprintln(stderr, "pagestream:", err)
		return ExitFailed
	}
	for _, n := range append(parser.Model.Leaves(false), parser.Model.Node) {
		for _, f := range n.Flags {
			c.flagEnv = append(c.flagEnv, f.Envs...)
		}
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	c.model = parser.Model
	if args[0] == completeWord {
		return c.complete(parser, args[1:])
	}
	run, err := parser.Parse(args)
	if exit >= 0 {
		return exit // --help was asked for and printed
	}
	if c.ShowBuild {
		return c.exit(VersionCommand{}.Run(c))
	}
	var parse *kong.ParseError
	if errors.As(err, &parse) {
		run = parse.Context
	}
	if run != nil {
		err = cmp.Or(emptyArgument(args), emptyVariable(run.Flags()), err)
	}
	if err != nil {
		return c.usage(err, run)
	}
	if err = c.resolve(run); err == nil {
		err = run.Run(c)
	}
	if errors.Is(err, errUsage) {
		return c.usage(err, run)
	}
	return c.exit(err)
}

// exit prints an error, and returns the exit code.
func (c *CLI) exit(err error) int {
	if err == nil {
		return ExitOK
	}
	fmt.Fprintln(c.Err, "pagestream:", err)
	return ExitFailed
}

// emptyArgument returns a usage error if an argument or the value of a flag is empty. Commands take an
// empty value for one that was not given, and without a page they may be about all pages.
func emptyArgument(args []string) error {
	before := ""
	for i, arg := range args {
		name, value, hasValue := strings.Cut(arg, "=")
		if !strings.HasPrefix(name, "--") {
			name = "" // arguments are not shown: they may be secrets
		}
		empty := ""
		switch {
		case name != "" && hasValue && value == "":
			empty = name
		case arg == "" && before != "":
			empty = "the argument after " + before
		case arg == "":
			empty = fmt.Sprint("argument ", i+1)
		}
		if empty != "" {
			return fmt.Errorf("%w: %s is empty; give it a value, or leave it out", errUsage, empty)
		}
		before = name
	}
	return nil
}

// emptyVariable returns a usage error if a list is given by an environment variable that is empty.
func emptyVariable(flags []*kong.Flag) error {
	for _, f := range flags {
		for _, env := range f.Envs {
			if _, isSet := os.LookupEnv(env); isSet && f.IsSlice() && f.Target.Len() == 0 {
				return fmt.Errorf("%w: %s is empty; give it a value, or unset it", errUsage, env)
			}
		}
	}
	return nil
}

// usage prints an error of the command line with a hint, and returns ExitUsage. The context is that of the command as
// far as it is known.
func (c *CLI) usage(err error, run *kong.Context) int {
	command, text := "", strings.Replace(err.Error(), errUsage.Error()+": ", "", 1)
	node := c.model.Node
	if run != nil && run.Selected() != nil {
		node = run.Selected()
	}
	for n := node; n.Parent != nil; n = n.Parent {
		command = " " + n.Name + command
	}
	if word, unexpected := strings.CutPrefix(text, "unexpected argument "); unexpected && len(node.Children) > 0 {
		word, _, _ = strings.Cut(word, ", did you mean")
		text = unknownCommand(node, strings.TrimSpace(command), word)
	}
	// Kong puts the command in front of what Validate returns.
	text = strings.TrimPrefix(text, strings.TrimSpace(command)+": ")
	fmt.Fprintln(c.Err, "pagestream:", text)
	fmt.Fprintf(c.Err, "Try: pagestream%s --help\n", command)
	return ExitUsage
}

// unknownCommand returns the error for a word that is no command below node, with the nearest ones: of node, and of
// the whole command line.
func unknownCommand(node *kong.Node, command, word string) string {
	var own []string
	for _, n := range node.Children {
		if !n.Hidden {
			own = append(own, n.Name)
		}
	}
	full := strings.TrimSpace(command + " " + word)
	text := fmt.Sprintf("there is no command %q", full)
	found := nearest.Names(word, own, maxNear)
	for i, name := range found {
		found[i] = strings.TrimSpace(command + " " + name)
	}
	switch {
	case len(found) > 0:
		text += "; did you mean " + strings.Join(found, " or ") + "?"
	case command != "":
		text += "; " + command + " has: " + strings.Join(own, ", ")
	}
	return text
}

// load reads the configuration: file, then environment, then flags. Later sources override earlier ones.
func (c *CLI) load(flags map[string]any) (config.Config, error) {
	all := map[string]any{"log.level": c.LogLevel, "log.format": c.LogFormat}
	maps.Copy(all, flags)
	maps.DeleteFunc(all, func(_ string, value any) bool { return value == "" }) // not given
	cfg, err := config.Load(config.Options{File: c.ConfigFile, Env: c.Env, Flags: all, IgnoreEnv: c.flagEnv})
	switch {
	case errors.Is(err, config.ErrInvalid): // it says what to change
	case errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("%w\nIt is named with -c or PAGESTREAM_CONFIG. The file of pagestream dev is gone when dev has "+
			"stopped;\na file for a server of your own begins with: pagestream config example > pagestream.yaml", err)
	case errors.Is(err, fs.ErrPermission):
		err = fmt.Errorf("%w\nRun the command as root or as the user of the server", err)
	}
	return cfg, err
}
