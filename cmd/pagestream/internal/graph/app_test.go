package graph_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
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

func TestSubscribeApp(t *testing.T) {
	s := start(t, success)
	sub := graph.AppSubscription{Object: "page", CallbackURL: "https://x/webhooks/main", Fields: []string{"messages", "standby"}}
	require.NoError(t, s.client().SubscribeApp(t.Context(), sub, verifyToken))
	r := s.requests[0]
	assert.Equal(t, "POST", r.method)
	assert.Equal(t, "/v25.0/"+appID+"/subscriptions", r.path)
	for name, want := range map[string]string{
		"object": "page", "callback_url": "https://x/webhooks/main", "fields": "messages,standby", "include_values": "true",
		"verify_token": verifyToken,
	} {
		assert.Equal(t, want, r.params.Get(name), name)
	}

	// Graph asked the callback, and it gave the wrong answer.
	s = start(t, answer{400, `{"error":{"code":2200,"message":"(#2200) Callback verification failed: ` + verifyToken + `"}}`})
	err := s.client().SubscribeApp(t.Context(), sub, verifyToken)
	refusal := meta.Refused(err)
	require.NotNil(t, refusal)
	assert.Equal(t, 2200, refusal.Code)
	assert.NotContains(t, err.Error(), verifyToken)
	assert.Len(t, s.requests, 1)

	s = start(t, success)
	require.NoError(t, s.client().UnsubscribeApp(t.Context(), "page"))
	assert.Equal(t, "DELETE", s.requests[0].method)
	assert.Equal(t, "page", s.requests[0].params.Get("object"))
}
