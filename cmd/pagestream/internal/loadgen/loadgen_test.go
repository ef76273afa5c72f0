package loadgen_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/loadgen"
	"github.com/pagestream/pagestream/streams/streamstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	secret = "load-secret"
	token  = "admin-token"
)

type event struct {
	Seq     uint64 `json:"seq"`
	ID      string `json:"id"`
	Type    string `json:"type"`
	Page    string `json:"page"`
	Contact string `json:"contact"`
	Data    any    `json:"data"`
}

// testServer is a server that stores deliveries in memory and answers the API.
type testServer struct {
	t    *testing.T
	addr string

	mu     sync.Mutex
	http   *http.Server
	events []event
	seen   map[string]bool
	convs  map[string][]string
	// entryTimes are the values of entry.time, by the first mid of an entry.
	entryTimes map[string]map[int64]bool
	behind     int // how many reads of conversations are still answered 503

	// The faults of the server, by the number of the stored item, from 1.
	lose, twice, loseConversation, twiceConversation, move func(n int) bool
	// answer returns the status of the answer to POST n, which is stored anyway.
	answer func(n int) int
	posts  int
	// tests has what was asked last of a page: test or forget.
	tests map[string]string
	// forgetUnanswered makes the first try to forget each page break off after it was carried out.
	forgetUnanswered bool
	// hangs makes the webhook answer nothing.
	hangs bool
}

func newTestServer(t *testing.T) *testServer {
	t.Helper()
	s := &testServer{
		t: t, seen: map[string]bool{}, convs: map[string][]string{}, entryTimes: map[string]map[int64]bool{}, behind: 2,
		tests: map[string]string{},
	}
	never := func(int) bool { return false }
	s.lose, s.twice, s.loseConversation, s.twiceConversation, s.move = never, never, never, never, never
	s.answer = func(int) int { return http.StatusOK }
	s.events = []event{{Seq: 1, ID: "page:1:msg:old", Page: "1", Contact: "2"}}
	s.listen("127.0.0.1:0")
	t.Cleanup(s.kill)
	return s
}

// listen starts the server on an address.
func (s *testServer) listen(addr string) {
	var l net.Listener
	require.Eventually(s.t, func() bool {
		var err error
		l, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", addr)
		return err == nil
	}, 5*time.Second, 10*time.Millisecond)
	s.addr = l.Addr().String()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /webhooks", s.webhook)
	mux.HandleFunc("GET /api/v1/status", s.auth(s.status))
	mux.HandleFunc("GET /api/v1/events", s.auth(s.list))
	mux.HandleFunc("GET /api/v1/conversations/{page}/{contact}/messages", s.auth(s.messages))
	for _, verb := range []string{"test", "forget"} {
		mux.HandleFunc("POST /api/v1/pages/{page}/"+verb, s.auth(func(w http.ResponseWriter, r *http.Request) {
			s.mu.Lock()
			defer s.mu.Unlock()
			page := r.PathValue("page")
			again := s.tests[page] == "forget"
			s.tests[page] = verb
			switch {
			case verb == "forget" && again:
				w.WriteHeader(http.StatusNotFound)
			case verb == "forget" && s.forgetUnanswered:
				panic(http.ErrAbortHandler)
			}
		}))
	}
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	s.mu.Lock()
	s.http = srv
	s.mu.Unlock()
	go func() { _ = srv.Serve(l) }()
}

// kill stops the server at once, like kill -9: open connections are closed.
func (s *testServer) kill() {
	s.mu.Lock()
	srv := s.http
	s.mu.Unlock()
	_ = srv.Close()
}

func (s *testServer) auth(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+token {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next(w, r)
	}
}

