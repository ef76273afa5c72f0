package fakegraph_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
)

var instagramFields = []string{
	"messages", "messaging_seen", "message_reactions", "message_edit", "messaging_postbacks", "messaging_referral",
	"standby",
}

func TestPeopleOnInstagram(t *testing.T) {
	s := newStepped(t, newFixture(t, nil), func(o *fakegraph.EngineOptions) { o.Rate = 100 })
	s.SetAppFields(app, "instagram", instagramFields)
	s.SetSubscription(app, page1, messaging...)
	s.SetSubscription(app, page2, messaging...) // no account
	s.steps(30)
	platform, kinds := map[string]string{}, map[string]int{}
	for _, i := range s.take() {
		sender, recipient := string(i.Sender.ID), string(i.Recipient.ID)
		person := sender
		if sender == `"`+i.entry+`"` {
			person = recipient
		} else {
			assert.Equal(t, `"`+i.entry+`"`, recipient, i.raw)
		}
		if platform[person] == "" {
			platform[person] = i.object
		}
		assert.Equal(t, platform[person], i.object, "a person is on two platforms")
		if i.object == "page" {
			continue
		}
		assert.Equal(t, instagram, i.entry)
		assert.Nil(t, i.Delivery, i.raw)
		switch {
		case i.Message != nil && i.Message.IsEcho:
			kinds["echo"]++
			assert.Nil(t, i.Message.AppID, i.raw)
		case i.Message != nil:
			kinds["message"]++
		case i.Read != nil:
			kinds["read"]++
			assert.NotEmpty(t, i.Read["mid"], i.raw)
			assert.NotContains(t, i.Read, "watermark")
		case i.Edit != nil:
			kinds["edit"]++
		case i.Reaction != nil:
			kinds["reaction"]++
		case i.Postback != nil:
			kinds["postback"]++
		case i.Referral != nil:
			kinds["referral"]++
		default:
			assert.Fail(t, "unexpected item", "%s", i.raw)
		}
	}
	for _, kind := range []string{"echo", "message", "read", "edit", "reaction", "postback", "referral"} {
		assert.Positive(t, kinds[kind], kind)
	}
	someone := s.Contacts(page1)[1]
	assert.Equal(t, "instagram", platform[`"`+someone+`"`])

	// A message of the Send API on Instagram is echoed there.
	s.SetQuiet(page1, true)
	s.SetQuiet(page2, true)
	a := s.call("POST", "/"+page1+"/messages", s.pageToken(user, page1),
		"recipient", `{"id":"`+someone+`"}`, "message", `{"text":"x"}`)
	s.steps(1)
	got := s.take()
	require.Len(t, got, 1)
	assert.Equal(t, "instagram", got[0].object)
	assert.Equal(t, a.body["message_id"], got[0].Message.Mid)
	assert.Equal(t, `"`+instagram+`"`, string(got[0].Sender.ID))
	assert.Nil(t, got[0].Message.AppID)

	// Without the app's fields of the object nothing is delivered.
	s.SetAppFields(app, "instagram", nil)
	_, err := s.Say(page1, someone, "lost")
	require.NoError(t, err)
	s.steps(1)
	assert.Empty(t, s.take())
}

func TestFieldsMustBeSubscribedAtBothLevels(t *testing.T) {
	s := newStepped(t, newFixture(t, nil), nil)
	s.SetSubscription(app, page1, "messages", "message_reads")
	s.SetAppFields(app, "page", []string{"messages", "message_echoes"})
	s.SetAppFields(app, "instagram", nil)
	s.steps(20)
	got := s.take()
	assert.NotEmpty(t, got)
	for _, i := range got {
		require.NotNil(t, i.Message, i.raw)
		assert.False(t, i.Message.IsEcho, i.raw)
	}
	s.SetAppFields(app, "page", nil)
	s.steps(5)
	assert.Empty(t, s.take())
}

// TestSubscribedCallbackReplacesTheTarget checks that deliveries go to the callback URL
// that the app has subscribed with.
func TestSubscribedCallbackReplacesTheTarget(t *testing.T) {
	s := newStepped(t, newFixture(t, nil), nil)
	s.SetSubscription(app, page1, "messages")
	var posts atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			_, _ = w.Write([]byte(r.URL.Query().Get("hub.challenge")))
			return
		}
		posts.Add(1)
	}))
	t.Cleanup(other.Close)
	a := s.call("POST", "/"+app+"/subscriptions", app+"|"+appSecret,
		"object", "page", "callback_url", other.URL+"/hook", "verify_token", "v", "fields", "messages")
	require.Equal(t, http.StatusOK, a.status, a.raw)
	s.steps(3)
	assert.Empty(t, s.take())
	assert.Positive(t, posts.Load())
	before := posts.Load()
	require.NoError(t, s.SendTest(t.Context()))
	assert.Equal(t, before+1, posts.Load())
}

// TestConversationsHaveUndeliveredMessages checks that the Conversations API has
// messages that were never delivered.
func TestConversationsHaveUndeliveredMessages(t *testing.T) {
	s := newStepped(t, newFixture(t, nil), nil)
	s.SetAppFields(app, "instagram", instagramFields)
	s.SetSubscription(app, page1, messaging...)
	s.steps(1)
	token := s.pageToken(user, page1)
	mids := func(platform string) []string {
		var out []string
		a := s.call("GET", "/"+page1+"/conversations", token, "platform", platform, "fields", "id,messages.limit(100){id}",
			"limit", "100")
		require.Equal(t, http.StatusOK, a.status, a.raw)
		for _, c := range a.body["data"].([]any) {
			for _, m := range c.(map[string]any)["messages"].(map[string]any)["data"].([]any) {
				out = append(out, m.(map[string]any)["id"].(string))
			}
		}
		return out
	}
	for n, switchOff := range []func(){
		func() { s.SetDelivery(false) }, func() { s.SetSubscription(app, page1); s.SetDelivery(true) },
	} {
		switchOff()
		for i, platform := range []string{"messenger", "instagram"} {
			before := len(mids(platform))
			mid, err := s.Say(page1, s.Contacts(page1)[i], "in the gap")
			require.NoError(t, err)
			assert.True(t, slices.Contains(mids(platform), mid), "case %d on %s", n, platform)
			s.steps(5)
			assert.Greater(t, len(mids(platform)), before, "case %d on %s: people must keep writing", n, platform)
		}
		for _, i := range s.take() {
			assert.NotContains(t, i.raw, "in the gap")
		}
	}
}
