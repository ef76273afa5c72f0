package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/pagestream/pagestream/projections/store"
)

// Bounds of the process that checks a file. The check itself ends with its context.
const (
	checkMemory  = 256 << 20
	checkStack   = 16 << 20
	checkEnd     = 2 * time.Second
	maxCheckText = 1 << 10
)

// CheckFileCommand checks a file of a read model. The server starts it as a process of its
// own, so that nothing in a damaged file can end the server.
type CheckFileCommand struct {
	Path string `arg:"" help:"The file."`
}

// Run prints what is damaged. It fails if anything is.
func (f CheckFileCommand) Run(c *CLI) error {
	runtime.GOMAXPROCS(1)
	debug.SetMemoryLimit(checkMemory)
	debug.SetMaxStack(checkStack)
	return store.CheckFile(c.ctx, f.Path)
}

// checkInChild runs [CheckFileCommand] on a file. A check that ends in any other way than
// with success has found the file damaged. If the process can't be started, the file is
// checked by this one.
func checkInChild(ctx context.Context, path string) error {
	self, err := os.Executable()
	if runtime.GOOS == "linux" {
		self = "/proc/self/exe" // also after the program's file was replaced
	}
	if err != nil {
		return store.CheckFile(ctx, path)
	}
	out := &strings.Builder{}
	cmd := exec.CommandContext(ctx, self, "check-file", path) //nolint:gosec // it is this program
	cmd.Env, cmd.Stderr, cmd.WaitDelay = []string{}, out, checkEnd
	if err := cmd.Start(); err != nil {
		return store.CheckFile(ctx, path)
	}
	err = cmd.Wait()
	if err == nil || ctx.Err() != nil {
		return errors.Join(err, ctx.Err())
	}
	text := strings.TrimSpace(out.String())
	first, _, _ := strings.Cut(text[:min(len(text), maxCheckText)], "\n")
	return fmt.Errorf("%w: %s: %w", store.ErrCorrupt, strings.TrimPrefix(first, "pagestream: "), err)
}
