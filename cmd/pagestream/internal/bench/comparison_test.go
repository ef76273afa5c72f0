package bench

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// sampleComparison returns a comparison with every kind of row.
func sampleComparison() Comparison {
	c := Comparison{
		Version: "pagestream 0.2.0 go1.26", Against: "pagestream 0.1.0 go1.26", Binary: "/opt/pagestream-0.1.0",
		At: time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC), Took: 361.4, Cell: 3, Rounds: 3, Events: 200_000,
		Machine: Machine{CPUs: 2, Go: "go1.26", OS: "linux", Arch: "amd64", FsyncP50: 150, FsyncP99: 900, EventBytes: 967},
		Pages:   50, Contacts: 5000, Duplicates: 20, Syncs: "not counted, since strace is not installed: apt install strace",
		Rows: []Row{}, Notes: []string{},
	}
	cell := cell{64, 1, 20}
	for _, figure := range []string{"rate", "p50", "syncs"} {
		c.Rows = append(c.Rows, cell.row(figure))
	}
	for round := range 3 {
		n := float64(round)
		c.add(cell.row("rate"), whoBare, 20_000+n)
		c.add(cell.row("rate"), whoThis, 3000*(n+1))
		c.add(cell.row("rate"), whoAgainst, 2000+100*(n-1))
		c.add(cell.row("p50"), whoThis, 5)
		c.add(cell.row("p50"), whoAgainst, 20)
	}
	c.add(Row{Name: "grow/idle", Unit: "% of a CPU", Better: Lower}, whoThis, 0.5)
	c.add(Row{Name: "grow/idle", Unit: "% of a CPU", Better: Lower}, whoAgainst, 0)
	c.add(Row{Name: "catch-up/rate", Unit: "events/s", Better: Higher}, whoThis, 12_345)
	c.note("catch-up of %s was not measured: %s", whoAgainst, "it has none")
	c.note("catch-up of %s was not measured: %s", whoAgainst, "it has none")
	return c
}

func TestComparisonTable(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, sampleComparison().WriteTable(&out))
	golden(t, "against.txt", out.Bytes())
}

// TestComparisonKeys pins the JSON keys that other programs read.
func TestComparisonKeys(t *testing.T) {
	raw, err := json.Marshal(sampleComparison())
	require.NoError(t, err)
	for _, key := range []string{
		`"version":"pagestream 0.2.0 go1.26"`, `"against":"pagestream 0.1.0 go1.26"`, `"binary":`, `"cell_s":3`,
		`"rounds":3`, `"events":200000`, `"duplicates_percent":20`, `"syncs":"not counted`, `"fsync_p50_us":150`,
		`{"name":"64c/1i/rate","unit":"events/s","better":"higher","this":{"median":6000,"rounds":[3000,6000,9000]},` +
			`"against":{"median":2000,"rounds":[1900,2000,2100]},"bare":{"median":20001,"rounds":[20000,20001,20002]},"ratio":3}`,
		`{"name":"64c/1i/syncs","unit":"per event","better":"lower","this":null,"against":null,"bare":null,"ratio":0}`,
		`"notes":["catch-up of against was not measured: it has none"]`,
	} {
		require.Contains(t, string(raw), key)
	}
}

func TestMedian(t *testing.T) {
	require.Zero(t, median(nil))
	require.InDelta(t, 3, median([]float64{9, 3, 1}), 0)
	require.InDelta(t, 2.5, median([]float64{4, 1, 3, 2}), 0)
}
