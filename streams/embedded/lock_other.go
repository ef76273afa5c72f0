//go:build !unix || solaris || aix

package embedded

import "os"

// takeLock does nothing, since this platform has no flock. The operator must not run two processes on
// one directory.
func takeLock(*os.File) error { return nil }

// releaseLock does nothing.
func releaseLock(*os.File) error { return nil }
