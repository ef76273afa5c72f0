package streams

import (
	"log/slog"

	"github.com/ThreeDotsLabs/watermill"
)

// WatermillLogger returns a logger for watermill's routers and subscribers. It logs watermill's errors
// at the given level, and its info messages at debug level.
func WatermillLogger(l *slog.Logger, errorLevel slog.Level) watermill.LoggerAdapter {
	return watermill.NewSlogLoggerWithLevelMapping(l, map[slog.Level]slog.Level{
		slog.LevelInfo: slog.LevelDebug, slog.LevelError: errorLevel,
	})
}
