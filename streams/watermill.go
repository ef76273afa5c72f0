package streams

import (
	"log/slog"

	"github.com/ThreeDotsLabs/watermill"
)

// WatermillLogger returns a logger for a part of watermill. Its errors have the
// given level, what it says of its own steps is for debugging.
func WatermillLogger(l *slog.Logger, failed slog.Level) watermill.LoggerAdapter {
	return watermill.NewSlogLoggerWithLevelMapping(l, map[slog.Level]slog.Level{
		slog.LevelInfo: slog.LevelDebug, slog.LevelError: failed,
	})
}