func (s *testServer) webhook(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if s.hangs {
		<-r.Context().Done()
		return
	}
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	if r.Header.Get("X-Hub-Signature-256") != "sha256="+hex.EncodeToString(mac.Sum(nil)) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	for _, c := range body {
		if !assert.LessOrEqual(s.t, c, byte('~'), "body has byte %#x, want ASCII only", c) {
			break
		}
	}
	var in struct {
		Entry []struct {
			ID        string
			Time      int64
			Messaging []struct {
				Sender, Recipient struct{ ID string }
				Message           struct {
					MID  string
					Echo bool `json:"is_echo"`
				}
			}
		}
	}
	assert.NoError(s.t, json.Unmarshal(body, &in), "body is not JSON")
	s.mu.Lock()
	defer s.mu.Unlock()
	pages := map[string]bool{}
	for _, e := range in.Entry {
		assert.Equal(s.t, "test", s.tests[e.ID], "a page that is not marked")
		assert.False(s.t, pages[e.ID], "page %s has two entries in one POST", e.ID)
		pages[e.ID] = true
		for i, m := range e.Messaging {
			if i == 0 {
				if s.entryTimes[m.Message.MID] == nil {
					s.entryTimes[m.Message.MID] = map[int64]bool{}
				}
				s.entryTimes[m.Message.MID][e.Time] = true
			}
			contact, page := m.Sender.ID, m.Recipient.ID
			if m.Message.Echo {
				contact, page = page, contact
			}
			assert.Equal(s.t, e.ID, page, "an item of another page")
			s.store(page, contact, m.Message.MID)
		}
	}
	s.posts++
	w.WriteHeader(s.answer(s.posts))
}

func (s *testServer) store(page, contact, mid string) {
	id := "page:" + page + ":msg:" + mid
	if s.seen[id] {
		return
	}
	s.seen[id] = true
	n := len(s.seen)
	if s.move(n) {
		contact = "somebody-else"
	}
	copies := func(lost, doubled bool) int {
		if lost {
			return 0
		}
		if doubled {
			return 2
		}
		return 1
	}
	for range copies(s.lose(n), s.twice(n)) {
		s.events = append(s.events, event{
			Seq: uint64(len(s.events) + 1), ID: id, Type: "message.received", Page: page, Contact: contact,
			Data: map[string]any{"message": map[string]any{"mid": mid}},
		})
	}
	for range copies(s.loseConversation(n), s.twiceConversation(n)) {
		s.convs[page+"/"+contact] = append(s.convs[page+"/"+contact], mid)
	}
}

func (s *testServer) status(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(w, `{"stream":{"first_seq":1,"last_seq":%d}}`, len(s.events))
}

func (s *testServer) list(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	after, _ := strconv.Atoi(r.URL.Query().Get("after"))
	limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
	items := s.events[after:]
	out := map[string]any{}
	if len(items) > limit {
		items = items[:limit]
		out["next"] = strconv.FormatUint(items[limit-1].Seq, 10)
	}
	out["items"] = items
	_ = json.NewEncoder(w).Encode(out)
}

func (s *testServer) messages(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seq, _ := strconv.Atoi(r.URL.Query().Get("min_seq"))
	assert.Equal(s.t, len(s.events), seq)
	if s.behind--; s.behind >= 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	type item struct {
		MID string `json:"mid"`
	}
	from, _ := strconv.Atoi(r.URL.Query().Get("cursor"))
	all := s.convs[r.PathValue("page")+"/"+r.PathValue("contact")]
	to := min(from+7, len(all))
	out := map[string]any{}
	items := []item{}
	for _, mid := range all[from:to] {
		items = append(items, item{mid})
	}
	if to < len(all) {
		out["next"] = strconv.Itoa(to)
	}
	out["items"] = items
	_ = json.NewEncoder(w).Encode(out)
}

func (s *testServer) config() loadgen.Config {
	return loadgen.Config{
		URL: "http://" + s.addr + "/webhooks", Secret: secret, API: "http://" + s.addr, Token: token,
		Concurrency: 4, Pages: 3, Contacts: 5, Items: 4, Duplicates: 20, Rate: 400, Duration: 500 * time.Millisecond,
		Timeout: time.Second, Grace: 10 * time.Second, AuditTimeout: 20 * time.Second, Seed: 7,
	}
}

