package fakegraph

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestEscape(t *testing.T) {
	for in, want := range map[string]string{
		"äöå":           `"\u00e4\u00f6\u00e5"`,
		"https://a/b":   `"https:\/\/a\/b"`,
		"🙏":             `"\ud83d\ude4f"`,
		`a\/"`:          `"a\\\/\""`,
		"<b>&</b>":      `"<b>&<\/b>"`,
		"tab\tand\nend": `"tab\tand\nend"`,
	} {
		assert.Equal(t, want, string(marshal(in)), in)
	}
}

// TestEscapedValuesDecodeUnchanged checks that marshal returns ASCII that decodes to
// the same value.
func TestEscapedValuesDecodeUnchanged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := map[string]string{rapid.String().Draw(t, "key"): rapid.String().Draw(t, "value")}
		b := marshal(in)
		for _, c := range b {
			require.LessOrEqual(t, c, byte(0x7f), "%q has a byte beyond ASCII", b)
		}
		var out map[string]string
		require.NoError(t, json.Unmarshal(b, &out))
		want, err := json.Marshal(in)
		require.NoError(t, err)
		got, err := json.Marshal(out)
		require.NoError(t, err)
		require.Equal(t, string(want), string(got))
	})
}
