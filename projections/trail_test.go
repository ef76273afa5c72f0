package projections

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// TestTrailRowIsThatOfEncodingJSON checks that rows have the same bytes and are read as with encoding/json, so that
// those of earlier versions can be read and the other way round.
func TestTrailRowIsThatOfEncodingJSON(t *testing.T) {
	odd := rapid.SampledFrom([]string{"", "\xff", `"`})
	ids := rapid.OneOf(rapid.StringMatching("[0-9a-f]{32}"), rapid.String(), odd)
	fingerprints := rapid.Custom(func(t *rapid.T) streams.Fingerprint {
		seq, at := rapid.Uint64().Draw(t, "seq"), rapid.Int64().Draw(t, "at")
		return streams.Fingerprint{Seq: seq, ID: ids.Draw(t, "id"), At: at}
	})
	rapid.Check(t, func(t *rapid.T) {
		row := trailRow{rapid.SliceOfN(fingerprints, 0, 40).Draw(t, "trail")}
		want, err := store.AppendJSON([]byte("before"), &row.Trail)
		require.NoError(t, err)
		got, err := row.AppendBinary([]byte("before"))
		require.NoError(t, err)
		require.Equal(t, string(want), string(got))
		got = got[len("before"):]
		sameTrail(t, got)
		sameTrail(t, got[:rapid.IntRange(0, len(got)).Draw(t, "cut")])
	})
}

// FuzzTrailRow checks that any bytes are read as with encoding/json.
func FuzzTrailRow(f *testing.F) {
	last := streams.Fingerprint{Seq: math.MaxUint64, ID: "0af2", At: math.MaxInt64}
	row := trailRow{streams.Trail{{}, {Seq: 1, ID: "0af1", At: -5}, last}}
	b, err := row.AppendBinary(nil)
	require.NoError(f, err)
	f.Add(b)
	for _, s := range []string{"", "null", "[]", "[,]", `[{"seq":1}]`, `[{"seq":1,"id":"a","at":2},]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) { sameTrail(t, b) })
}

func sameTrail(t require.TestingT, b []byte) {
	var want streams.Trail
	wantErr := json.Unmarshal(b, &want)
	var got trailRow
	require.Equal(t, wantErr, got.UnmarshalBinary(b), "%s", b)
	require.Equal(t, want, got.Trail, "%s", b)
}
