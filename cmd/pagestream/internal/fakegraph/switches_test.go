package fakegraph_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// stepped is an engine that is stepped by the test, with a webhook that stores the
// deliveries. The clock of its graph moves with the steps.
type stepped struct {
	*fakegraph.Engine
	*fixture
	srv *httptest.Server

	mu     sync.Mutex
	status int
	bodies [][]byte
	signed []string
}

func newStepped(t *testing.T, f *fixture, change func(*fakegraph.EngineOptions)) *stepped {
	t.Helper()
	s := &stepped{fixture: f, status: http.StatusOK}
	s.srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.bodies, s.signed = append(s.bodies, body), append(s.signed, r.Header.Get("X-Hub-Signature-256"))
		w.WriteHeader(s.status)
	}))
	t.Cleanup(s.srv.Close)
	o := fakegraph.EngineOptions{
		Graph: f.Graph, Target: s.srv.URL, Rate: 10, Seed: 3, RunID: "r", Now: f.clock.Now,
		HTTP: s.srv.Client(),
	}
	if change != nil {
		change(&o)
	}
	e, err := fakegraph.NewEngine(o)
	require.NoError(t, err)
	s.Engine = e
	return s
}

// steps advances the clock by n seconds, with one flush per second.
func (s *stepped) steps(n int) {
	s.t.Helper()
	for range n {
		s.clock.add(time.Second)
		require.NoError(s.t, s.Step(s.t.Context()))
	}
}

// received is an item of a delivery.
type received struct {
	object, entry string
	standby       bool
	raw           string
	Sender        struct{ ID json.RawMessage }
	Recipient     struct{ ID json.RawMessage }
	Timestamp     json.RawMessage
	Message       *struct {
		Mid, Text string
		IsEcho    bool `json:"is_echo"`
		AppID     any  `json:"app_id"`
	}
	Edit *struct {
		Mid, Text string
	} `json:"message_edit"`
	Read, Delivery map[string]any
	Postback       map[string]any
	Referral       map[string]any
	Reaction       map[string]any
}

// take returns the items that were delivered since the last call, in their order.
func (s *stepped) take() []received {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []received
	for _, body := range s.bodies {
		var in post
		require.NoError(s.t, json.Unmarshal(body, &in))
		for _, e := range in.Entry {
			for n, raw := range append(e.Messaging, e.Standby...) {
				i := received{object: in.Object, entry: e.ID, standby: n >= len(e.Messaging), raw: string(raw)}
				require.NoError(s.t, json.Unmarshal(raw, &i))
				out = append(out, i)
			}
		}
	}
	s.bodies, s.signed = nil, nil
	return out
}

func TestStandbyPage(t *testing.T) {
	s := newStepped(t, newFixture(t, nil), nil)
	s.SetSubscription(app, page1, messaging...)
	s.SetSubscription(app, page2, messaging...)
	s.SetStandby(page1, true)
	s.steps(20)
	postbacks := 0
	for _, i := range s.take() {
		assert.Equal(t, i.entry == page1, i.standby, i.raw)
		if i.Postback != nil {
			postbacks++
			_, payload := i.Postback["payload"]
			assert.Equal(t, i.entry != page1, payload, i.raw)
		}
	}
	assert.Positive(t, postbacks)
	s.SetStandby(page1, false)
	s.steps(10)
	for _, i := range s.take() {
		assert.False(t, i.standby, i.raw)
	}
}

func TestQuietPage(t *testing.T) {
	s := newStepped(t, newFixture(t, nil), nil)
	s.SetSubscription(app, page1, messaging...)
	s.SetSubscription(app, page2, messaging...)
	s.SetQuiet(page1, true)
	s.steps(10)
	got := s.take()
	assert.NotEmpty(t, got)
	for _, i := range got {
		assert.Equal(t, page2, i.entry)
	}
	mid, err := s.Say(page1, s.Contacts(page1)[0], "But this one")
	require.NoError(t, err)
	s.SetQuiet(page2, true)
	s.steps(1)
	got = s.take()
	require.Len(t, got, 1)
	assert.Equal(t, mid, got[0].Message.Mid)
	assert.Equal(t, "But this one", got[0].Message.Text)
	s.SetQuiet(page1, false)
	s.steps(5)
	for _, i := range s.take() {
		assert.Equal(t, page1, i.entry)
	}
}

func TestSayNeedsAContactOfThePage(t *testing.T) {
	s := newStepped(t, newFixture(t, nil), nil)
	_, err := s.Say(page1, s.Contacts(page2)[0], "x")
	require.ErrorIs(t, err, fakegraph.ErrUnknown)
}

