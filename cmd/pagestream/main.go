// Command pagestream takes the webhooks of many Facebook Pages, makes each
// item an event in NATS JetStream once, and projects the events into read
// models.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
)

// gcPercent lets the heap grow to three times what lives before it is swept: a
// server has much garbage and little that stays, some tens of megabytes, and the
// sweeping took a tenth of the processor under load.
const gcPercent = 200

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Main(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
