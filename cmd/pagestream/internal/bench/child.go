package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/procfs"

	"github.com/pagestream/pagestream/internal/backoff"
)

const (
	// againstSecret is the app secret of the servers that are compared. They listen on
	// the loopback interface only.
	againstSecret = "f3Kq7Zt1Wn9Xb5Rd2Ls8" //nolint:gosec // used by the bench only
	// killedIn is how long a killed process may take to end.
	killedIn = 10 * time.Second
	// askedIn is how long `BINARY version` may take.
	askedIn = 10 * time.Second
	// shownLog is how much of a server's log an error shows, in bytes.
	shownLog = 1 << 10
)

// againstConfig is the configuration of a server: the keys that every version has and
// that must differ from the defaults, so that each version runs with its own.
const againstConfig = `data: {dir: %q}
keys: {file: %q}
http: {public: %q, private: %q, token_file: %q}
log: {level: warn}
apps:
  - {name: bench, id: "900", secrets: [%q], verify_token: h8Yb4NcXe6Ud1sGm, graph_url: "http://127.0.0.1:1"}
`

// child is a process. It and what it has started are killed when the context ends with
// which it was spawned, and when this process ends.
type child struct {
	cmd   *exec.Cmd
	log   string
	ended chan struct{}
}

// spawn starts a program with its output in the file log. It gets no setting of
// pagestream from the environment.
func spawn(ctx context.Context, log, program string, args ...string) (*child, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create log: %w", err)
	}
	defer out.Close()
	c := &child{cmd: exec.CommandContext(ctx, program, args...), log: log, ended: make(chan struct{})} //nolint:gosec // the program is the operator's choice
	c.cmd.Stdout, c.cmd.Stderr, c.cmd.Env, c.cmd.WaitDelay = out, out, environment(), killedIn
	isolate(c.cmd)
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = c.cmd.Wait() // failure has the reason from the state
		close(c.ended)
	}()
	return c, nil
}

// environment returns the environment without pagestream's own variables.
func environment() []string {
	env := []string{}
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "PAGESTREAM_") {
			env = append(env, v)
		}
	}
	return env
}

// failure returns why the process has ended, with the end of its log; nil if it runs.
func (c *child) failure() error {
	select {
	case <-c.ended:
	default:
		return nil
	}
	text, _ := os.ReadFile(c.log) // without it the error is less helpful
	text = text[max(0, len(text)-shownLog):]
	return fmt.Errorf("%w (%s): %s", errEnded, c.cmd.ProcessState, strings.TrimSpace(string(text)))
}

// errEnded is returned when a process has ended without being asked to.
var errEnded = errors.New("the process has ended by itself")

// stop ends the process pid, which is the child or was started by it, and waits for the
// child. It is killed when the context ends, which is an error unless it had ended before.
func (c *child) stop(ctx context.Context, pid int) error {
	asked := ctx.Err() == nil
	if err := c.failure(); err != nil && asked {
		return err
	}
	if p, err := os.FindProcess(pid); err == nil && asked {
		_ = p.Signal(syscall.SIGTERM) // it may have ended meanwhile
	}
	select {
	case <-c.ended:
		return nil
	case <-ctx.Done():
	}
	_ = c.cmd.Cancel()
	select {
	case <-c.ended:
		if !asked {
			return nil
		}
		return fmt.Errorf("killed, since it did not end: %w", ctx.Err())
	case <-time.After(killedIn):
		return fmt.Errorf("process %d did not end after it was killed", pid)
	}
}

// usage is what a process has used.
type usage struct {
	// cpu is the processor time of all threads that it has and had, in user and in
	// kernel mode, in steps of 10 ms. That of processes which it has started is not in it.
	cpu time.Duration
	// rss is the resident set in bytes.
	rss int64
}

// usageOf reads what a process has used from a /proc file system.
func usageOf(proc string, pid int) (usage, error) {
	fs, err := procfs.NewFS(proc)
	if err != nil {
		return usage{}, fmt.Errorf("read processor time: %w", err)
	}
	p, err := fs.Proc(pid)
	if err != nil {
		return usage{}, fmt.Errorf("read processor time: %w", err)
	}
	stat, err := p.Stat()
	if err != nil {
		return usage{}, fmt.Errorf("read processor time: %w", err)
	}
	return usage{
		cpu: time.Duration(stat.CPUTime() * float64(time.Second)), rss: int64(stat.ResidentMemory()),
	}, nil
}

// contender is one of the programs that are compared.
type contender struct {
	who     string // this, against or bare
	program string
	dir     string
	*system // while it runs
	child   *child
	pid     int
	events  int // how many events were acknowledged so far
}

