package bench

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// straceProgram is the program that shows the syncs of another process.
const straceProgram = "strace"

// straceArgs returns the arguments with which strace starts a program and writes its
// syncs to a file. Other system calls are not delayed. The paths of opened files are
// written too, since a file with O_SYNC is synced by writing to it.
func straceArgs(file, program string, args []string) []string {
	return append([]string{
		"-f", "--seccomp-bpf", "-qqq", "-e", "signal=none", "-o", file,
		"-e", "trace=?fsync,?fdatasync,?sync_file_range,?syncfs,?sync,?msync,?open,?openat,?creat",
		program,
	}, args...)
}

// tracedProcess returns the process that strace has started: the first one in its file.
func tracedProcess(file string) (int, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, fmt.Errorf("read strace's output: %w", err)
	}
	first, _, _ := bytes.Cut(text, []byte(" "))
	pid, err := strconv.Atoi(string(first))
	if err != nil {
		return 0, errors.New("read strace's output: it does not begin with a process")
	}
	return pid, nil
}

// syncsIn returns how many syncs strace has written to its file so far.
func syncsIn(file string) (int, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, fmt.Errorf("count syncs: %w", err)
	}
	return countSyncs(string(text)), nil
}

// countSyncs counts the syncs in strace's output: each call that syncs, and each file
// that is opened with O_SYNC or O_DSYNC, which is written once. A call that another
// thread interrupts has two lines, of which the first one counts.
func countSyncs(text string) (n int) {
	for line := range strings.Lines(text) {
		_, call, _ := strings.Cut(strings.TrimSpace(line), " ") // after the thread
		name, args, ok := strings.Cut(strings.TrimSpace(call), "(")
		failed := strings.HasPrefix(line[strings.LastIndex(line, " = ")+1:], "= -1")
		switch {
		case !ok, failed, strings.HasPrefix(name, "<..."):
		case name != "open" && name != "openat" && name != "creat",
			strings.Contains(args, "O_SYNC"), strings.Contains(args, "O_DSYNC"):
			n++
		}
	}
	return n
}

// syncedFiles returns how many files a process has open with O_SYNC or O_DSYNC. Writes
// to them are syncs that countSyncs does not see.
func syncedFiles(proc string, pid int) (n int, err error) {
	dir := filepath.Join(proc, strconv.Itoa(pid), "fdinfo")
	list, err := os.ReadDir(dir)
	if err != nil {
		return 0, fmt.Errorf("list open files: %w", err)
	}
	for _, e := range list {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // it was closed meanwhile
		}
		for line := range strings.Lines(string(text)) {
			value, ok := strings.CutPrefix(line, "flags:")
			if !ok {
				continue
			}
			flags, err := strconv.ParseUint(strings.TrimSpace(value), 8, 64)
			if err == nil && flags&flagDSync != 0 {
				n++
			}
		}
	}
	return n, nil
}
