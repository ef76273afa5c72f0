package graph_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
)

func TestConversations(t *testing.T) {
	s := start(t, answer{200, read(t, "conversations_page1.json")}, answer{200, `{"data":[]}`})
	c := s.client()
	list, next, err := c.Conversations(t.Context(), page, token, "messenger", "", 50)
	require.NoError(t, err)
	assert.Equal(t, "d", next)
	require.Len(t, list, 1)
	at := time.Date(2026, 11, 20, 10, 33, 13, 0, time.UTC)
	m := list[0].Messages[0]
	assert.JSONEq(t, `"m_AbC1"`, string(mustField(t, m.Raw, "id")), "raw is the message as Graph wrote it")
	m.Raw = nil
	assert.Equal(t, graph.Message{ID: "m_AbC1", Created: at, From: contact, To: []string{page}, Text: "hi"}, m)
	assert.Equal(t, thread, list[0].ID)
	assert.Equal(t, at, list[0].Updated)
	assert.Equal(t, "b", list[0].After)
	r := s.requests[0]
	assert.Equal(t, "/v25.0/"+page+"/conversations", r.path)
	assert.Equal(t, "messenger", r.params.Get("platform"))
	assert.Equal(t, "50", r.params.Get("limit"))
	assert.Contains(t, r.params.Get("fields"), "messages.limit(20){id,created_time,from,to,message,attachments,")

	list, next, err = c.Conversations(t.Context(), page, token, "instagram", next, 0)
	require.NoError(t, err)
	assert.Empty(t, list)
	assert.Empty(t, next)
	assert.Equal(t, "d", s.requests[1].params.Get("after"))
	assert.Equal(t, "25", s.requests[1].params.Get("limit"))

	for name, body := range map[string]string{
		"no time":     `{"data":[{"id":"t_1"}]}`,
		"no id":       `{"data":[{"updated_time":"2026-11-20T10:33:13+0000"}]}`,
		"an alias":    `{"data":[{"id":"me","updated_time":"2026-11-20T10:33:13+0000"}]}`,
		"a path":      `{"data":[{"id":"t_1/../../x","updated_time":"2026-11-20T10:33:13+0000"}]}`,
		"no data":     `{}`,
		"no cursor":   `{"data":[],"paging":{"next":"https://x/"}}`,
		"no cursor 2": `{"data":[{"id":"t_1","updated_time":"2026-11-20T10:33:13+0000","messages":{"data":[],"paging":{"next":"https://x/"}}}]}`,
		"no message":  `{"data":[{"id":"t_1","updated_time":"2026-11-20T10:33:13+0000","messages":{"data":["x"]}}]}`,
	} {
		_, _, err = start(t, answer{200, body}).client().Conversations(t.Context(), page, token, "messenger", "", 10)
		assert.ErrorIs(t, err, graph.ErrAnswer, name)
	}
}

func mustField(t *testing.T, b json.RawMessage, name string) json.RawMessage {
	t.Helper()
	var fields map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(b, &fields))
	return fields[name]
}

func TestMessages(t *testing.T) {
	const reference = "2026-11-20T11:33:13+01:00"
	s := start(t, answer{200, `{"data":[
		{"id":"m_1","created_time":"2026-11-20T10:33:13+0000","from":{"id":6543210987654321},"to":{"data":[{"id":"` + page + `"},{"id":5}]},"reply_to":{"mid":"m_0"},
		 "attachments":{"data":[
			{"id":"1","mime_type":"image/jpeg","name":"a.jpg","image_data":{"url":"https://i","preview_url":"https://p"}},
			{"mime_type":"video/mp4","name":"v.mp4","video_data":{"url":"https://v"}},
			{"mime_type":"audio/mpeg","file_url":"https://a"},
			{"mime_type":"application/pdf","name":"x.pdf","file_url":"https://f"},
			{}]}},
		{"id":"m_2","created_time":"` + reference + `","sticker":"https://s","is_unsupported":true},
		{"id":"m_3","created_time":17,"from":"odd","message":5,"attachments":[],"to":null}
	],"paging":{"cursors":{"after":"z"},"next":"https://x/?access_token=` + token + `"}}`})
	list, next, err := s.client().Messages(t.Context(), page, token, thread, "y")
	require.NoError(t, err)
	assert.Equal(t, "z", next)
	require.Len(t, list, 3)
	for i := range list {
		assert.True(t, json.Valid(list[i].Raw))
		list[i].Raw = nil
	}
	at := time.Date(2026, 11, 20, 10, 33, 13, 0, time.UTC)
	assert.Equal(t, []graph.Message{
		{ID: "m_1", Created: at, From: contact, To: []string{page, "5"}, ReplyTo: "m_0", Attachments: []graph.Attachment{
			{Type: "image", URL: "https://i", Name: "a.jpg"},
			{Type: "video", URL: "https://v", Name: "v.mp4"},
			{Type: "audio", URL: "https://a"},
			{Type: "file", URL: "https://f", Name: "x.pdf"},
			{Type: "file"},
		}},
		{ID: "m_2", Created: at, Sticker: "https://s", Unsupported: true},
		{ID: "m_3"}, // only members of an unexpected type are left out
	}, list)
	r := s.requests[0]
	assert.Equal(t, "/v25.0/"+thread+"/messages", r.path)
	assert.Equal(t, "y", r.params.Get("after"))
	assert.NotContains(t, r.params.Get("fields"), "limit")

	s = start(t, success)
	for _, id := range []string{"aWdfZAG06MTpJR01l-_==", "t_1"} {
		_, _, err = s.client().Messages(t.Context(), page, token, id, "")
		require.NoError(t, err)
	}
	for _, id := range []string{"t_1/x", "t_1?x", "..", "t_%31", "t 1", "t_ä", strings.Repeat("t", 513)} {
		_, _, err = s.client().Messages(t.Context(), page, token, id, "")
		assert.ErrorIs(t, err, graph.ErrConversation)
	}
}

