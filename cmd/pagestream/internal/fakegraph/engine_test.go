package fakegraph_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
)

// readAll returns the body of a response.
func readAll(t *testing.T, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(b)
}

var messaging = []string{
	"messages", "message_echoes", "message_deliveries", "message_reads", "message_reactions", "message_edits",
	"messaging_postbacks", "messaging_referrals", "standby",
}

// webhook is a server that counts and checks the deliveries that it receives.
type webhook struct {
	*httptest.Server
	t *testing.T

	mu     sync.Mutex
	status func(n int) int
	posts  int
	shared int // POSTs with several pages
	escape int // POSTs with both escapes
	times  map[string]map[int64]bool
	kinds  map[string]int
	pages  map[string]int
	order  []int64 // timestamps of messages in the order of arrival
}

type post struct {
	Object string
	Entry  []struct {
		ID                 string
		Time               int64
		Messaging, Standby []json.RawMessage
	}
}

func newWebhook(t *testing.T) *webhook {
	t.Helper()
	h := &webhook{t: t, times: map[string]map[int64]bool{}, kinds: map[string]int{}, pages: map[string]int{}}
	h.status = func(int) int { return http.StatusOK }
	h.Server = httptest.NewServer(h)
	t.Cleanup(h.Close)
	return h
}

func (h *webhook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // canceled at the end of a run
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.posts++
	strong, legacy := hmac.New(sha256.New, []byte(appSecret)), hmac.New(sha1.New, []byte(appSecret))
	strong.Write(body)
	legacy.Write(body)
	assert.Equal(h.t, "sha256="+hex.EncodeToString(strong.Sum(nil)), r.Header.Get("X-Hub-Signature-256"),
		"signature is wrong")
	assert.Equal(h.t, "sha1="+hex.EncodeToString(legacy.Sum(nil)), r.Header.Get("X-Hub-Signature"),
		"signature is wrong")
	assert.False(h.t, bytes.ContainsFunc(body, func(r rune) bool { return r > '~' }), "body is not ASCII: %s", body)
	if bytes.Contains(body, []byte(`\/`)) && bytes.Contains(body, []byte(`\u00`)) {
		h.escape++
	}
	var in post
	err = json.Unmarshal(body, &in)
	if assert.NoError(h.t, err, "body is not a delivery") {
		assert.Equal(h.t, "page", in.Object, "body is not a delivery")
	}
	if len(in.Entry) > 1 {
		h.shared++
	}
	status := h.status(h.posts)
	for _, e := range in.Entry {
		for channel, items := range map[string][]json.RawMessage{"messaging": e.Messaging, "standby": e.Standby} {
			for _, raw := range items {
				h.item(e.ID, e.Time, channel, raw)
			}
		}
	}
	w.WriteHeader(status)
}

func (h *webhook) item(page string, sent int64, channel string, raw json.RawMessage) {
	h.pages[page]++
	var in map[string]json.RawMessage
	if !assert.NoError(h.t, json.Unmarshal(raw, &in), "item is not an object: %s", raw) {
		return
	}
	var kind string
	for _, k := range []string{"message", "delivery", "read", "reaction", "message_edit", "postback", "referral"} {
		if _, ok := in[k]; ok {
			kind = k
		}
	}
	if strings.Contains(string(in["message"]), `"is_echo":true`) {
		kind = "echo"
	}
	if strings.Contains(string(in["message"]), `"is_deleted":true`) {
		kind = "unsend"
	}
	if channel == "standby" {
		kind = "standby " + kind
		if strings.Contains(string(raw), `"payload":"`) {
			assert.NotEqual(h.t, "standby postback", kind, "postback in standby has a payload: %s", raw)
		}
	}
	if kind == "message" {
		var at int64
		_ = json.Unmarshal(in["timestamp"], &at)
		h.order = append(h.order, at)
	}
	h.kinds[kind]++
	if h.times[string(raw)] == nil {
		h.times[string(raw)] = map[int64]bool{}
	}
	h.times[string(raw)][sent] = true
}

