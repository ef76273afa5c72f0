package console

import (
	"context"
	"encoding/binary"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/tokens"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
	"github.com/pagestream/pagestream/streams/streamstest"
)

const (
	admin  = "the-admin-token-of-this-test-is-long"
	reader = "the-other-token-of-this-test-is-long"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func testSessions(t *testing.T, key, admin string, now *time.Time) *sessions {
	t.Helper()
	known, err := tokens.New(tokens.Options{Admin: admin, Reader: reader})
	require.NoError(t, err)
	return newSessions([]byte(strings.Repeat(key, 32)), known, func() time.Time { return *now })
}

// as returns the holder of a token that can sign in.
func as(t *testing.T, s *sessions, token string) tokens.Holder {
	t.Helper()
	h, err := s.find(token)
	require.NoError(t, err)
	return h
}

// cookieOf returns the value of a new session's cookie.
func cookieOf(t *testing.T, s *sessions, token string) string {
	t.Helper()
	return s.begin(as(t, s, token), tokens.ProofOf(token))
}

// TestBatchGivenUp checks that a batch of pages that was given up, or that has no more time, says what
// was done, and that another selection of as many pages with the same first one may run beside it.
func TestBatchGivenUp(t *testing.T) {
	s := streamstest.Run(t)
	h := history.New(history.Options{JS: s.JS})
	t.Cleanup(func() { assert.NoError(t, h.Close(context.WithoutCancel(t.Context()))) })
	list := []pages.Page{{ID: "7000", Name: "A"}, {ID: "7001", Name: "B"}, {ID: "7002", Name: "C"}}
	other := []pages.Page{list[0], {ID: "7003"}, {ID: "7004"}}
	for name, test := range map[string]struct {
		end    func(*Console, *job)
		status int
	}{
		"given up":  {func(c *Console, j *job) { assert.True(t, c.jobs.stop(j.Key())) }, statusCanceled},
		"timed out": {func(*Console, *job) {}, http.StatusInternalServerError},
	} {
		ctx, limit := t.Context(), time.Minute
		if name == "timed out" {
			limit = 100 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(ctx, limit)
		t.Cleanup(cancel)
		c := &Console{jobs: jobs{of: map[string]*job{}}, ctx: ctx}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/pages", nil)
		action := h.Begin(r, "ann", "admin", "pages_batch")
		action.On("job", name)
		r = r.WithContext(action.With(r.Context()))
		begin := func(list []pages.Page) (*job, error) {
			return c.beginBatch(r, meta.RemedyCheck, list, func(ctx context.Context, page domain.PageID) (string, error) {
				if page == "7000" {
					return "", nil
				}
				<-ctx.Done()
				return "", ctx.Err()
			})
		}
		j, err := begin(list)
		require.NoError(t, err, name)
		_, err = begin(list)
		require.ErrorContains(t, err, "runs already", name)
		_, err = begin(other)
		require.NoError(t, err, "another selection")
		streamstest.Eventually(t, streamstest.Limit, func() error {
			for _, j := range c.jobs.list() {
				if j.Done == 0 {
					return errors.New("no page is done")
				}
			}
			return nil
		})
		test.end(c, j)
		<-j.done
		assert.Contains(t, j.Result, "3 of 3 pages done, 2 of them failed.", name)
		assert.False(t, j.OK, name)
		past, _, err := h.Read(t.Context(), history.Query{Limit: 1, On: "job=" + name})
		require.NoError(t, err)
		require.Len(t, past, 1, name)
		assert.Equal(t, test.status, past[0].Status, name)
		cancel()
		c.work.Wait()
	}
}

func TestSessions(t *testing.T) {
	now := noon
	s := testSessions(t, "k", admin, &now)
	for token, want := range map[string]Role{
		admin: Admin, reader: ReadOnly, "": "", admin + " ": "", strings.ToUpper(admin): "",
	} {
		h, err := s.find(token)
		assert.Equal(t, want != "", err == nil, token)
		assert.Equal(t, want, roleOf(h), token)
	}
	a, b := cookieOf(t, s, admin), cookieOf(t, s, admin)
	assert.NotEqual(t, a, b)
	h, _, expires, err := s.open(a)
	require.NoError(t, err)
	assert.Equal(t, Admin, roleOf(h))
	assert.Equal(t, tokens.AdminName, h.Name)
	assert.Equal(t, noon.Add(SessionLife).Unix(), expires.Unix())
	h, _, _, err = s.open(cookieOf(t, s, reader))
	require.NoError(t, err)
	assert.Equal(t, ReadOnly, roleOf(h))

	// Another process with the same key and tokens accepts it.
	_, _, _, err = testSessions(t, "k", admin, &now).open(a)
	require.NoError(t, err)
	_, _, _, err = testSessions(t, "l", admin, &now).open(a)
	require.ErrorIs(t, err, tokens.ErrInvalid, "another key")
	_, _, _, err = testSessions(t, "k", admin+"2", &now).open(a)
	require.ErrorIs(t, err, tokens.ErrInvalid, "another admin token: sessions of the old one are not valid")

	_, _, _, err = s.open(s.begin(as(t, s, admin), tokens.ProofOf(reader)))
	require.ErrorIs(t, err, tokens.ErrInvalid, "the proof of another token")
	_, _, _, err = s.open(s.begin(as(t, s, admin), tokens.Proof{}))
	require.ErrorIs(t, err, tokens.ErrInvalid, "no proof")

	// A change of any byte makes it invalid.
	for i := range a {
		flipped := []byte(a)
		flipped[i] ^= 1
		_, _, _, err := s.open(string(flipped))
		assert.False(t, err == nil && i < len(a)-1, "byte %d", i) // the last byte has unused bits
	}
	for _, junk := range []string{"", "x", strings.Repeat("A", len(a)), a + "A", a[:len(a)-2]} {
		_, _, _, err := s.open(junk)
		require.ErrorIs(t, err, tokens.ErrInvalid, junk)
	}

	s.end(a)
	_, _, _, err = s.open(a)
	require.ErrorIs(t, err, tokens.ErrInvalid, "signed out")
	_, _, _, err = s.open(b)
	require.NoError(t, err, "another session of the same token")
	now = noon.Add(SessionLife)
	_, _, _, err = s.open(b)
	require.ErrorIs(t, err, tokens.ErrInvalid, "expired")

	// The number of remembered sign-outs is bounded.
	now = noon
	for range maxSignOuts + 100 {
		s.end(cookieOf(t, s, reader))
	}
	assert.LessOrEqual(t, s.ended.Len(), maxSignOuts)
}

// TestSignInCodes checks that a code makes one session of the token that it was made for, for a
// limited time, and that a token's text can't be used as a code.
func TestSignInCodes(t *testing.T) {
	now := noon
	s := testSessions(t, "k", admin, &now)
	code, err := s.newCode(admin)
	require.NoError(t, err)
	assert.NotContains(t, code, admin)
	for _, wrong := range []string{"", "x", admin, strings.ToLower(code), code + "A"} {
		_, _, err := s.redeem(wrong)
		require.ErrorIs(t, err, tokens.ErrInvalid, wrong)
	}
	h, cookie, err := s.redeem(code)
	require.NoError(t, err)
	assert.Equal(t, Admin, roleOf(h))
	h, _, expires, err := s.open(cookie)
	require.NoError(t, err)
	assert.Equal(t, tokens.AdminName, h.Name)
	assert.Equal(t, noon.Add(SessionLife).Unix(), expires.Unix())
	_, _, err = s.redeem(code)
	require.ErrorIs(t, err, tokens.ErrInvalid, "a second use")

	code, err = s.newCode(reader)
	require.NoError(t, err)
	now = noon.Add(CodeLife)
	_, _, err = s.redeem(code)
	require.ErrorIs(t, err, tokens.ErrInvalid, "expired")
	now = now.Add(-time.Second)
	_, _, err = s.redeem(code)
	require.ErrorIs(t, err, tokens.ErrInvalid, "an expired code is used up")

	_, err = s.newCode("no token")
	require.ErrorIs(t, err, tokens.ErrInvalid)
	first, err := s.newCode(reader)
	require.NoError(t, err)
	for range maxCodes {
		code, err = s.newCode(reader)
		require.NoError(t, err)
	}
	_, _, err = s.redeem(first)
	require.ErrorIs(t, err, tokens.ErrInvalid, "the number of codes is bounded")
	h, _, err = s.redeem(code)
	require.NoError(t, err)
	assert.Equal(t, ReadOnly, roleOf(h))

	// Of many uses at once, one is accepted.
	code, err = s.newCode(admin)
	require.NoError(t, err)
	var used atomic.Int32
	var uses sync.WaitGroup
	for range 50 {
		uses.Go(func() {
			if _, _, err := s.redeem(code); err == nil {
				used.Add(1)
			}
		})
	}
	uses.Wait()
	assert.EqualValues(t, 1, used.Load())
}

func TestSignInRedirectsToLocalPathsOnly(t *testing.T) {
	for next, want := range map[string]string{
		"/pages/7?x=1": "/pages/7?x=1", "/": "/", "": "/",
		"https://evil.example": "/", "//evil.example": "/", "/\\evil.example": "/", "///evil.example": "/",
		"javascript:alert(1)": "/", "pages": "/", "/sign-out": "/", "/live/totals": "/", "/a\r\nSet-Cookie: x": "/",
	} {
		assert.Equal(t, want, local(next), next)
	}
}

func TestCookieAttributes(t *testing.T) {
	c := &Console{sessions: testSessions(t, "k", admin, &noon)}
	for proto, secure := range map[string]bool{"": false, "https": true} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/sign-in", nil)
		r.Header.Set("X-Forwarded-Proto", proto)
		w := httptest.NewRecorder()
		c.setCookie(w, r, "v", 60)
		got := w.Result().Cookies()[0] //nolint:bodyclose // the response has no body
		assert.True(t, got.HttpOnly)
		assert.Equal(t, http.SameSiteLaxMode, got.SameSite)
		assert.Equal(t, secure, got.Secure)
		assert.Equal(t, secure, strings.HasPrefix(got.Name, "__Host-"), got.Name)
		assert.Equal(t, "/", got.Path)
		assert.Empty(t, got.Domain)
	}
}

// TestSecureSessionIsItsOwnCookie checks that over TLS only the cookie is accepted that no other host
// can set.
func TestSecureSessionIsItsOwnCookie(t *testing.T) {
	c := &Console{sessions: testSessions(t, "k", admin, &noon)}
	value := cookieOf(t, c.sessions, admin)
	for _, proto := range []string{"", "https"} {
		for _, name := range []string{cookieName, secureName} {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
			r.Header.Set("X-Forwarded-Proto", proto)
			r.Header.Set("Cookie", name+"="+value)
			_, err := c.Authenticate(r)
			assert.Equal(t, (proto == "https") == (name == secureName), err == nil, "%s over %q", name, proto)
		}
	}
}

func TestMessagingWindow(t *testing.T) {
	for since, want := range map[time.Duration]window{
		time.Hour:          {Standard: true, Until: noon.Add(23 * time.Hour)},
		24 * time.Hour:     {Human: true, Until: noon.Add(6 * 24 * time.Hour)},
		7 * 24 * time.Hour: {},
	} {
		assert.Equal(t, want, windowOf(noon.Add(-since), noon), since)
	}
	assert.Equal(t, window{}, windowOf(time.Time{}, noon), "the contact never wrote")
}

func TestGapsAndItems(t *testing.T) {
	at := func(minutes int) time.Time { return noon.Add(time.Duration(minutes) * time.Minute) }
	history := []subscriptions.Transition{
		{At: at(0), To: subscriptions.Requested},
		{At: at(1), To: subscriptions.Confirmed},
		{At: at(10), To: subscriptions.Drifted, Reason: "fields gone"},
		{At: at(11), To: subscriptions.Failed},
		{At: at(40), To: subscriptions.Confirmed},
		{At: at(50), To: subscriptions.Drifted},
		{At: at(50), To: subscriptions.Confirmed}, // repaired at once
		{At: at(60), To: subscriptions.Removed},
	}
	gaps := gapsOf(history)
	assert.Equal(t, []gap{
		{From: at(10), To: at(40), Why: "fields gone"},
		{From: at(60), Why: "subscription removed"},
	}, gaps)
	assert.Empty(t, gapsOf(history[:1]), "the time before the first confirmation is no gap")

	var list []conversations.Message
	for _, m := range []int{5, 45, 24 * 60} {
		list = append(list, conversations.Message{Time: at(m), Seq: uint64(m)})
	}
	said := ""
	for _, i := range itemsOf(list, gaps) {
		switch {
		case i.Gap != nil:
			said += "gap "
		case i.Day != "":
			said += i.Day[:3] + " "
		default:
			said += i.Message.Time.Format("15:04 ")
		}
	}
	assert.Equal(t, "Tue 12:05 gap 12:45 gap Wed 12:00 ", said)
	// A page of later messages does not show earlier gaps again.
	assert.Len(t, itemsOf(list[1:], gapsOf(history)), 5)
	assert.Len(t, itemsOf(nil, gapsOf(history)), 2)
}

// TestLevels checks how the judgement of a page determines its row's level. The
// judgement itself is tested in package meta.
func TestLevels(t *testing.T) {
	findings := func(severities ...meta.Severity) (out []meta.Finding) {
		for _, s := range severities {
			out = append(out, meta.Finding{Cause: meta.StateStandby, Severity: s})
		}
		return out
	}
	for _, c := range []struct {
		judgement meta.Judgement
		level     level
		alarms    int
	}{
		{
			meta.Judgement{State: meta.StateTokenDead, Severity: meta.Wrong, Findings: findings(meta.Wrong, meta.Warning)},
			levelWrong, 2,
		},
		{
			meta.Judgement{State: meta.StateStandby, Severity: meta.Warning, Findings: findings(meta.Warning)},
			levelWarning, 1,
		},
		{meta.Judgement{State: meta.StateHealthy, Severity: meta.Fine, Findings: findings(meta.Fine)}, levelFine, 0},
		{meta.Judgement{State: meta.StateDisconnected, Severity: meta.Fine, Findings: findings(meta.Fine)}, levelAway, 0},
	} {
		assert.Equal(t, c.level, levelOf(c.judgement), c.judgement.State)
		assert.Len(t, row{Judgement: c.judgement}.Alarms(), c.alarms, c.judgement.State)
	}
}

func TestFilter(t *testing.T) {
	r := row{
		Page:  pages.Page{ID: "700", Name: "Corner Bakery", Company: "acme", State: pages.Connected},
		Level: levelWarning,
	}
	for f, want := range map[filter]bool{
		{}: true, {Query: "BAKE"}: true, {Query: "70"}: true, {Query: "acm"}: true, {Query: "x"}: false,
		{Show: "alarms"}: true, {Show: "disconnected"}: false, {Show: "connected", Company: "acme"}: true,
		{Company: "other"}: false,
	} {
		assert.Equal(t, want, f.matches(r), f)
	}
	r.Level = levelFine
	assert.False(t, filter{Show: "alarms"}.matches(r))
}

func TestRates(t *testing.T) {
	var r rates
	counts := func(stored, duplicates uint64) deliveries.Counts {
		return deliveries.Counts{Stored: stored, ByIndex: map[domain.Type]uint64{domain.MessageReceived: duplicates}}
	}
	r.add(counts(100, 7)) // the first counts are only the baseline
	for i := range uint64(rateSeconds + 3) {
		r.add(counts(100+10*(i+1), 7+i+1))
	}
	stored, repeated := r.last()
	assert.Len(t, stored, rateSeconds)
	for i := range stored {
		assert.Equal(t, uint64(10), stored[i])
		assert.Equal(t, uint64(1), repeated[i])
	}
	c := r.chart()
	assert.InDelta(t, 10, c.Now, 1e-9)
	assert.Equal(t, uint64(11), c.Peak)
	r.add(deliveries.Counts{}) // the counts of a new ledger don't give a negative rate
	stored, _ = r.last()
	assert.Zero(t, stored[rateSeconds-1])
}

func TestTemplateFunctions(t *testing.T) {
	assert.Equal(t, "now", ago(999*time.Millisecond))
	assert.Equal(t, "59 s", ago(59*time.Second))
	assert.Equal(t, "47 h", ago(47*time.Hour))
	assert.Equal(t, "2 d", ago(48*time.Hour))
	assert.Equal(t, "1\u202f234\u202f567", thousands("1234567"))
	assert.Equal(t, "-123", thousands("-123"))
	assert.Equal(t, "/pages/a%2Fb%3Fc%22", pathOf("pages", `a/b?c"`))
	assert.Equal(t, "É", initial("éa"))
}

// FuzzSessionCookie checks that only a value that was begun with a token's text is a session, of
// that token's holder and with the time that it contains.
func FuzzSessionCookie(f *testing.F) {
	now := noon
	known, err := tokens.New(tokens.Options{Admin: admin, Reader: reader})
	require.NoError(f, err)
	clock := func() time.Time { return now }
	s := newSessions([]byte(strings.Repeat("k", 32)), known, clock)
	mine := map[string]string{} // names by what a cookie contains, since its bytes are random
	for _, text := range []string{admin, reader} {
		h, err := s.find(text)
		require.NoError(f, err)
		body := binary.BigEndian.AppendUint64(nil, uint64(noon.Add(SessionLife).Unix()))
		proof := tokens.ProofOf(text)
		mine[string(slices.Concat(body, proof[:], []byte(h.Name)))] = h.Name
		f.Add(s.begin(h, proof))
		f.Add(s.begin(h, tokens.Proof{}))
	}
	other := newSessions([]byte(strings.Repeat("l", 32)), known, clock)
	h, err := other.find(admin)
	require.NoError(f, err)
	f.Add(other.begin(h, tokens.ProofOf(admin)))
	f.Add("")
	f.Add(strings.Repeat("A", 106))
	f.Fuzz(func(t *testing.T, value string) {
		h, _, expires, err := s.open(value)
		b, decodeErr := encoding.DecodeString(value)
		whole := decodeErr == nil && !strings.ContainsAny(value, "\r\n")
		want, begun := "", false
		if body, openErr := s.aead.Open(nil, nil, b, nil); whole && openErr == nil {
			want, begun = mine[string(body)]
		}
		require.Equal(t, begun, err == nil)
		if err == nil {
			require.Equal(t, want, h.Name)
			require.Equal(t, noon.Add(SessionLife).Unix(), expires.Unix())
		}
	})
}
