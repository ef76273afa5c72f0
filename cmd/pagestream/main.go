// Command pagestream receives the webhooks of many Facebook Pages, stores each item exactly once as
// an event in NATS JetStream, and projects the events into read models.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
)

// gcPercent lets the heap grow to three times the live heap before a garbage collection. A server
// has much garbage and a small live heap of some tens of megabytes, and collections took a tenth of
// the processor time under load.
const gcPercent = 200

// A release sets these with -ldflags "-X main.version=… -X main.commit=… -X main.date=…". Without them, the command
// version prints what the Go toolchain recorded.
var version, commit, date string

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Program(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr,
		cli.Build{Version: version, Commit: commit, Date: date})
	stop()
	os.Exit(code)
}