// runEngine runs an engine until done returns true.
func runEngine(
	t *testing.T, f *fixture, h *webhook, change func(*fakegraph.EngineOptions), done func(*fakegraph.Engine) bool,
) *fakegraph.Engine {
	t.Helper()
	o := fakegraph.EngineOptions{
		Graph: f.Graph, Target: h.URL, Rate: 2000, Flush: 5 * time.Millisecond, Seed: 3, RunID: "r",
	}
	if change != nil {
		change(&o)
	}
	e, err := fakegraph.NewEngine(o)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	deadline := time.Now().Add(20 * time.Second)
	for !done(e) && time.Now().Before(deadline) {
		<-time.After(5 * time.Millisecond)
	}
	assert.True(t, done(e), "not done in time")
	cancel()
	require.NoError(t, <-ended)
	h.Close() // waits for canceled requests, so that the test may read the fields
	return e
}

// received returns a condition for runEngine: n items have arrived.
func (h *webhook) received(n int) func(*fakegraph.Engine) bool {
	return func(*fakegraph.Engine) bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		total := 0
		for _, c := range h.pages {
			total += c
		}
		return total >= n
	}
}

func TestTrafficHasEveryKindOfItem(t *testing.T) {
	f, h := newFixture(t, nil), newWebhook(t)
	f.SetSubscription(app, page1, messaging...)
	f.SetSubscription(app, page2, messaging...)
	e := runEngine(t, f, h, func(o *fakegraph.EngineOptions) { o.Duplicates, o.Standby = 20, 10 }, h.received(3000))
	for _, kind := range []string{
		"message", "echo", "delivery", "read", "reaction", "message_edit", "unsend", "postback", "referral",
		"standby message", "standby echo",
	} {
		assert.Positive(t, h.kinds[kind], kind)
	}
	assert.Greater(t, h.kinds["message"], h.kinds["reaction"])
	assert.Positive(t, h.shared, "no POST had several pages")
	assert.Positive(t, h.escape)
	assert.Positive(t, h.pages[page1])
	assert.Positive(t, h.pages[page2])
	duplicates := 0
	for _, sent := range h.times {
		if len(sent) > 1 {
			duplicates++
		}
	}
	assert.Positive(t, duplicates, "no duplicate has another entry.time")
	for _, page := range []string{page1, page2} {
		c := e.Stats()[page]
		assert.Positive(t, c.Duplicated)
		assert.LessOrEqual(t, c.Acked, c.Sent)
		assert.InDelta(t, h.pages[page], c.Acked, 400) // some were canceled at the end
		assert.Zero(t, c.Retried)
	}
}

func TestOnlySubscribedPagesAndFields(t *testing.T) {
	f, h := newFixture(t, nil), newWebhook(t)
	f.SetSubscription(app, page1, "messages")
	f.SetSubscription(otherApp, page2, messaging...)
	runEngine(t, f, h, func(o *fakegraph.EngineOptions) { o.Standby = 10 }, h.received(300))
	assert.Zero(t, h.pages[page2])
	for kind, n := range h.kinds {
		require.Contains(t, []string{"message", "unsend"}, kind,
			"%d of %q were delivered without a subscription", n, kind)
	}
}

func TestOrder(t *testing.T) {
	for _, reorder := range []int{0, 30} {
		t.Run(fmt.Sprint(reorder, " percent"), func(t *testing.T) {
			f, h := newFixture(t, nil), newWebhook(t)
			f.SetSubscription(app, page1, "messages")
			// Slow enough that each POST is answered before the next is sent.
			runEngine(t, f, h, func(o *fakegraph.EngineOptions) {
				o.Rate, o.Reorder, o.Flush = 400, reorder, 50*time.Millisecond
			}, h.received(200))
			late := 0
			for i := 1; i < len(h.order); i++ {
				if h.order[i] < h.order[i-1] {
					late++
				}
			}
			assert.Equal(t, reorder > 0, late > 0, "%d were late", late)
		})
	}
}

// TestSameSeedGivesSameTraffic looks for the first message of each run anywhere in
// the other one: concurrent deliveries may overtake one another.
func TestSameSeedGivesSameTraffic(t *testing.T) {
	mid := regexp.MustCompile(`"mid":"([^"]+)"`)
	mids := func() []string {
		f, h := newFixture(t, nil), newWebhook(t)
		f.SetSubscription(app, page1, "messages")
		var mu sync.Mutex
		var got []string
		h.Config.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			mu.Lock()
			defer mu.Unlock()
			for _, m := range mid.FindAllStringSubmatch(string(body), -1) {
				got = append(got, m[1])
			}
		})
		runEngine(t, f, h, nil, func(*fakegraph.Engine) bool { mu.Lock(); defer mu.Unlock(); return len(got) >= 100 })
		mu.Lock()
		defer mu.Unlock()
		return got
	}
	a, b := mids(), mids()
	assert.Contains(t, b, a[0])
	assert.Contains(t, a, b[0])
}

