package server_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
)

// TestMain lets the test binary act as the real command: tests that kill a process start the
// test binary with PAGESTREAM_TEST_RUN_MAIN set. It also fails the run if a log contains a secret.
func TestMain(m *testing.M) {
	// The command starts itself without this variable to check a file and in `bench --against`. The
	// arguments of a test binary begin with a flag.
	if os.Getenv("PAGESTREAM_TEST_RUN_MAIN") != "" || len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		_ = os.Unsetenv("PAGESTREAM_TEST_RUN_MAIN")
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		code := cli.Program(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr, cli.Build{})
		stop()
		os.Exit(code)
	}
	// Tests wait for disks and timers most of the time.
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == fmt.Sprint(runtime.GOMAXPROCS(0)) {
		_ = f.Value.Set(fmt.Sprint(2 * runtime.GOMAXPROCS(0)))
	}
	code := m.Run()
	stopBrowser()
	os.Exit(reportLeaks(code, os.Stderr))
}
