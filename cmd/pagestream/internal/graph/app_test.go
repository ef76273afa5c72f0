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
	assert.Equal(t, []meta.AppSubscription{
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
	const verifyToken = "k9Vw3xQz-of-the-handshake"
	s := start(t,
		answer{200, `{"success":"true"}`},
		answer{400, `{"error":{"code":2200,"message":"(#2200) Callback verification failed: ` + verifyToken + " " +
			appID + "|" + appSecret + `"}}`},
		answer{200, `{"success":false}`},
	)
	want := meta.AppSubscription{Object: "page", CallbackURL: "https://x/webhooks/main", Fields: []string{"feed", "messages"}}
	require.NoError(t, s.client().SubscribeApp(t.Context(), want, verifyToken))
	got := s.requests[0]
	assert.Equal(t, "POST", got.method)
	assert.Equal(t, "/v25.0/"+appID+"/subscriptions", got.path)
	assert.Equal(t, appID+"|"+appSecret, got.auth)
	assert.Equal(t, "page", got.params.Get("object"))
	assert.Equal(t, want.CallbackURL, got.params.Get("callback_url"))
	assert.Equal(t, "feed,messages", got.params.Get("fields"))
	assert.Equal(t, verifyToken, got.params.Get("verify_token"))

	err := s.client().SubscribeApp(t.Context(), want, verifyToken)
	require.ErrorContains(t, err, "2200")
	assert.NotContains(t, err.Error(), verifyToken)
	assert.NotContains(t, err.Error(), appSecret)
	require.ErrorIs(t, s.client().SubscribeApp(t.Context(), want, verifyToken), graph.ErrAnswer)
	want.Fields = nil
	require.ErrorIs(t, s.client().SubscribeApp(t.Context(), want, verifyToken), graph.ErrNoFields)
	assert.Len(t, s.requests, 3)
}
