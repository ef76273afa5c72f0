//go:build linux

package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// disk is an ext4 file system in an image, mounted through a loop device.
type disk struct {
	image, dir string
	mounted    bool
}

// newDisk mounts a new disk of some MiB. It is unmounted, and the loop device detached, when the test ends.
func newDisk(t *testing.T, mib int64) *disk {
	t.Helper()
	d := &disk{image: filepath.Join(t.TempDir(), "disk.img"), dir: t.TempDir()}
	require.NoError(t, d.format(mib))
	t.Cleanup(d.remove)
	require.NoError(t, d.mount())
	return d
}

// format writes a file system without reserved blocks, so that root can fill it.
func (d *disk) format(mib int64) error {
	if err := os.WriteFile(d.image, nil, 0o600); err != nil {
		return fmt.Errorf("create image: %w", err)
	}
	if err := os.Truncate(d.image, mib<<20); err != nil {
		return fmt.Errorf("size image: %w", err)
	}
	return command("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", d.image)
}

// mount mounts the disk. The kernel detaches the loop device when it is unmounted.
func (d *disk) mount() error {
	err := command("mount", "-o", "loop", d.image, d.dir)
	d.mounted = err == nil
	return err
}

// unmount waits up to 10 s for the files of a killed process to be closed.
func (d *disk) unmount() error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := command("umount", d.dir)
		if err == nil || time.Now().After(deadline) {
			d.mounted = d.mounted && err != nil
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// remove unmounts the disk if it is mounted, even if it is in use, and deletes the image.
func (d *disk) remove() {
	if d.mounted && d.unmount() != nil {
		_ = command("umount", "--lazy", d.dir)
	}
	_ = os.Remove(d.image)
}

// EXT4_IOC_SHUTDOWN, and the flag that leaves out what the journal has in memory.
const (
	ioctlShutdown = 0x8004587d // _IOR('X', 125, uint32)
	noLogFlush    = 2
)

// cut takes the disk away as a power cut does: from now on nothing reaches it, neither what is in the page
// cache nor the journal's open transaction.
func (d *disk) cut() error {
	dir, err := os.Open(d.dir)
	if err != nil {
		return fmt.Errorf("open disk: %w", err)
	}
	defer dir.Close()
	if err := unix.IoctlSetPointerInt(int(dir.Fd()), ioctlShutdown, noLogFlush); err != nil {
		return fmt.Errorf("shut down the file system: %w", err)
	}
	return nil
}

// fill takes all space of the disk, but for what the program frees meanwhile.
func (d *disk) fill() error {
	f, err := os.Create(d.filler())
	if err != nil {
		return fmt.Errorf("create filler: %w", err)
	}
	defer f.Close()
	for size := 1 << 20; size >= 512; {
		_, err := f.Write(make([]byte, size))
		switch {
		case errors.Is(err, unix.ENOSPC):
			size /= 2
		case err != nil:
			return fmt.Errorf("write filler: %w", err)
		}
	}
	return nil
}

// free frees what fill took.
func (d *disk) free() error { return os.Remove(d.filler()) }

func (d *disk) filler() string { return filepath.Join(d.dir, "filler") }

// command runs a program of the system.
func command(name string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}
