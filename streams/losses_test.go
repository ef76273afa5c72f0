package streams_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/streams"
)

// TestLostBlocksAreFound deletes a block of a stopped server, and checks which sequences
// are found to be lost: not those that were erased before. An acceptance hides them, and
// no others.
func TestLostBlocksAreFound(t *testing.T) {
	for name, c := range map[string]struct {
		block string
		want  []streams.Range
		lost  uint64
	}{
		"first":  {"1.blk", []streams.Range{{From: 1, To: 55}}, 53},
		"middle": {"2.blk", []streams.Range{{From: 56, To: 110}}, 55},
		"last":   {"4.blk", []streams.Range{{From: 166, To: 200}}, 35},
	} {
		t.Run(name, func(t *testing.T) {
			s, list := filled(t, 199, 25_000)
			// Two of the first block are erased, one at its edge; one of the third too.
			erase(t, s, true, list[4], list[29], list[149])
			lost := func() streams.Losses {
				l, err := streams.Lost(t.Context(), s.JS, streams.Name)
				require.NoError(t, err)
				return l
			}
			require.Equal(t, streams.Losses{Ranges: []streams.Range{}, Last: 200}, lost(), "erased is not lost")
			s.Halt(t)
			blocks, err := filepath.Glob(filepath.Join(s.Dir, "jetstream", "*", "streams", streams.Name, "msgs", "*.blk"))
			require.NoError(t, err)
			require.Len(t, blocks, 4)
			require.NoError(t, os.Remove(filepath.Join(filepath.Dir(blocks[0]), c.block)))
			s.Start(t)
			if name == "last" { // the record of the erasure is lost as well
				c.want = append([]streams.Range{{From: 5, To: 5}, {From: 30, To: 30}, {From: 150, To: 150}}, c.want...)
				c.lost += 3
			}
			require.Equal(t, streams.Losses{Events: c.lost, Ranges: c.want, Last: 200}, lost())

			require.NoError(t, streams.AcceptLoss(t.Context(), s.JS, streams.Name, "somebody", lost()))
			require.Equal(t, streams.Losses{Ranges: []streams.Range{}, Accepted: c.lost, Last: 200}, lost())
			e, err := streams.Get(t.Context(), s.JS, streams.Name, 120)
			require.NoError(t, err)
			erase(t, s, false, e)
			require.Equal(t, streams.Losses{
				Events: 1, Ranges: []streams.Range{{From: 120, To: 120}}, Accepted: c.lost, Last: 200,
			}, lost(), "another one")
			require.NoError(t, streams.AcceptLoss(t.Context(), s.JS, streams.Name, "somebody", lost()))
			require.Zero(t, lost().Events)
			// A stream that is made again has lost nothing yet.
			s.DeleteStream(t, streams.Name)
			s.Stream(t, streams.Spec{})
			add(t, s, "new", 1)
			require.Equal(t, streams.Losses{Ranges: []streams.Range{}, Last: 1}, lost())
		})
	}
}

func TestLossesAreNamed(t *testing.T) {
	l := streams.Losses{Events: 60, Ranges: []streams.Range{{From: 3, To: 3}, {From: 50, To: 108}}}
	require.Equal(t, "60 events, in 3, 50-108", l.String())
	for i := range uint64(20) {
		l.Ranges = append(l.Ranges, streams.Range{From: 1000 + 2*i, To: 1000 + 2*i})
	}
	require.Contains(t, l.String(), "1014 and 12 more ranges")
}
