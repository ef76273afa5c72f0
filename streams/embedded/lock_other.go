//go:build !unix || solaris || aix

package embedded

import "os"

// takeLock does nothing: where there is no flock, two processes on one
// directory are the operator's to prevent.
func takeLock(*os.File) error { return nil }
