package graph_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
)

func TestAppSubscriptions(t *testing.T) {
	s := start(t, answer{200, `{"data":[
		{"object":"page","callback_url":"https://x/webhooks/main","active":true,"fields":[{"name":"standby","version":"v25.0"},{"name":"messages","version":"v25.0"},"messages",{"version":"v25.0"}]},
		{"object":"instagram","callback_url":"https://y","active":"false"}
	]}`})
	got, err := s.client().AppSubscriptions(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []graph.AppSubscription{
		{Object: "page", CallbackURL: "https://x/webhooks/main", Fields: []string{"messages", "standby"}, Active: true},
		{Object: "instagram", CallbackURL: "https://y", Fields: []string{}},
	}, got)
	assert.Equal(t, "/v25.0/"+appID+"/subscriptions", s.requests[0].path)
	assert.Equal(t, appID+"|"+appSecret, s.requests[0].auth)

	for _, body := range []string{`{}`, `{"data":[{"object":"page","fields":[5]}]}`, `{"data":{}}`} {
		_, err = start(t, answer{200, body}).client().AppSubscriptions(t.Context())
		assert.ErrorIs(t, err, graph.ErrAnswer, body)
	}
}
