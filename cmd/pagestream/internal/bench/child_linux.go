package bench

import (
	"os/exec"
	"syscall"
)

// flagDSync is the flag of a file that is synced by writing to it; O_SYNC includes it.
const flagDSync = syscall.O_DSYNC

// isolate gives a process a group of its own, so that an interrupt from the terminal
// reaches only this process, which then kills the whole group. The process is also
// killed if this one ends without that.
func isolate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