// bare reports whether it is the bare handler, which has no API and stores nothing.
func (c *contender) bare() bool { return c.who == whoBare }

func (c *contender) models() string { return filepath.Join(c.dir, "data", "projections") }

func (c *contender) config() string { return filepath.Join(c.dir, "pagestream.yaml") }

// start starts the program and returns when it answers. If trace is not empty, strace
// writes its syncs to that file.
func (c *contender) start(ctx context.Context, trace string) (err error) {
	public, private, err := freeAddresses(ctx)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return fmt.Errorf("create directory: %w", err)
	}
	args := []string{BareHandler, public}
	token := filepath.Join(c.dir, "admin.token")
	if !c.bare() {
		text := fmt.Sprintf(againstConfig, filepath.Join(c.dir, "data"), filepath.Join(c.dir, "keys.json"),
			public, private, token, againstSecret)
		if err := os.WriteFile(c.config(), []byte(text), 0o600); err != nil {
			return fmt.Errorf("write configuration: %w", err)
		}
		args = []string{"serve", "--config", c.config()}
	}
	program := c.program
	if trace != "" {
		program, args = straceProgram, straceArgs(trace, program, args)
	}
	if c.child, err = spawn(ctx, filepath.Join(c.dir, "log"), program, args...); err != nil {
		return fmt.Errorf("start %s: %w", c.program, err)
	}
	c.pid = c.child.cmd.Process.Pid
	c.system = &system{dir: c.dir, api: newClient(4), System: &System{
		Public: public, Private: private, Secret: againstSecret,
		Close: func(ctx context.Context) error { return c.child.stop(ctx, c.pid) },
	}}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start %s: %w", c.program, err), c.end(ctx))
		}
	}()
	if err := c.waitFor(ctx, token); err != nil {
		return err
	}
	if trace != "" {
		c.pid, err = tracedProcess(trace)
	}
	return err
}

// waitFor waits until the program answers.
func (c *contender) waitFor(ctx context.Context, tokenFile string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := c.answers(ctx, tokenFile)
		if err == nil {
			return nil
		}
		if failure := c.child.failure(); failure != nil {
			return failure
		}
		if ctxErr := backoff.Sleep(ctx, 5*time.Millisecond); ctxErr != nil {
			return fmt.Errorf("wait for its answer: %w (%w)", ctxErr, err)
		}
	}
}

// answers tries whether the program answers.
func (c *contender) answers(ctx context.Context, tokenFile string) error {
	if c.bare() {
		return c.api.warm(ctx, "http://"+c.Public)
	}
	token, err := os.ReadFile(tokenFile)
	if err != nil {
		return fmt.Errorf("read token: %w", err)
	}
	c.Token = strings.TrimSpace(string(token))
	_, _, err = c.head(ctx)
	return err
}

// end stops the program if it runs.
func (c *contender) end(ctx context.Context) error {
	if c.system == nil {
		return nil
	}
	s := c.system
	c.system = nil
	if ctx.Err() != nil { // the process was killed
		s.api.close()
		return s.Close(ctx)
	}
	return s.stop(ctx)
}

func (c *contender) usage() (usage, error) { return usageOf(procfs.DefaultMountPoint, c.pid) }

// freeAddresses returns two addresses of the loopback interface whose ports were free a
// moment ago. Versions differ in how they say which port they chose themselves.
func freeAddresses(ctx context.Context) (one, other string, err error) {
	var out [2]string
	for i := range out {
		var lc net.ListenConfig
		ln, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return "", "", fmt.Errorf("find free port: %w", err)
		}
		defer ln.Close() //nolint:gocritic // the second one must be another
		out[i] = ln.Addr().String()
	}
	return out[0], out[1], nil
}

// versionOf returns the first line that `PROGRAM version` prints.
func versionOf(ctx context.Context, program string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askedIn)
	defer cancel()
	out, err := output(ctx, program, "version")
	line, _, _ := strings.Cut(strings.TrimSpace(out), "\n")
	if err == nil && !strings.HasPrefix(line, "pagestream ") {
		err = errors.New("it is no pagestream")
	}
	if err != nil {
		return "", fmt.Errorf("%w: %s version: %w; give --against the file of a pagestream program", ErrOptions, program, err)
	}
	return line[:min(len(line), 100)], nil
}

// output runs a command of a program to its end and returns what it has printed.
func output(ctx context.Context, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...) //nolint:gosec // the program is the operator's choice
	cmd.Env, cmd.WaitDelay = environment(), killedIn
	out, err := cmd.Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) && len(failed.Stderr) > 0 {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(failed.Stderr[:min(len(failed.Stderr), shownLog)])))
	}
	return string(out), err
}
