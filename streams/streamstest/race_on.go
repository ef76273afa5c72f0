//go:build race

package streamstest

// Race reports whether the race detector is on.
const Race = true

// Slower is how many times longer something may take than without the race detector.
const Slower = 2
