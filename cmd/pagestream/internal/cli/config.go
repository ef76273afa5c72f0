package cli

import (
	"fmt"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/server"
	"github.com/pagestream/pagestream/config"
)

// ConfigCommand groups the commands for the configuration.
type ConfigCommand struct {
	Check   ConfigCheckCommand   `cmd:"" help:"Load and validate the configuration."`
	Print   ConfigPrintCommand   `cmd:"" help:"Print the effective configuration without secrets."`
	Example ConfigExampleCommand `cmd:"" help:"Print a documented example configuration."`
}

// ConfigCheckCommand validates the configuration as serve reads it, with all files that serve reads.
type ConfigCheckCommand struct {
	Connect bool `env:"PAGESTREAM_CONFIG_CHECK_CONNECT" help:"Connect to each server of nats.url too, and show what the account may do there."`
}

// Run prints that the configuration is valid, or returns an error with every problem. Warnings are
// written to stderr and change nothing about the exit code. With --connect it is an error, too, if no server of
// nats.url lets pagestream use JetStream.
func (k ConfigCheckCommand) Run(c *CLI) error {
	cfg, err := c.load(nil)
	if err != nil {
		return err
	}
	o := server.Options{Config: cfg, ConfigFile: c.ConfigFile}
	warnings := append([]string{}, server.Warnings(o)...)
	answer := map[string]any{"ok": true, "apps": len(cfg.Apps)}
	problem := server.Check(o)
	var servers []server.Reached
	if k.Connect && problem == nil {
		var more []string
		servers, more, problem = server.Connect(c.ctx, cfg)
		warnings, answer["servers"] = append(warnings, more...), servers
	}
	for _, w := range warnings {
		fmt.Fprintln(c.Err, "warning:", w)
	}
	answer["warnings"] = warnings
	return c.answer(answer, problem, func() {
		fmt.Fprintf(c.Out, "The configuration is valid: %d app(s), data in %s.\n", len(cfg.Apps), cfg.Data.Dir)
		for _, s := range servers {
			fmt.Fprintln(c.Out, s)
		}
	})
}

// ConfigPrintCommand prints the configuration that results from file, environment and flags.
type ConfigPrintCommand struct{}

// Run prints YAML, or JSON with --json. It never prints secrets.
func (ConfigPrintCommand) Run(c *CLI) error {
	cfg, err := c.load(nil)
	if err != nil {
		return err
	}
	if c.machine() {
		return c.Print(config.Redact(cfg), nil)
	}
	return config.Print(c.Out, cfg)
}

// ConfigExampleCommand prints a documented example configuration.
type ConfigExampleCommand struct{}

// Run prints the example. It is usable after the app's settings are filled in.
func (ConfigExampleCommand) Run(c *CLI) error {
	_, err := fmt.Fprint(c.Out, config.Example())
	return err
}