func TestUnansweredDeliveriesAreSentAgain(t *testing.T) {
	f, h := newFixture(t, nil), newWebhook(t)
	f.SetSubscription(app, page1, "messages")
	h.status = func(n int) int {
		if n%3 == 0 {
			return http.StatusServiceUnavailable
		}
		return http.StatusOK
	}
	e := runEngine(t, f, h, func(o *fakegraph.EngineOptions) { o.Scale = 1000 }, h.received(500))
	c := e.Stats()[page1]
	assert.Positive(t, c.Retried)
	assert.Positive(t, c.Acked)
	assert.Zero(t, c.Removed)
	_, subscribed := f.SubscribedFields(app, page1)
	assert.True(t, subscribed)
}

func TestAnHourOfFailuresUnsubscribesThePage(t *testing.T) {
	f, h := newFixture(t, nil), newWebhook(t)
	f.SetSubscription(app, page1, "messages")
	f.SetSubscription(otherApp, page1, "messages")
	h.status = func(int) int { return http.StatusInternalServerError }
	e := runEngine(t, f, h, func(o *fakegraph.EngineOptions) { o.Scale = 20_000 }, func(e *fakegraph.Engine) bool {
		return e.Stats()[page1].Removed > 0 && e.Stats()[page1].Dropped > 0
	})
	_, subscribed := f.SubscribedFields(app, page1)
	assert.False(t, subscribed)
	_, other := f.SubscribedFields(otherApp, page1)
	assert.True(t, other)
	assert.Zero(t, e.Stats()[page1].Acked)
}

func TestSentMessageHasAnEcho(t *testing.T) {
	f, h := newFixture(t, nil), newWebhook(t)
	f.SetSubscription(app, page1, "message_echoes")
	psid := f.Contacts(page1)[0]
	// The message is sent while the engine runs: earlier ones have no echo.
	runEngine(t, f, h, func(o *fakegraph.EngineOptions) { o.Rate = 0.001 }, func(*fakegraph.Engine) bool {
		a := f.call("POST", "/v23.0/"+page1+"/messages", f.pageToken(user, page1),
			"recipient", `{"id":"`+psid+`"}`, "messaging_type", "RESPONSE", "message", `{"text":"Grüße","metadata":"x"}`)
		assert.Equal(t, psid, a.body["recipient_id"], a.raw)
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.kinds["echo"] > 0
	})
	for raw := range h.times {
		assert.Contains(t, raw, `"app_id":`+app)
		assert.Contains(t, raw, `Gr\u00fc\u00dfe`)
		assert.Contains(t, raw, psid)
	}
	token := f.pageToken(user, page1)
	send := "/" + page1 + "/messages"
	for want, params := range map[string][]string{
		"400 100/2018001": {"recipient", `{"id":"404"}`, "message", `{"text":"x"}`},
		"400 100/0":       {"recipient", `{"id":"` + psid + `"}`, "message", `{}`},
		"":                {"recipient", `{"id":"` + psid + `"}`, "sender_action", "typing_on"},
	} {
		assert.Equal(t, want, f.call("POST", send, token, params...).failure())
	}
	assert.Equal(t, "403 200/0", f.call("POST", send, f.pageToken(user, page2),
		"recipient", `{"id":"`+psid+`"}`, "message", `{"text":"x"}`).failure())
}

func TestEngineOptionsAreChecked(t *testing.T) {
	f := newFixture(t, nil)
	for name, o := range map[string]fakegraph.EngineOptions{
		"no graph":    {Target: "http://127.0.0.1/"},
		"no target":   {Graph: f.Graph},
		"unknown app": {Graph: f.Graph, Target: "http://127.0.0.1/", App: "1"},
		"percentage":  {Graph: f.Graph, Target: "http://127.0.0.1/", Standby: 101},
	} {
		_, err := fakegraph.NewEngine(o)
		assert.ErrorIs(t, err, fakegraph.ErrOptions, name)
	}
}
