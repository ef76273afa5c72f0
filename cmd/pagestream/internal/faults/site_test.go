//go:build linux

package faults

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	// startLimit bounds the time from a start to the first 200.
	startLimit = 60 * time.Second
	// stopLimit is a little more than the default of http.shutdown_timeout.
	stopLimit = 25 * time.Second
	// restarts is how often a process that ends by itself is started again, as a service manager does.
	restarts = 3
	every    = 5 * time.Millisecond
)

// site is an installation of the program: its files, its process and the load on it.
type site struct {
	*trial

	dir  string // configuration, keys, tokens, log and acknowledgements; never on a disk under test
	data string // the data directory
	// settings are further lines of the configuration; start writes them.
	settings string
	// limits are commands of a shell before the program is started, for example ulimit -n 64.
	limits string
	// graph is the URL of Graph, if there is one.
	graph string
	// keys is the key file, if it is not the site's own.
	keys string
	// unsupervised is true if a process that ends by itself is not started again.
	unsupervised bool

	public, private string
	load            *load
	process         *process
	restarted       int
	faults          []fault
	// lost, doubled and disordered are what checks have found, by mid.
	lost, doubled, disordered map[string]string
}

// fault is when a fault was made: it began and was complete.
type fault struct{ began, ended time.Time }

// process is the program as a child process.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
	err   error // after ended
}

// site makes an installation with its data in a directory: none for one below the site's own.
func (f *trial) site(t *testing.T, data string) *site {
	t.Helper()
	dir := t.TempDir()
	if *work != "" {
		var err error
		dir, err = os.MkdirTemp(*work, f.name+"-") //nolint:usetesting // it is to stay
		require.NoError(t, err)
	}
	s := &site{
		trial: f, dir: dir, data: data, public: freeAddress(t), private: freeAddress(t),
		lost: map[string]string{}, doubled: map[string]string{}, disordered: map[string]string{},
	}
	if data == "" {
		s.data = filepath.Join(dir, "data")
	} else {
		require.NotEqual(t, device(t, data), device(t, dir), "acknowledgements are not written to the disk under test")
	}
	s.load = newLoad(t, s.public, filepath.Join(dir, "acknowledged.txt"))
	f.sites = append(f.sites, s)
	t.Cleanup(func() {
		s.load.stop(0)
		s.kill()
		if s.restarted > 0 {
			s.tell("%d restarts by the service manager", s.restarted)
		}
		if t.Failed() {
			t.Logf("answers: %v; the end of the log:\n%s", s.load.answers, s.logEnd())
		}
	})
	return s
}

// device returns the device number of a file.
func device(t *testing.T, path string) uint64 {
	t.Helper()
	var st syscall.Stat_t
	require.NoError(t, syscall.Stat(path, &st))
	return st.Dev
}

// freeAddress returns an address whose port was free a moment ago. The system gives nobody a port of this range by itself.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		ln, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", 20_000+rand.IntN(12_000)))
		if err == nil {
			require.NoError(t, ln.Close())
			return ln.Addr().String()
		}
	}
	require.Fail(t, "no port is free")
	return ""
}

func (s *site) config() string { return filepath.Join(s.dir, "pagestream.yaml") }

func (s *site) models() string { return filepath.Join(s.data, "projections") }

// stream returns the directory of the stream of events.
func (s *site) stream() string {
	return filepath.Join(s.data, "nats", "jetstream", "$G", "streams", "PAGESTREAM")
}

// start writes the configuration and starts the program. It does not wait for it.
func (s *site) start(t *testing.T) {
	t.Helper()
	text := fmt.Sprintf(`data: {dir: %q}
keys: {file: %q}
http: {public: %q, private: %q, token_file: %q}
apps:
  - {name: main, id: "1", secrets: [%q], verify_token: h8Yb4NcXe6Ud1sGm, graph_url: %q}
%s
`, s.data, cmp.Or(s.keys, s.keyFile()), s.public, s.private, s.tokenFile(), appSecret,
		cmp.Or(s.graph, "http://127.0.0.1:1"), s.settings)
	require.NoError(t, os.WriteFile(s.config(), []byte(text), 0o600))
	require.NoError(t, s.spawn())
}