func TestMessagesOfAnOutageAreNeverDelivered(t *testing.T) {
	s := newStepped(t, newFixture(t, nil), func(o *fakegraph.EngineOptions) { o.Duplicates, o.Reorder = 50, 50 })
	s.SetSubscription(app, page1, messaging...)
	s.steps(5)
	s.take()
	s.SetDelivery(false)
	began := s.clock.Now().UnixMilli()
	lost, err := s.Say(page1, s.Contacts(page1)[0], "not delivered")
	require.NoError(t, err)
	require.ErrorIs(t, s.SendTest(t.Context()), fakegraph.ErrUndelivered)
	s.steps(5)
	assert.Empty(t, s.take())
	assert.Greater(t, s.Stats()[page1].Lost, uint64(30))
	ended := s.clock.Now().UnixMilli()
	s.SetDelivery(true)
	s.steps(10)
	got := s.take()
	assert.NotEmpty(t, got)
	for _, i := range got {
		assert.NotContains(t, i.raw, `"mid":"`+lost)
		var at int64
		if len(i.Timestamp) > 0 {
			require.NoError(t, json.Unmarshal(i.Timestamp, &at))
			assert.False(t, at > began && at <= ended, "an item of the outage was delivered: %s", i.raw)
		}
	}
}

func TestOutageEndsRetries(t *testing.T) {
	s := newStepped(t, newFixture(t, nil), func(o *fakegraph.EngineOptions) { o.Scale = 1e6 })
	s.SetSubscription(app, page1, messaging...)
	s.status = http.StatusInternalServerError
	ended := make(chan error, 1)
	s.clock.add(time.Second)
	go func() { ended <- s.Step(t.Context()) }()
	require.Eventually(t, func() bool { return s.Stats()[page1].Retried > 0 }, streamstest.Limit, time.Millisecond)
	s.SetDelivery(false)
	require.NoError(t, <-ended)
	c := s.Stats()[page1]
	assert.Zero(t, c.Acked)
	assert.Equal(t, c.Sent, c.Lost)
}

func TestSecretAndTestButton(t *testing.T) {
	s := newStepped(t, newFixture(t, nil), nil)
	signature := func(secret string, body []byte) string {
		m := hmac.New(sha256.New, []byte(secret))
		m.Write(body)
		return "sha256=" + hex.EncodeToString(m.Sum(nil))
	}
	require.NoError(t, s.SendTest(t.Context()))
	s.SetSecret("wrong")
	require.NoError(t, s.SendTest(t.Context()))
	s.SetSecret("")
	require.NoError(t, s.SendTest(t.Context()))
	require.Len(t, s.bodies, 3)
	for n, secret := range []string{appSecret, "wrong", appSecret} {
		assert.Equal(t, signature(secret, s.bodies[n]), s.signed[n])
	}
	assert.JSONEq(t, `{"object":"page","entry":[{"id":"0","time":1514862760,"changes":[{"field":"messages","value":{
		"sender":{"id":"12334"},"recipient":{"id":"23245"},"timestamp":"1527459824",
		"message":{"mid":"random_mid","text":"random_text"}}}]}]}`, string(s.bodies[0]))
	s.status = http.StatusUnauthorized
	require.ErrorIs(t, s.SendTest(t.Context()), fakegraph.ErrUndelivered)
}

func TestUnusualForms(t *testing.T) {
	s := newStepped(t, newFixture(t, nil), func(o *fakegraph.EngineOptions) {
		o.NumericIDs, o.OddTimes, o.EditsFirst = 30, 30, 30
	})
	s.SetSubscription(app, page1, messaging...)
	s.steps(30)
	times, numbers, strs, early := map[string]int{}, 0, 0, 0
	seen := map[string]bool{}
	for _, i := range s.take() {
		if bytes.HasPrefix(i.Sender.ID, []byte(`"`)) {
			strs++
		} else {
			numbers++
		}
		switch at := strings.Trim(string(i.Timestamp), `"`); {
		case at == "":
		case at != string(i.Timestamp):
			times["string"]++
		case at == "0":
			times["zero"]++
		case len(at) == 10:
			times["seconds"]++
		default:
			times["ms"]++
		}
		if i.Message != nil {
			seen[i.Message.Mid] = true
		}
		if i.Edit != nil && !seen[i.Edit.Mid] {
			early++
		}
	}
	assert.Positive(t, numbers)
	assert.Greater(t, strs, numbers)
	assert.Positive(t, early)
	for _, form := range []string{"zero", "seconds", "string"} {
		assert.Positive(t, times[form], form)
		assert.Greater(t, times["ms"], times[form])
	}
}

