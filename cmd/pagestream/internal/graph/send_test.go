package graph_test

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
)

func TestSend(t *testing.T) {
	ctx := t.Context()
	s := start(t, answer{200, read(t, "send_api_ok.json")})
	m := outgoing
	m.MessagingType, m.Tag = "MESSAGE_TAG", "HUMAN_AGENT"
	got, err := s.client().Send(ctx, page, token, m)
	require.NoError(t, err)
	assert.Equal(t, graph.Sent{RecipientID: contact, MessageID: "m_AG5Hz2U"}, got)
	r := s.requests[0]
	assert.Equal(t, "POST /v25.0/"+page+"/messages", r.method+" "+r.path)
	assert.JSONEq(t, string(m.Recipient), r.params.Get("recipient"))
	assert.JSONEq(t, string(m.Message), r.params.Get("message"))
	assert.Equal(t, "MESSAGE_TAG", r.params.Get("messaging_type"))
	assert.Equal(t, "HUMAN_AGENT", r.params.Get("tag"))
	assert.False(t, r.params.Has("sender_action"))

	// The answer to an action has no message id.
	s = start(t, answer{200, `{"recipient_id":` + contact + `}`})
	got, err = s.client().Send(ctx, page, token, graph.Outgoing{Recipient: m.Recipient, SenderAction: "typing_on"})
	require.NoError(t, err)
	assert.Equal(t, graph.Sent{RecipientID: contact}, got)
	assert.Equal(t, "typing_on", s.requests[0].params.Get("sender_action"))
	assert.False(t, s.requests[0].params.Has("message"))

	_, err = start(t, answer{200, `{"recipient_id":"1"}`}).client().Send(ctx, page, token, m)
	assert.ErrorIs(t, err, graph.ErrAnswer)
}

// A message that may have been sent is not sent again.
func TestSendIsNotRepeated(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"no answer": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"half an answer": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write([]byte(`{"mess`))
		},
		"unreadable": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`<html>`)) },
		"502":        func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) },
		"code 2": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"error":{"code":2,"is_transient":true}}`))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			n := 0
			s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { n++; handler(w, r) })
			_, err := s.client().Send(t.Context(), page, token, outgoing)
			require.Error(t, err)
			s.Close()
			assert.Equal(t, 1, n)
			assert.Empty(t, s.slept)
		})
	}
	// After a rate limit error nothing was sent, so the call is repeated.
	s := start(t, answer{400, `{"error":{"code":613}}`}, success)
	got, err := s.client().Send(t.Context(), page, token, outgoing)
	require.NoError(t, err)
	assert.Equal(t, "m_1", got.MessageID)
	assert.Len(t, s.requests, 2)
}

// Graph may quote the message in its error.
func TestRefusedMessagesAreNotQuoted(t *testing.T) {
	s := start(
		t,
		answer{400, `{"error":{"code":100,"message":"Bad: ` + text + `, https://x.example/private, Choose Ann Smith"}}`},
	)
	_, err := s.client().Send(t.Context(), page, token, graph.Outgoing{
		Recipient: outgoing.Recipient,
		Message: json.RawMessage(`{"text":"` + text + `","quick_replies":[{"title":"Choose Ann Smith"}],
			"attachment":{"type":"template","payload":{"url":"https://x.example/private"}}}`),
	})
	require.Equal(t, meta.Parameter, meta.ClassOf(err))
	for _, private := range []string{text, "private", "Ann"} {
		assert.NotContains(t, err.Error(), private)
	}
}

func TestProfile(t *testing.T) {
	for _, c := range []struct {
		instagram    bool
		body, fields string
		want         graph.Profile
	}{
		{false, read(t, "fbmessenger-hs_userProfileInfoResponse.json"), "name,first_name,last_name,profile_pic", graph.Profile{Name: "Peter Chang"}},
		{false, `{"name":"Peter C.","first_name":"Peter","profile_pic":"https://p"}`, "name,first_name,last_name,profile_pic", graph.Profile{Name: "Peter C.", Picture: "https://p"}},
		{true, `{"username":"peter","profile_pic":"https://p"}`, "name,username,profile_pic", graph.Profile{Name: "peter", Picture: "https://p"}},
		{true, `{"id":"` + contact + `"}`, "name,username,profile_pic", graph.Profile{}},
	} {
		s := start(t, answer{200, c.body})
		got, err := s.client().Profile(t.Context(), page, token, contact, c.instagram)
		require.NoError(t, err)
		if c.want.Picture == "" {
			got.Picture = ""
		}
		assert.Equal(t, c.want, got)
		assert.Equal(t, "/v25.0/"+contact, s.requests[0].path)
		assert.Equal(t, c.fields, s.requests[0].params.Get("fields"))
	}
	c := start(t, answer{400, `{"error":{"code":100,"error_subcode":2018218}}`}).client()
	_, err := c.Profile(t.Context(), page, token, contact, false)
	assert.Equal(t, meta.NoProfile, meta.ClassOf(err))
}

func TestObservations(t *testing.T) {
	var seen []graph.Observation
	watch := func(o *graph.Options) {
		o.Observe = func(b graph.Observation) {
			assert.Positive(t, b.Took)
			b.Took = 0
			seen = append(seen, b)
		}
	}
	s := start(t, answer{500, `{"error":{"code":2}}`}, answer{400, `{"error":{"code":100}}`})
	_, err := s.client(watch).DebugToken(t.Context(), input)
	require.Error(t, err)
	s.Close()
	_, err = s.client(watch).AppSubscriptions(t.Context())
	require.ErrorIs(t, err, graph.ErrUnreachable)
	_, err = s.client(watch).Profile(t.Context(), "me", token, contact, false)
	require.Error(t, err)
	assert.Equal(t, []graph.Observation{
		{Method: "POST", Edge: "debug_token", Status: 400, Code: 100, Retries: 1},
		{Method: "GET", Edge: "subscriptions"},
	}, seen)
	assert.Len(t, s.slept, 1)
	assert.LessOrEqual(t, s.slept[0], time.Second)
}
