package fakegraph_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
)

// scriptedRun returns the bytes that an engine POSTs in a run that uses every option
// and switch.
func scriptedRun(t *testing.T, seed uint64) []byte {
	t.Helper()
	s := newStepped(t, newFixture(t, nil), func(o *fakegraph.EngineOptions) {
		o.Seed, o.Rate = seed, 50
		o.Duplicates, o.Reorder, o.Standby, o.NumericIDs, o.OddTimes, o.EditsFirst = 20, 20, 10, 10, 10, 10
	})
	s.SetAppFields(app, "instagram", instagramFields)
	s.SetSubscription(app, page1, messaging...)
	s.SetSubscription(app, page2, "messages", "message_echoes")
	s.steps(5)
	psid := s.Contacts(page1)[0]
	_, err := s.Say(page1, psid, "said")
	require.NoError(t, err)
	s.call("POST", "/"+page1+"/messages", s.pageToken(user, page1), "recipient", `{"id":"`+psid+`"}`,
		"message", `{"text":"sent"}`)
	s.steps(2)
	s.SetDelivery(false)
	s.steps(2)
	s.SetDelivery(true)
	s.SetQuiet(page2, true)
	s.SetStandby(page1, true)
	s.steps(3)
	require.NoError(t, s.SendTest(t.Context()))
	return bytes.Join(s.bodies, []byte("\n"))
}

func TestSameSeedSameBytes(t *testing.T) {
	first := scriptedRun(t, 7)
	for _, part := range []string{
		`"object":"page"`, `"object":"instagram"`, `"text":"said"`, `"text":"sent"`,
		`"random_mid"`,
	} {
		assert.Contains(t, string(first), part)
	}
	assert.Equal(t, string(first), string(scriptedRun(t, 7)))
	assert.NotEqual(t, string(first), string(scriptedRun(t, 8)))
}
