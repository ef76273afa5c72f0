//go:build !linux

package bench

import "os/exec"

const flagDSync = 0

// isolate does nothing: [RunAgainst] needs Linux.
func isolate(*exec.Cmd) {}