// spawn starts the program.
func (s *site) spawn() error {
	log, err := os.OpenFile(s.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	defer log.Close() // the child has its own
	// exec replaces the shell, so that signals reach the program.
	cmd := exec.Command("/bin/sh", "-c", s.limits+"\nexec \"$0\" -c \"$1\" serve", s.binary, s.config())
	cmd.Stdout, cmd.Stderr = log, log
	// A terminal's Ctrl-C is for the suite, which then kills the program.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	s.process, err = startProcess(cmd)
	return err
}

// startProcess starts a command as a child process.
func startProcess(cmd *exec.Cmd) (*process, error) {
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

func (s *site) keyFile() string   { return filepath.Join(s.dir, "keys.json") }
func (s *site) log() string       { return filepath.Join(s.dir, "log.txt") }
func (s *site) tokenFile() string { return filepath.Join(s.dir, "admin.token") }

// logEnd returns the last lines of the program's log.
func (s *site) logEnd() string { return tail(s.log()) }

// tail returns the last lines of a file.
func tail(file string) string {
	text, _ := os.ReadFile(file)
	lines := strings.Split(string(text), "\n")
	return strings.Join(lines[max(0, len(lines)-25):], "\n")
}

// signal sends a signal to the program.
func (s *site) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	require.NoError(t, s.process.cmd.Process.Signal(sig))
}

// kill ends the program with SIGKILL, whatever it is doing.
func (s *site) kill() {
	if s.process == nil {
		return
	}
	_ = s.process.cmd.Process.Kill()
	<-s.process.ended
}

// ended waits for the program to end and returns its exit code; false if it didn't within a limit.
func (s *site) ended(limit time.Duration) (code int, ended bool) {
	select {
	case <-s.process.ended:
		return s.process.cmd.ProcessState.ExitCode(), true
	case <-time.After(limit):
		return 0, false
	}
}

// terminate sends SIGTERM, and requires that the program ends with 0.
func (s *site) terminate(t *testing.T) {
	t.Helper()
	s.signal(t, syscall.SIGTERM)
	code, ended := s.ended(stopLimit)
	require.True(t, ended, "SIGTERM ends the program within %s", stopLimit)
	require.Zero(t, code, "exit code after SIGTERM")
}

// fault marks now as the end of a fault that began at a time.
func (s *site) fault(t *testing.T, began time.Time) {
	t.Helper()
	f := fault{began: began, ended: time.Now()}
	s.faults = append(s.faults, f)
	require.NoError(t, s.load.markFault(f))
}

// eventually polls a condition until it returns nil. It returns its last error after a limit. A process that ends
// by itself meanwhile is started again.
func (s *site) eventually(limit time.Duration, condition func() error) error {
	ctx, cancel := context.WithTimeout(s.ctx, limit)
	defer cancel()
	for {
		if _, ended := s.ended(0); ended && !s.unsupervised && s.restarted < restarts {
			s.restarted++
			if err := s.spawn(); err != nil {
				return err
			}
		}
		err := condition()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("after %s: %w", limit, err)
		case <-time.After(every):
		}
	}
}

// awaitAcks waits until so many more messages are acknowledged.
func (s *site) awaitAcks(t *testing.T, more int) {
	t.Helper()
	want := s.load.count() + more
	require.NoError(t, s.eventually(startLimit, func() error {
		if n := s.load.count(); n < want {
			return fmt.Errorf("%d of %d messages are acknowledged", n, want)
		}
		return nil
	}))
}

// recovers waits for the next 200 after the fault, and notes how long it took.
func (s *site) recovers(limit time.Duration) error {
	return s.eventually(limit, func() error {
		took, ok := s.load.sinceFault()
		if !ok {
			return errors.New("no POST was answered with 200 since the fault")
		}
		s.slowest = max(s.slowest, took)
		return nil
	})
}

// ready reports whether GET /readyz answers 200.
func (s *site) ready() bool { return s.notReady() == "" }

// notReady returns why GET /readyz does not answer 200, or "".
func (s *site) notReady() string {
	ctx, cancel := context.WithTimeout(s.ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.private+"/readyz", nil)
	if err != nil {
		return err.Error()
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return ""
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	return resp.Status + " " + string(text)
}

// api sends a request to the private listener. The caller closes the body of the answer.
func (s *site) api(ctx context.Context, method, path string) (*http.Response, error) {
	token, err := os.ReadFile(s.tokenFile())
	if err != nil {
		return nil, fmt.Errorf("read admin token: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+s.private+path, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return resp, nil
}

// run runs a command of the program and returns its exit code and output.
func (s *site) run(args ...string) (code int, out string) {
	ctx, cancel := context.WithTimeout(s.ctx, 15*time.Minute) // verifying a long stream takes that long
	defer cancel()
	cmd := exec.CommandContext(ctx, s.binary, append([]string{"-c", s.config()}, args...)...)
	text, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return -1, err.Error()
	}
	return cmd.ProcessState.ExitCode(), string(text)
}