// Graph uses code 1 both for "Please reduce the amount of data you're asking for" and
// for temporary failures.
func TestPageSizeIsHalvedOnCode1(t *testing.T) {
	much := answer{
		500,
		`{"error":{"code":1,"message":"Please reduce the amount of data you're asking for, then retry your request"}}`,
	}
	limits := func(s *server) (list []string) {
		for _, r := range s.requests {
			list = append(list, r.params.Get("limit"))
		}
		return list
	}
	ask := func(s *server, limit int) error {
		_, _, err := s.client().Conversations(t.Context(), page, token, "messenger", "", limit)
		return err
	}
	s := start(t, much, much, success)
	require.NoError(t, ask(s, 40))
	assert.Equal(t, []string{"40", "20", "10"}, limits(s))

	s = start(t, much)
	assert.Equal(t, meta.Transient, meta.ClassOf(ask(s, 500)))
	assert.Equal(t, []string{"100", "50", "25", "25", "25", "25"}, limits(s), "and then as for every passing failure")

	s = start(t, much)
	require.Error(t, ask(s, 1))
	assert.Equal(t, []string{"1", "1", "1", "1"}, limits(s))

	s = start(t, much, success)
	_, _, err := s.client().Messages(t.Context(), page, token, thread, "")
	require.NoError(t, err)
	assert.Equal(t, []string{"20", "10"}, limits(s))
}

func TestConversationCallsAreLimitedToTwoASecond(t *testing.T) {
	s := start(t, success)
	c := s.client()
	began := s.now
	for i := range 11 {
		if i%2 == 1 {
			_, _, err := c.Messages(t.Context(), page, token, thread, "")
			require.NoError(t, err)
			continue
		}
		_, _, err := c.Conversations(t.Context(), page, token, "messenger", "", 10)
		require.NoError(t, err)
	}
	assert.Equal(t, 5*time.Second, s.now.Sub(began))
	// Calls for another page, and other calls for this page, don't wait.
	_, _, err := c.Conversations(t.Context(), "77", token, "messenger", "", 10)
	require.NoError(t, err)
	require.NoError(t, calls["Profile"](t.Context(), c))
	assert.Equal(t, 5*time.Second, s.now.Sub(began))

	// Concurrent calls queue up, as long as no wait exceeds MaxWait.
	s = start(t, success)
	c = s.client(func(o *graph.Options) { o.Sleep, o.MaxWait = nil, time.Nanosecond })
	ask := func() error {
		_, _, err := c.Conversations(t.Context(), page, token, "messenger", "", 10)
		return err
	}
	require.NoError(t, ask())
	for range 3 {
		err := ask()
		held := meta.Refused(err)
		require.NotNil(t, held)
		assert.Equal(t, meta.Throttled, held.Class())
		assert.True(t, held.Held)
		assert.Equal(t, 500*time.Millisecond, held.RetryAfter(), "one that did not wait took a place")
	}
	s.now = s.now.Add(500 * time.Millisecond)
	require.NoError(t, ask())
	assert.Len(t, s.requests, 2, fmt.Sprint(s.requests))
}
