// Command pagestream takes the webhooks of many Facebook Pages, makes each
// item an event in NATS JetStream once, and projects the events into read
// models.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// main is thin so that tests can run everything else in process.
func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := Main(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
