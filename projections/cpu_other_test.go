//go:build !unix

package projections_test

import (
	"testing"
	"time"
)

// processorTime returns 0: it is known on Unix only.
func processorTime(testing.TB) time.Duration { return 0 }
