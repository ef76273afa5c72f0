package main

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/pagestream/pagestream/config"
)

// newLogger returns the process's logger. Log lines go to stderr, so that
// stdout stays what a command was asked for.
func newLogger(cfg config.Log, w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Level)); err != nil {
		return nil, fmt.Errorf("log.level %q: write debug, info, warn or error", cfg.Level)
	}
	opts := &slog.HandlerOptions{Level: level}
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return slog.New(slog.NewTextHandler(w, opts)), nil
}