// runFor runs for longer and longer times until there were more items than that: a busy machine is slow. s is made anew
// for each run.
func runFor(t *testing.T, items uint64, server func() *testServer, change func(*loadgen.Config)) (r loadgen.Report, s *testServer) {
	t.Helper()
	for d := 200 * time.Millisecond; ; d *= 3 {
		s = server()
		cfg := s.config()
		cfg.Duration = d
		change(&cfg)
		var err error
		r, err = loadgen.Run(t.Context(), cfg)
		require.NoError(t, err)
		if r.Items > items || d > streamstest.Limit {
			return r, s
		}
	}
}

func TestCorrectServerPasses(t *testing.T) {
	var last loadgen.Progress
	r, s := runFor(t, 100, func() *testServer {
		s := newTestServer(t)
		s.forgetUnanswered = true
		return s
	}, func(cfg *loadgen.Config) {
		cfg.Progress = func(p loadgen.Progress) { last = p }
	})
	assert.True(t, r.OK(), "%+v", r)
	assert.Greater(t, r.Items, uint64(100))
	assert.Equal(t, r.Items, r.Acked)
	assert.Equal(t, r.Items, r.Stored)
	assert.Greater(t, r.DuplicatesSent, uint64(5))
	assert.Equal(t, r.Posts, r.Statuses["200"])
	assert.Equal(t, r.Posts, r.Items/4+r.DuplicatesSent+r.Resent)
	assert.Positive(t, r.P50)
	assert.GreaterOrEqual(t, r.P99, r.P50)
	assert.NotZero(t, last)
	assert.Equal(t, uint64(s.config().Pages), r.Forgotten)
	s.leftNothing(t, s.config())
	duplicates := 0
	for _, times := range s.entryTimes {
		if len(times) > 1 {
			duplicates++
		}
	}
	assert.Positive(t, duplicates, "no duplicate had another entry.time")

	b, err := json.Marshal(r)
	require.NoError(t, err)
	for _, key := range []string{
		"posts", "items", "acked", "resent", "duplicates_sent", "rate_posts_s", "rate_items_s", "p50_ms", "p95_ms", "p99_ms",
		"max_ms", "statuses", "stored", "lost", "duplicated", "lost_in_conversations", "duplicated_in_conversations",
		"duration_s",
	} {
		assert.Contains(t, string(b), `"`+key+`":`)
	}
}

// TestWithoutARate checks that a run without a rate is limited by the server alone.
func TestWithoutARate(t *testing.T) {
	s := newTestServer(t)
	cfg := s.config()
	cfg.Rate, cfg.Items = 20, 1
	limited, err := loadgen.Run(t.Context(), cfg)
	require.NoError(t, err)
	cfg.Rate, cfg.Seed = 0, 8
	r, err := loadgen.Run(t.Context(), cfg)
	require.NoError(t, err)
	assert.True(t, r.OK(), "%+v", r)
	assert.Greater(t, r.Posts, 2*limited.Posts)
}

