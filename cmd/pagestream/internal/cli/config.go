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
type ConfigCheckCommand struct{}

// Run prints that the configuration is valid, or returns an error with every problem. Warnings are
// written to stderr and change nothing about the exit code.
func (ConfigCheckCommand) Run(c *CLI) error {
	cfg, err := c.load(nil)
	if err != nil {
		return err
	}
	o := server.Options{Config: cfg, ConfigFile: c.ConfigFile}
	warnings := append([]string{}, server.Warnings(o)...)
	for _, w := range warnings {
		fmt.Fprintln(c.Err, "warning:", w)
	}
	answer := map[string]any{"ok": true, "apps": len(cfg.Apps), "warnings": warnings}
	return c.answer(answer, server.Check(o), func() {
		fmt.Fprintf(c.Out, "The configuration is valid: %d app(s), data in %s.\n", len(cfg.Apps), cfg.Data.Dir)
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
	if c.JSON {
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
