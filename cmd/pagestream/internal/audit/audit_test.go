package audit

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/projectionstest"
	"github.com/pagestream/pagestream/streams"
)

func options(r *projectionstest.Rig, door deliveries.Counts) Options {
	o := Options{JS: r.JS, Stream: streams.Name, Ledger: func() deliveries.Counts { return door }, Wait: time.Second}
	for _, m := range r.Models {
		o.Models = append(o.Models, m)
	}
	return o
}

func fill(t *testing.T, n int) *projectionstest.Rig {
	t.Helper()
	r := projectionstest.NewRig(t, deliveries.New())
	r.Models = append(r.Models, r.Build(t, nil, pages.New())...)
	for i := range n {
		r.Publish(t, domain.Event{
			ID: fmt.Sprint("e", i), Type: domain.MessageReceived, Page: "700", Contact: "31", Data: domain.Data{Source: sourceWebhook},
		})
	}
	return r
}

// TestPasses: ids are told apart just the same where they don't fit in memory at
// once, and nothing is counted twice.
func TestPasses(t *testing.T) {
	r := fill(t, 20)
	for _, per := range []uint64{0, 20, 7, 1} {
		o := options(r, deliveries.Counts{Items: 20, Stored: 20})
		o.PerPass = per
		report, err := Run(t.Context(), o, nil)
		require.NoError(t, err)
		assert.True(t, report.OK, "%+v", report.Problems)
		assert.Equal(t, Stream{Events: 20, Webhook: 20}, report.Stream)
	}
}

// TestDoor: what was counted at the door has to be in the stream, and its sums
// have to be right.
func TestDoor(t *testing.T) {
	r := fill(t, 5)
	for what, c := range map[string]struct {
		door    deliveries.Counts
		problem string
	}{
		"all of it":       {deliveries.Counts{Items: 5, Stored: 5}, ""},
		"a later ledger":  {deliveries.Counts{Items: 3, Stored: 3}, ""},
		"lost":            {deliveries.Counts{Items: 6, Stored: 6}, "6 items were stored"},
		"unaccounted for": {deliveries.Counts{Items: 6, Stored: 5}, "6 items were accepted, but 5 stored and 0 known already"},
	} {
		report, err := Run(t.Context(), options(r, c.door), nil)
		require.NoError(t, err)
		assert.Equal(t, c.problem == "", report.OK, what)
		if c.problem != "" {
			require.Len(t, report.Problems, 1, what)
			assert.Contains(t, report.Problems[0].What, c.problem)
		}
		assert.Equal(t, 5-min(5, c.door.Stored), report.Door.Uncounted, what)
	}
}

// TestNoDeliveries: without the model that counts there is nothing to prove.
func TestNoDeliveries(t *testing.T) {
	r := fill(t, 1)
	o := options(r, deliveries.Counts{})
	o.Models = o.Models[1:]
	_, err := Run(t.Context(), o, nil)
	require.ErrorIs(t, err, errNoDeliveries)
}

// TestClosed: a read model that can not be read is an error.
func TestClosed(t *testing.T) {
	r := fill(t, 3)
	o := options(r, deliveries.Counts{})
	require.NoError(t, r.Models[1].Close())
	report, err := Run(t.Context(), Options{JS: o.JS, Stream: o.Stream, Ledger: o.Ledger, Wait: o.Wait, Models: o.Models[:1]}, nil)
	require.NoError(t, err)
	assert.True(t, report.OK)
	_, err = Run(t.Context(), o, nil)
	require.Error(t, err, "a closed file can't be audited")
}