func TestAuditFindsEveryFault(t *testing.T) {
	thirtyThird := func(n int) bool { return n == 33 }
	for name, c := range map[string]struct {
		fault func(*testServer)
		found func(loadgen.Report) []uint64 // pairs of a counter and its value; all others are 0
	}{
		"lost event": {
			func(s *testServer) { s.lose = thirtyThird },
			func(r loadgen.Report) []uint64 { return []uint64{r.Lost, 1} },
		},
		"duplicated event": {
			func(s *testServer) { s.twice = thirtyThird },
			func(r loadgen.Report) []uint64 { return []uint64{r.Duplicated, 1} },
		},
		"lost message": {
			func(s *testServer) { s.loseConversation = thirtyThird },
			func(r loadgen.Report) []uint64 { return []uint64{r.LostInConversations, 1} },
		},
		"duplicated message": {
			func(s *testServer) { s.twiceConversation = thirtyThird },
			func(r loadgen.Report) []uint64 { return []uint64{r.DuplicatedInConversations, 1} },
		},
		"message of another contact": {
			func(s *testServer) { s.move = thirtyThird },
			func(r loadgen.Report) []uint64 { return []uint64{r.Misplaced, 1, r.Lost, 1, r.LostInConversations, 1} },
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := runFor(t, 40, func() *testServer {
				s := newTestServer(t)
				c.fault(s)
				return s
			}, func(*loadgen.Config) {})
			assert.False(t, r.OK(), "%+v", r)
			found := c.found(r)
			for i := 0; i < len(found); i += 2 {
				assert.Equal(t, found[i+1], found[i], "%+v", r)
			}
			sum := r.Lost + r.Duplicated + r.LostInConversations + r.DuplicatedInConversations + r.Misplaced
			assert.Equal(t, uint64(len(found)/2), sum, "%+v", r)
		})
	}
}

func TestPostsAreSentAgainAfterARestart(t *testing.T) {
	s := newTestServer(t)
	// Some POSTs are stored, but not answered 200.
	s.answer = func(n int) int {
		if n%10 == 0 {
			return http.StatusServiceUnavailable
		}
		return http.StatusOK
	}
	cfg := s.config()
	cfg.Rate, cfg.Duration = 200, 3500*time.Millisecond
	restarted := make(chan struct{})
	go func() {
		defer close(restarted)
		// The server is killed when it has stored some items.
		for stored := 0; stored < 100; {
			select {
			case <-t.Context().Done():
				return
			case <-time.After(10 * time.Millisecond):
			}
			s.mu.Lock()
			stored = len(s.seen)
			s.mu.Unlock()
		}
		s.kill()
		<-time.After(2 * time.Second)
		s.listen(s.addr)
	}()
	r, err := loadgen.Run(t.Context(), cfg)
	<-restarted
	require.NoError(t, err)
	assert.True(t, r.OK(), "%+v", r)
	assert.Zero(t, r.Unacked, "%+v", r)
	assert.Positive(t, r.Resent)
	assert.Positive(t, r.Statuses["none"])
	assert.Positive(t, r.Statuses["503"])
}

// TestUnacknowledgedItems checks that POSTs are sent again until the grace period is
// over, and that the rest counts as unacknowledged.
func TestUnacknowledgedItems(t *testing.T) {
	r, _ := runFor(t, 60, func() *testServer {
		s := newTestServer(t)
		s.answer = func(n int) int {
			if n > 10 {
				return http.StatusServiceUnavailable
			}
			return http.StatusOK
		}
		return s
	}, func(cfg *loadgen.Config) { cfg.Grace = 500 * time.Millisecond })
	assert.True(t, r.OK(), "%+v", r)
	assert.Positive(t, r.Unacked)
	assert.Equal(t, r.Items, r.Acked+r.Unacked)
}

func TestReportWithoutAcknowledgedItemsIsNotOK(t *testing.T) {
	assert.False(t, loadgen.Report{}.OK())
}

func TestCancel(t *testing.T) {
	s := newTestServer(t)
	cfg := s.config()
	cfg.Duration = time.Minute
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	once := sync.Once{}
	cfg.Progress = func(loadgen.Progress) { once.Do(cancel) }
	_, err := loadgen.Run(ctx, cfg)
	require.ErrorIs(t, err, context.Canceled)
	s.leftNothing(t, cfg)
}

// leftNothing checks that the pages of the run were marked and forgotten.
func (s *testServer) leftNothing(t *testing.T, cfg loadgen.Config) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	assert.Len(t, s.tests, cfg.Pages)
	for page, last := range s.tests {
		assert.Equal(t, "forget", last, page)
	}
}

