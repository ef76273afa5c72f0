package api

import (
	"bufio"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/projections"
)

func (f *fakeOperator) Statuses() []projections.Status { return []projections.Status{{Name: "pages"}} }

// TestFeedOfStatuses checks that the first status is sent at once, that the number of
// feeds is limited, and that Close ends all feeds.
func TestFeedOfStatuses(t *testing.T) {
	s := New(Options{Tokens: fileTokens(t), Operator: &fakeOperator{}, Metrics: http.NotFoundHandler()})
	mux := http.NewServeMux()
	s.Register(mux)
	srv := httptest.NewServer(mux)
	defer srv.Close()
	defer s.Close()
	open := func() *http.Response {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+"/api/v1/projections", nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Accept", "text/event-stream")
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		t.Cleanup(func() { _ = resp.Body.Close() })
		return resp
	}
	first := open()
	line, err := bufio.NewReader(first.Body).ReadString('\n')
	require.NoError(t, err)
	assert.Equal(t, "event: projections\n", line)
	for range maxFeeds - 1 {
		assert.Equal(t, http.StatusOK, open().StatusCode)
	}
	full := open()
	assert.Equal(t, http.StatusServiceUnavailable, full.StatusCode)
	b, err := io.ReadAll(full.Body)
	require.NoError(t, err)
	assert.Contains(t, string(b), "64 feeds are open already")
	s.Close()
	_, err = io.Copy(io.Discard, first.Body)
	assert.NoError(t, err, "the response ended properly")
}
