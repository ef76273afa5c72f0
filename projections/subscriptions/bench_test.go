package subscriptions_test

import (
	"testing"

	"github.com/pagestream/pagestream/projections/projectionstest"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

// BenchmarkBatch applies batches as a server under load does. One operation is one batch.
func BenchmarkBatch(b *testing.B) { projectionstest.Bench(b, subscriptions.New()) }
