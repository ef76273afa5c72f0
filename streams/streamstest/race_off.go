//go:build !race

package streamstest

// Race reports whether the race detector is on.
const Race = false

// slower is how many times longer a test may take than without the race detector.
const slower = 1
