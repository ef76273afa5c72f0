package server_test

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/conversations"
)

// caseFile returns a payload of the folder cases next to the repository. The test is
// skipped if there is none.
func caseFile(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "..", "..", "..", "shared", "cases", name+".json"))
	if os.IsNotExist(err) {
		t.Skip("there are no cases next to the repository")
	}
	require.NoError(t, err)
	return b
}

// postCases sends deliveries of the folder cases, in order.
func (r *running) postCases(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), caseFile(t, name)), name)
	}
}

func TestCasesOfLostFacts(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t.TempDir()))
	for range 2 { // the second time, each delivery is a repeated one
		r.postCases(t, "edit_without_text_1_message", "edit_without_text_2_edit", "label_again_1", "label_again_2",
			"label_again_3", "feedback_without_time_1", "feedback_without_time_2")
	}
	m := r.messages(t, "7001", "8101")
	require.Len(t, m, 1)
	require.Equal(t, "see you at six", m[0].Text)
	c, err := conversations.Get(r.Model("conversations"), "7001", "8101")
	require.NoError(t, err)
	require.Equal(t, "see you at six", c.Last.Text)
	require.Equal(t, map[domain.Type]int{
		domain.LabelAdded: 2, domain.LabelRemoved: 1, domain.FeedbackReceived: 2,
	}, r.events(t, "7002"))
}

// TestReactionOfTheBusiness checks that its contact is the person, where the entry is the
// page and both ends are Instagram ids: the linked account is known from the connection.
func TestReactionOfTheBusiness(t *testing.T) {
	t.Parallel()
	g, cfg := newFakeMeta(t, 1, func(o *fakegraph.Options) {
		o.Pages[0].Instagram = "500"
	})
	r := start(t, cfg)
	r.connectAll(t, g)
	body := `{"object":"instagram","entry":[{"id":"7000","time":1790000000000,"messaging":[` +
		`{"sender":{"id":"9"},"recipient":{"id":"500"},"timestamp":1790000000000,"message":{"mid":"m","text":"hi"}},` +
		`{"sender":{"id":"500"},"recipient":{"id":"9"},"timestamp":1790000000001,` +
		`"reaction":{"mid":"m","action":"react","reaction":"love"}}]}]}`
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), []byte(body)))
	m := r.messages(t, "7000", "9")
	require.Len(t, m, 1)
	require.Equal(t, "love", m[0].Reactions["500"].Reaction)
}
