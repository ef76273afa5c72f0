package subscriptions_test

import (
	"testing"

	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/projectionstest"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

func TestProjectionSuite(t *testing.T) {
	projectionstest.Run(t, func() projections.Projection { return subscriptions.New() }, nil)
}
