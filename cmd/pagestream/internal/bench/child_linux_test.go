package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/procfs"
	"github.com/stretchr/testify/require"
)

// TestUsageOf reads a file of /proc whose command has spaces and brackets, and then
// compares that of this process with what the kernel says.
func TestUsageOf(t *testing.T) {
	proc := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(proc, "4711"), 0o700))
	stat := "4711 (a ) b (c) 7) S 1 4711 4711 0 -1 4194560 9000 11 0 0 1234 66 500 600 20 0 9 0 100 1000000 2500 " +
		"18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
	require.NoError(t, os.WriteFile(filepath.Join(proc, "4711", "stat"), []byte(stat), 0o600))
	got, err := usageOf(proc, 4711)
	require.NoError(t, err)
	require.Equal(t, 13*time.Second, got.cpu, "1234 + 66 hundredths, without those of its children")
	require.Equal(t, int64(2500*os.Getpagesize()), got.rss)
	_, err = usageOf(proc, 4712)
	require.ErrorContains(t, err, "read processor time")

	rusage := func() time.Duration {
		var r syscall.Rusage
		require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &r))
		return time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	for x, until := uint64(0), rusage()+50*time.Millisecond; rusage() < until; {
		x = mix(x)
	}
	before := rusage()
	got, err = usageOf(procfs.DefaultMountPoint, os.Getpid())
	require.NoError(t, err)
	after := rusage()
	const tick = 10 * time.Millisecond
	require.GreaterOrEqual(t, got.cpu, before-2*tick) // both times are rounded
	require.LessOrEqual(t, got.cpu, after+2*tick)
	require.Greater(t, got.rss, int64(1<<20))
}

func TestCountSyncs(t *testing.T) {
	text := `  812 openat(AT_FDCWD, "/etc/ld.so.cache", O_RDONLY|O_CLOEXEC) = 3
  812 fdatasync(7)                        = 0
12456 openat(AT_FDCWD, "a", O_WRONLY|O_CREAT|O_TRUNC|O_SYNC|O_CLOEXEC, 0640) = 9
12456 openat(AT_FDCWD, "b", O_RDWR|O_DSYNC|O_CLOEXEC <unfinished ...>
12457 fsync(8 <unfinished ...>
12456 <... openat resumed>)             = 10
12457 <... fsync resumed>)              = 0
12457 fsync(8)                          = -1 EIO (Input/output error)
12457 openat(AT_FDCWD, "none", O_WRONLY|O_SYNC) = -1 ENOENT (No such file or directory)
12457 syncfs(3)                         = 0
12457 msync(0x7f0000000000, 4096, MS_SYNC) = 0
12457 +++ exited with 0 +++
`
	require.Equal(t, 6, countSyncs(text))
	file := filepath.Join(t.TempDir(), "trace")
	require.NoError(t, os.WriteFile(file, []byte(text[2:]), 0o600))
	n, err := syncsIn(file)
	require.NoError(t, err)
	require.Equal(t, 6, n)
	pid, err := tracedProcess(file)
	require.NoError(t, err)
	require.Equal(t, 812, pid)
}

func TestSyncedFiles(t *testing.T) {
	before, err := syncedFiles(procfs.DefaultMountPoint, os.Getpid())
	require.NoError(t, err)
	for i, flag := range []int{0, syscall.O_DSYNC, syscall.O_SYNC} {
		f, err := os.OpenFile(filepath.Join(t.TempDir(), fmt.Sprint(i)), os.O_CREATE|os.O_WRONLY|flag, 0o600)
		require.NoError(t, err)
		t.Cleanup(func() { _ = f.Close() })
	}
	n, err := syncedFiles(procfs.DefaultMountPoint, os.Getpid())
	require.NoError(t, err)
	require.Equal(t, before+2, n)
}

// TestChild checks that a process and what it has started end when they are stopped and
// when the context ends, and that the error of one that ended by itself has its log.
func TestChild(t *testing.T) {
	dir := t.TempDir()
	gone := func(c *child) {
		t.Helper()
		ended := func() bool { return errors.Is(syscall.Kill(-c.cmd.Process.Pid, 0), syscall.ESRCH) }
		require.Eventually(t, ended, 10*time.Second, 5*time.Millisecond, "processes left")
	}
	log := filepath.Join(dir, "log")
	c, err := spawn(t.Context(), log, "/bin/sh", "-c", "echo address in use; exit 3")
	require.NoError(t, err)
	<-c.ended
	require.ErrorContains(t, c.failure(), "address in use")
	require.ErrorIs(t, c.stop(t.Context(), c.cmd.Process.Pid), errEnded)

	c, err = spawn(t.Context(), log, "/bin/sleep", "1000")
	require.NoError(t, err)
	require.NoError(t, c.failure())
	require.NoError(t, c.stop(t.Context(), c.cmd.Process.Pid))

	// A shell that ignores SIGTERM, and whose child holds the log open.
	const stubborn = `trap "" TERM; echo deaf; sleep 1000; sleep 1000`
	deaf := func() bool {
		text, err := os.ReadFile(log)
		return err == nil && strings.HasSuffix(string(text), "deaf\n")
	}
	ctx, cancel := context.WithCancel(t.Context())
	c, err = spawn(ctx, log, "/bin/sh", "-c", stubborn)
	require.NoError(t, err)
	require.Eventually(t, deaf, 10*time.Second, time.Millisecond)
	cancel()
	require.NoError(t, c.stop(ctx, c.cmd.Process.Pid))
	gone(c)

	require.NoError(t, os.Remove(log))

	c, err = spawn(t.Context(), log, "/bin/sh", "-c", stubborn)
	require.NoError(t, err)
	require.Eventually(t, deaf, 10*time.Second, time.Millisecond)
	ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, c.stop(ctx, c.cmd.Process.Pid), context.DeadlineExceeded)
	gone(c)
}

