package comments_test

import (
	"slices"
	"testing"

	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/comments"
	"github.com/pagestream/pagestream/projections/projectionstest"
	"github.com/pagestream/pagestream/streams"
)

// changes returns n generated events that the projection applies.
func changes(seed uint64, n int) []streams.Stored {
	events := slices.DeleteFunc(projectionstest.Events(seed, 30*n), func(e streams.Stored) bool {
		return !slices.Contains(comments.Types(), e.Type)
	})[:n]
	for i := range events {
		events[i].Seq = uint64(i + 1)
	}
	return events
}

func TestProjectionSuite(t *testing.T) {
	projectionstest.Run(t, func() projections.Projection { return comments.New() }, changes(1, 400))
}
