package audit

import (
	"context"
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

func options(r *projectionstest.Rig, ledger deliveries.Counts) Options {
	o := Options{JS: r.JS, Stream: streams.Name, Ledger: func() deliveries.Counts { return ledger }, Wait: time.Second}
	for _, m := range r.Models {
		o.Models = append(o.Models, m)
	}
	return o
}

// newFixture returns a stream of n webhook events, with two read models.
func newFixture(t *testing.T, n int) *projectionstest.Rig {
	t.Helper()
	r := projectionstest.NewRig(t, deliveries.New())
	r.Models = append(r.Models, r.Build(t, nil, pages.New())...)
	for i := range n {
		r.Publish(t, domain.Event{
			ID: fmt.Sprint("e", i), Type: domain.MessageReceived, Page: "700", Contact: "31",
			Data: domain.Data{Source: domain.SourceWebhook},
		})
	}
	return r
}

// TestSeveralPassesGiveTheSameCounts checks that a stream with more ids than fit in
// memory is read in several passes, and that nothing is counted twice.
func TestSeveralPassesGiveTheSameCounts(t *testing.T) {
	r := newFixture(t, 20)
	for _, per := range []uint64{0, 20, 7, 1} {
		o := options(r, deliveries.Counts{Items: 20, Stored: 20})
		o.PerPass = per
		report, err := Run(t.Context(), o, nil)
		require.NoError(t, err)
		assert.True(t, report.OK, "%+v", report.Problems)
		assert.Equal(t, Stream{Events: 20, Webhook: 20}, report.Stream)
	}
}

// TestLedgerIsComparedWithTheStream checks that items which the ledger counts as
// stored must be in the stream, and that the ledger's sums must be right.
func TestLedgerIsComparedWithTheStream(t *testing.T) {
	r := newFixture(t, 5)
	for name, c := range map[string]struct {
		ledger  deliveries.Counts
		problem string
	}{
		"everything is counted": {deliveries.Counts{Items: 5, Stored: 5}, ""},
		"ledger began later":    {deliveries.Counts{Items: 3, Stored: 3}, ""},
		"event is lost":         {deliveries.Counts{Items: 6, Stored: 6}, "6 items were stored"},
		"sums differ": {
			deliveries.Counts{Items: 6, Stored: 5}, "6 items were accepted, but 5 stored and 0 known already",
		},
	} {
		report, err := Run(t.Context(), options(r, c.ledger), nil)
		require.NoError(t, err)
		assert.Equal(t, c.problem == "", report.OK, name)
		if c.problem != "" {
			require.Len(t, report.Problems, 1, name)
			assert.Contains(t, report.Problems[0].What, c.problem)
		}
		assert.Equal(t, 5-min(5, c.ledger.Stored), report.Intake.Uncounted, name)
	}
}

// TestAllLedgersAreComparedWithTheStream checks that what other nodes have stored counts: without it their events would
// hide the loss of as many.
func TestAllLedgersAreComparedWithTheStream(t *testing.T) {
	r := newFixture(t, 5)
	mine := deliveries.Counts{Items: 3, Stored: 3, LastSeq: 4}
	for name, c := range map[string]struct {
		other    deliveries.Counts
		problems []string
	}{
		"everything is counted": {deliveries.Counts{Items: 2, Stored: 2, LastSeq: 5}, nil},
		"the last ones are not": {deliveries.Counts{Items: 1, Stored: 1}, nil},
		"an event is lost":      {deliveries.Counts{Items: 3, Stored: 3, LastSeq: 5}, []string{"6 items were stored"}},
		"the end is lost": {
			deliveries.Counts{Items: 1, Stored: 1, LastSeq: 6},
			[]string{"event 6 was acknowledged by n2, the stream ends at 5"},
		},
		"sums differ": {deliveries.Counts{Items: 2, Stored: 1}, []string{"2 items were accepted by n2, but 1 stored"}},
	} {
		o := options(r, mine)
		o.Others = func(context.Context) ([]deliveries.Published, error) {
			return []deliveries.Published{{Ledger: "b", Node: "n2", Counts: c.other}}, nil
		}
		report, err := Run(t.Context(), o, nil)
		require.NoError(t, err)
		require.Len(t, report.Problems, len(c.problems), name)
		for i, has := range c.problems {
			assert.Contains(t, report.Problems[i].What, has, name)
		}
		require.Len(t, report.Others, 1)
		assert.Equal(t, c.other.Stored, report.Others[0].Stored)
		assert.Equal(t, 5-min(5, mine.Stored+c.other.Stored), report.Intake.Uncounted, name)
	}
	o := options(r, mine)
	o.Others = func(context.Context) ([]deliveries.Published, error) { return nil, errNoDeliveries }
	_, err := Run(t.Context(), o, nil)
	require.ErrorIs(t, err, errNoDeliveries, "an audit without the others would prove less than it says")
}

// TestDeliveriesModelIsRequired checks that an audit without the deliveries model
// fails.
func TestDeliveriesModelIsRequired(t *testing.T) {
	r := newFixture(t, 1)
	o := options(r, deliveries.Counts{})
	o.Models = o.Models[1:]
	_, err := Run(t.Context(), o, nil)
	require.ErrorIs(t, err, errNoDeliveries)
}

// TestClosedModelIsAnError checks that the audit fails if a read model can't be read.
func TestClosedModelIsAnError(t *testing.T) {
	r := newFixture(t, 3)
	o := options(r, deliveries.Counts{})
	require.NoError(t, r.Models[1].Close())
	first := o
	first.Models = o.Models[:1]
	report, err := Run(t.Context(), first, nil)
	require.NoError(t, err)
	assert.True(t, report.OK)
	_, err = Run(t.Context(), o, nil)
	require.Error(t, err, "a closed file can't be audited")
}
