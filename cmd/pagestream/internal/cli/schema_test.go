package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
)

// TestEventsSchemaNeedsNoServer checks the list of types, the schema of each, and the error for another name.
func TestEventsSchemaNeedsNoServer(t *testing.T) {
	run := func(args ...string) (int, string, string) {
		var out, errs bytes.Buffer
		code := Main(t.Context(), append([]string{"events", "schema"}, args...), nil, &out, &errs)
		return code, out.String(), errs.String()
	}
	code, out, _ := run()
	require.Equal(t, ExitOK, code)
	names := strings.Fields(out)
	require.Len(t, names, len(domain.Types()))
	for _, name := range names {
		code, out, errs := run(name)
		require.Equal(t, ExitOK, code, errs)
		want, err := streams.Schema(domain.Type(name))
		require.NoError(t, err)
		require.Equal(t, string(want), out)
	}

	code, out, _ = run("--json")
	require.Equal(t, ExitOK, code)
	var types []domain.Type
	require.NoError(t, json.Unmarshal([]byte(out), &types))
	assert.Equal(t, domain.Types(), types)

	code, _, errs := run("message.pinned")
	assert.Equal(t, ExitUsage, code)
	assert.Contains(t, errs, `"message.pinned" is not an event type; one is message.`)
}
