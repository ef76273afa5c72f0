package deliveries_test

import (
	"testing"

	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/projections/projectionstest"
)

func TestProjectionSuite(t *testing.T) {
	projectionstest.Run(t, func() projections.Projection { return deliveries.New() }, nil)
}