func TestEchoesCanBeLateOrEarly(t *testing.T) {
	for _, delay := range []time.Duration{3 * time.Second, -1} {
		s := newStepped(t, newFixture(t, nil), func(o *fakegraph.EngineOptions) { o.EchoDelay, o.Rate = delay, 1e-9 })
		s.SetSubscription(app, page1, "message_echoes")
		s.steps(1)
		a := s.call("POST", "/"+page1+"/messages", s.pageToken(user, page1),
			"recipient", `{"id":"`+s.Contacts(page1)[0]+`"}`, "message", `{"text":"x"}`)
		require.NotEmpty(t, a.body["message_id"], a.raw)
		if delay < 0 {
			assert.Len(t, s.take(), 1, "the echo must be delivered before the reply")
			s.steps(5)
			assert.Empty(t, s.take())
			continue
		}
		s.steps(2)
		assert.Empty(t, s.take())
		s.steps(1)
		got := s.take()
		require.Len(t, got, 1)
		assert.Equal(t, a.body["message_id"], got[0].Message.Mid)
	}
}

func TestStepFailsDuringRun(t *testing.T) {
	f, h := newFixture(t, nil), newWebhook(t)
	f.SetSubscription(app, page1, messaging...)
	runEngine(t, f, h, nil, func(e *fakegraph.Engine) bool {
		return h.received(1)(e) && assert.ErrorIs(t, e.Step(t.Context()), fakegraph.ErrRunning)
	})
}

func TestDuplicatesAndReorderCanBeSwitched(t *testing.T) {
	s := newStepped(t, newFixture(t, nil), func(o *fakegraph.EngineOptions) { o.Opening = 20 })
	s.SetQuiet(page2, true)
	s.SetSubscription(app, page1, messaging...)
	s.SetSubscription(app, page2, messaging...)
	s.steps(1)
	opening := s.take()
	assert.Greater(t, len(opening), 20, "the opening, and what the rate says")
	for _, i := range opening {
		assert.Equal(t, page1, i.entry, "a quiet page has no opening")
	}
	repeats := func() int {
		seen := map[string]int{}
		for _, i := range s.take() {
			seen[i.raw]++
		}
		n := 0
		for _, times := range seen {
			n += times - 1
		}
		return n
	}
	s.steps(10)
	assert.Zero(t, repeats(), "no second opening, and no duplicates")
	s.SetDuplicates(100)
	s.steps(10)
	assert.Greater(t, repeats(), 30)
	s.SetDuplicates(0)
	s.steps(5) // what was to be repeated is sent
	s.take()
	s.SetReorder(100)
	s.steps(10)
	late, last := 0, int64(0)
	for _, i := range s.take() {
		at, err := strconv.ParseInt(string(i.Timestamp), 10, 64)
		if err == nil && at < last { // a delivery receipt has no time
			late++
		}
		last = max(last, at)
	}
	assert.Positive(t, late)
}

// TestSnapshot checks that a fake that is made again from a snapshot accepts the same tokens, and
// refuses the dead ones as before.
func TestSnapshot(t *testing.T) {
	before := newFixture(t, nil)
	first, second := before.pageToken(user, page1), before.pageToken(user, page2)
	poor := before.pageToken(poorUser, page1)
	login, err := before.UserToken(app, user, true)
	require.NoError(t, err)
	require.NoError(t, before.KillToken(second, 460))
	before.SetSubscription(app, page1, "messages", "feed")
	before.SetGranted(app, poorUser, []string{})
	require.NoError(t, before.SetTasks(user, page2, []string{"ANALYZE"}))
	saved := before.Snapshot()
	assert.Equal(t, string(saved), string(before.Snapshot()))

	after := newFixture(t, nil)
	assert.Equal(t, "400 190/0", after.call("GET", "/"+page1, first).failure(), "it was not issued yet")
	require.NoError(t, after.Restore(saved))
	assert.Equal(t, string(saved), string(after.Snapshot()))
	for token, path := range map[string]string{first: page1, second: page2, poor: page1, login: "me/accounts"} {
		want := before.call("GET", "/"+path, token)
		assert.Equal(t, want.failure(), after.call("GET", "/"+path, token).failure(), path)
	}
	assert.Empty(t, after.call("GET", "/"+page1, first).failure())
	assert.Equal(t, "400 190/460", after.call("GET", "/"+page2, second).failure())
	fields, on := after.SubscribedFields(app, page1)
	assert.True(t, on)
	assert.Equal(t, []string{"feed", "messages"}, fields)
	assert.Equal(t, first, after.pageToken(user, page1))

	kept := string(after.Snapshot())
	for _, wrong := range []string{"", "{}", `{"tokens":"EAAsecret"}`} {
		err := after.Restore([]byte(wrong))
		require.ErrorIs(t, err, fakegraph.ErrOptions)
		assert.NotContains(t, err.Error(), "EAA")
	}
	assert.Equal(t, kept, string(after.Snapshot()), "a refused snapshot changes nothing")
}
