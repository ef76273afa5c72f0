package streamstest

import (
	"flag"
	"os"

	_ "pgregory.net/rapid" // has the flag, and reads the environment variable
)

// Volume returns how many events or rounds a test takes: full, or raced under the race detector, which makes a
// test several times slower. raced must still show what the test is about.
func Volume(full, raced int) int {
	if Race {
		return raced
	}
	return full
}

// racedChecks is how often a property is checked under the race detector if nobody says how often. Without it
// rapid's own number holds.
const racedChecks = "25"

func init() {
	if Race && os.Getenv("RAPID_CHECKS") == "" {
		_ = flag.Set("rapid.checks", racedChecks) // the command line is read later, and takes precedence
	}
}