// TestWrongSecretEndsAtOnce checks that a refused signature ends the run, and that it says so.
func TestWrongSecretEndsAtOnce(t *testing.T) {
	s := newTestServer(t)
	cfg := s.config()
	cfg.Secret, cfg.Duration = "another", time.Minute
	begun := time.Now()
	_, err := loadgen.Run(t.Context(), cfg)
	require.ErrorIs(t, err, loadgen.ErrSecret)
	require.ErrorContains(t, err, "--secret-file")
	assert.NotContains(t, err.Error(), "another")
	assert.Less(t, time.Since(begun), cfg.Duration/2)
	s.leftNothing(t, cfg)

	cfg.Secret, cfg.URL = secret, "http://"+s.addr+"/nothing"
	_, err = loadgen.Run(t.Context(), cfg)
	require.ErrorIs(t, err, loadgen.ErrConfig)
	require.ErrorContains(t, err, "--url")
}

// TestSilentServer checks that a run ends after its duration when the server hangs.
func TestSilentServer(t *testing.T) {
	s := newTestServer(t)
	s.hangs = true
	cfg := s.config()
	cfg.Timeout, cfg.Grace = 200*time.Millisecond, time.Minute
	begun := time.Now()
	_, err := loadgen.Run(t.Context(), cfg)
	require.ErrorIs(t, err, loadgen.ErrSilent)
	assert.Less(t, time.Since(begun), cfg.Grace)
	s.leftNothing(t, cfg)
}

func TestConfigErrors(t *testing.T) {
	type conf = loadgen.Config
	remote, config := loadgen.ErrRemote, loadgen.ErrConfig
	good := loadgen.Config{URL: "http://127.0.0.1:1/webhooks", API: "http://127.0.0.1:1", Secret: secret, Token: token}
	for name, c := range map[string]struct {
		change func(*conf)
		err    error
		text   string
	}{
		"another machine":       {func(c *conf) { c.URL = "https://example.com/webhooks" }, remote, "--allow-remote"},
		"another machine's API": {func(c *conf) { c.API = "https://192.0.2.1" }, remote, "--allow-remote"},
		"a name like loopback":  {func(c *conf) { c.URL = "http://localhost.example.com/" }, remote, "--allow-remote"},
		"no secret":             {func(c *conf) { c.Secret = "" }, config, "--secret-file"},
		"no token":              {func(c *conf) { c.Token = "" }, config, "--token-file"},
		"no URL":                {func(c *conf) { c.URL = "" }, config, "--url"},
		"negative rate":         {func(c *conf) { c.Rate = -1 }, config, "--rate"},
		"duplicates of all":     {func(c *conf) { c.Duplicates = 100 }, config, "--duplicates"},
		"too many contacts":     {func(c *conf) { c.Pages, c.Contacts = 1<<40, 1<<40 }, config, "--contacts"},
		"no server":             {func(*conf) {}, loadgen.ErrAPI, "before sending"},
		"remote and allowed": {
			func(c *conf) { c.URL, c.AllowRemote = "http://host.invalid/", true }, loadgen.ErrAPI, "before sending",
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good
			c.change(&cfg)
			_, err := loadgen.Run(t.Context(), cfg)
			require.ErrorIs(t, err, c.err)
			require.ErrorContains(t, err, c.text)
			assert.NotContains(t, err.Error(), secret)
			assert.NotContains(t, err.Error(), token)
		})
	}
}

func TestWrongTokenIsReported(t *testing.T) {
	s := newTestServer(t)
	cfg := s.config()
	cfg.Token = "another"
	_, err := loadgen.Run(t.Context(), cfg)
	require.ErrorIs(t, err, loadgen.ErrAPI)
	require.ErrorContains(t, err, "--token-file")
	require.NotErrorIs(t, err, loadgen.ErrConfig)
	assert.NotContains(t, err.Error(), "another")
}
