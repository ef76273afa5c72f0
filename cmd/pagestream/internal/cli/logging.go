package cli

import (
	"fmt"
	"log/slog"

	"github.com/pagestream/pagestream/config"
)

// logger returns the process's logger. Log lines go to stderr, so that
// stdout stays what a command was asked for.
func (c *CLI) logger(cfg config.Log) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Level)); err != nil {
		return nil, fmt.Errorf("log.level %q: write debug, info, warn or error", cfg.Level)
	}
	opts := &slog.HandlerOptions{Level: level}
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(c.Err, opts)), nil
	}
	return slog.New(slog.NewTextHandler(c.Err, opts)), nil
}