func TestVersionOf(t *testing.T) {
	for _, program := range []string{"/bin/echo", "/bin/false", filepath.Join(t.TempDir(), "none")} {
		_, err := versionOf(t.Context(), program)
		require.ErrorIs(t, err, ErrOptions, program)
		require.ErrorContains(t, err, program)
	}
	t.Setenv("PAGESTREAM_DATA_DIR", "x")
	require.NotContains(t, environment(), "PAGESTREAM_DATA_DIR=x")
}

func TestAgainstOptions(t *testing.T) {
	good := AgainstOptions{Dir: "d", This: "t", Against: "a"}
	require.NoError(t, good.complete())
	require.Equal(t, 3, good.Rounds)
	require.Equal(t, 3*time.Second, good.Cell)
	require.Equal(t, 200_000, good.Events)
	for name, change := range map[string]func(*AgainstOptions){
		"no directory": func(o *AgainstOptions) { o.Dir = "" },
		"no program":   func(o *AgainstOptions) { o.Against = "" },
		"no rounds":    func(o *AgainstOptions) { o.Rounds = -1 },
		"short cell":   func(o *AgainstOptions) { o.Cell = time.Millisecond },
		"few events":   func(o *AgainstOptions) { o.Events = 5 },
	} {
		o := AgainstOptions{Dir: "d", This: "t", Against: "a"}
		change(&o)
		_, err := RunAgainst(t.Context(), o)
		require.ErrorIs(t, err, ErrOptions, name)
	}
}

// TestTurns checks that every other turn has the reverse order.
func TestTurns(t *testing.T) {
	a := &comparing{
		this: &contender{who: whoThis}, against: &contender{who: whoAgainst}, bare: &contender{who: whoBare},
	}
	names := func(list []*contender) (out []string) {
		for _, c := range list {
			out = append(out, c.who)
		}
		return out
	}
	require.Equal(t, []string{whoThis, whoAgainst, whoBare}, names(a.turn(0)))
	require.Equal(t, []string{whoBare, whoAgainst, whoThis}, names(a.turn(1)))
	require.Equal(t, []string{whoThis, whoAgainst}, names(a.servers(2)))
	require.Equal(t, []string{whoAgainst, whoThis}, names(a.servers(3)))
}

// TestBareHandler checks that the process of the bare handler checks signatures and
// ends with its context.
func TestBareHandler(t *testing.T) {
	addr, _, err := freeAddresses(t.Context())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- ServeBare(ctx, addr) }()
	c := newClient(1)
	defer c.close()
	require.Eventually(t, func() bool { return c.warm(ctx, "http://"+addr) == nil }, 10*time.Second, 5*time.Millisecond)
	require.NoError(t, c.post(ctx, "http://"+addr+"/webhooks", sign(againstSecret, []byte("{}"))))
	require.ErrorIs(t, c.post(ctx, "http://"+addr+"/webhooks", sign(secret, []byte("{}"))), ErrAnswer)
	cancel()
	require.NoError(t, <-done)
}

// TestRefusedPosts checks that a tolerant blend counts POSTs that were answered 503 and
// does not take them for stored, that another one fails, and that growing sends them
// again.
func TestRefusedPosts(t *testing.T) {
	var posts, stored atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if posts.Add(1)%4 == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		stored.Add(1)
	}))
	defer s.Close()
	c := newClient(3)
	defer c.close()
	b := &blend{shots: make([]shot, 60), percent: 20, tolerant: true}
	p, err := c.fire(t.Context(), s.URL+"/webhooks", time.Minute, b)
	require.NoError(t, err)
	require.Equal(t, int(posts.Load()), p.n)
	require.Equal(t, p.n/4, b.refused)
	require.Equal(t, 60, b.fresh)
	require.Equal(t, 60-b.unstored, b.stored())
	require.LessOrEqual(t, b.unstored, b.refused)
	require.Positive(t, b.unstored)

	stored.Store(0)
	k := &contender{system: &system{System: &System{Public: s.Listener.Addr().String()}}}
	require.NoError(t, k.fill(t.Context(), time.Minute, make([]shot, 50)))
	require.Equal(t, int64(50), stored.Load())

	_, err = c.fire(t.Context(), s.URL+"/webhooks", time.Minute, &blend{shots: make([]shot, 60)})
	require.ErrorIs(t, err, errBusy)
	require.ErrorIs(t, err, ErrAnswer)
}
