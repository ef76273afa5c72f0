package cli

import (
	"fmt"

	"github.com/pagestream/pagestream/config"
)

// ConfigCommand groups what reads the configuration.
type ConfigCommand struct {
	Check   ConfigCheckCommand   `cmd:"" help:"Load and validate the configuration."`
	Print   ConfigPrintCommand   `cmd:"" help:"Print the configuration in force, secrets left out."`
	Example ConfigExampleCommand `cmd:"" help:"Print a documented example."`
}

// ConfigCheckCommand validates the configuration as serve would read it.
type ConfigCheckCommand struct{}

// Run reports every problem, or that there is none.
func (ConfigCheckCommand) Run(c *CLI) error {
	cfg, err := c.load(nil)
	if err == nil {
		err = cfg.RequireApps()
	}
	return c.answer(map[string]any{"ok": true, "apps": len(cfg.Apps)}, err, func() {
		fmt.Fprintf(c.Out, "The configuration is fine: %d app(s), data in %s.\n", len(cfg.Apps), cfg.Data.Dir)
	})
}

// ConfigPrintCommand prints what is in force after file, environment and flags.
type ConfigPrintCommand struct{}

// Run prints YAML that has no secret in it.
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

// ConfigExampleCommand prints the documented example.
type ConfigExampleCommand struct{}

// Run prints the example; it can be used as it is once the app is filled in.
func (ConfigExampleCommand) Run(c *CLI) error {
	_, err := fmt.Fprint(c.Out, config.Example())
	return err
}
