package console

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

const (
	admin  = "the-admin-token-of-this-test-is-long"
	reader = "the-other-token-of-this-test-is-long"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func testSessions(key string, now *time.Time) *sessions {
	return newSessions([]byte(strings.Repeat(key, 32)), map[Role]string{Admin: admin, ReadOnly: reader}, func() time.Time { return *now })
}

func TestSessions(t *testing.T) {
	now := noon
	s := testSessions("k", &now)
	for token, want := range map[string]Role{admin: Admin, reader: ReadOnly, "": "", admin + " ": "", strings.ToUpper(admin): ""} {
		role, ok := s.role(token)
		assert.Equal(t, want != "", ok, token)
		assert.Equal(t, want, role, token)
	}
	a, b := s.begin(Admin), s.begin(Admin)
	assert.NotEqual(t, a, b)
	role, _, expires, ok := s.open(a)
	assert.True(t, ok)
	assert.Equal(t, Admin, role)
	assert.Equal(t, noon.Add(SessionLife).Unix(), expires.Unix())
	r, _, _, ok := s.open(s.begin(ReadOnly))
	assert.True(t, ok)
	assert.Equal(t, ReadOnly, r)

	// Another process with the same key and tokens knows it.
	_, _, _, ok = testSessions("k", &now).open(a)
	assert.True(t, ok)
	_, _, _, ok = testSessions("l", &now).open(a)
	assert.False(t, ok, "another key")
	other := newSessions([]byte(strings.Repeat("k", 32)), map[Role]string{Admin: admin + "2", ReadOnly: reader}, s.now)
	_, _, _, ok = other.open(a)
	assert.False(t, ok, "another admin token: who had the old one is out")

	// No byte of it can be another.
	for i := range a {
		flipped := []byte(a)
		flipped[i] ^= 1
		_, _, _, ok := s.open(string(flipped))
		assert.False(t, ok && i < len(a)-1, "byte %d", i) // the last has bits that are not used
	}
	for _, junk := range []string{"", "x", strings.Repeat("A", len(a)), a + "A", a[:len(a)-2]} {
		_, _, _, ok := s.open(junk)
		assert.False(t, ok, junk)
	}

	s.end(a)
	_, _, _, ok = s.open(a)
	assert.False(t, ok, "signed out")
	_, _, _, ok = s.open(b)
	assert.True(t, ok, "another session of the same token")
	now = noon.Add(SessionLife)
	_, _, _, ok = s.open(b)
	assert.False(t, ok, "expired")

	// What is remembered of sign-outs has a bound.
	now = noon
	for range maxSignOuts + 100 {
		s.end(s.begin(ReadOnly))
	}
	assert.LessOrEqual(t, len(s.ended), maxSignOuts)
}

func TestLocal(t *testing.T) {
	for next, want := range map[string]string{
		"/pages/7?x=1": "/pages/7?x=1", "/": "/", "": "/", "https://evil.example": "/", "//evil.example": "/", "/\\evil.example": "/",
		"javascript:alert(1)": "/", "pages": "/", "/sign-out": "/", "/live/totals": "/", "/a\r\nSet-Cookie: x": "/", "///evil.example": "/",
	} {
		assert.Equal(t, want, local(next), next)
	}
}

func TestCookie(t *testing.T) {
	c := &Console{sessions: testSessions("k", &noon)}
	for proto, secure := range map[string]bool{"": false, "https": true} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/sign-in", nil)
		r.Header.Set("X-Forwarded-Proto", proto)
		w := httptest.NewRecorder()
		c.setCookie(w, r, "v", 60)
		got := w.Result().Cookies()[0] //nolint:bodyclose // there is none
		assert.True(t, got.HttpOnly)
		assert.Equal(t, http.SameSiteLaxMode, got.SameSite)
		assert.Equal(t, secure, got.Secure)
	}
}

func TestWindow(t *testing.T) {
	for since, want := range map[time.Duration]window{
		time.Hour:          {Standard: true, Until: noon.Add(23 * time.Hour)},
		24 * time.Hour:     {Human: true, Until: noon.Add(6 * 24 * time.Hour)},
		7 * 24 * time.Hour: {},
	} {
		assert.Equal(t, want, windowOf(noon.Add(-since), noon), since)
	}
	assert.Equal(t, window{}, windowOf(time.Time{}, noon), "they never wrote")
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
		{At: at(50), To: subscriptions.Confirmed}, // healed at once
		{At: at(60), To: subscriptions.Removed},
	}
	gaps := gapsOf(history)
	assert.Equal(t, []gap{{From: at(10), To: at(40), Why: "fields gone"}, {From: at(60), Why: "subscription removed"}}, gaps)
	assert.Empty(t, gapsOf(history[:1]), "before the first confirmation nothing was promised")

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
	// On a page of later messages earlier gaps are not told again.
	assert.Len(t, itemsOf(list[1:], gapsOf(history)), 5)
	assert.Len(t, itemsOf(nil, gapsOf(history)), 2)
}

func TestAlarms(t *testing.T) {
	fine := pages.Page{State: pages.Connected, Token: pages.TokenValid}
	confirmed := &subscriptions.Subscription{State: subscriptions.Confirmed, Wanted: []string{"feed", "messages"}, Actual: []string{"feed", "messages"}}
	assert.Empty(t, alarmsOf(fine, confirmed, PageHealth{State: "confirmed"}, noon))
	assert.Equal(t, levelFine, worst(fine, nil))
	for name, c := range map[string]struct {
		change func(*pages.Page, *subscriptions.Subscription, *PageHealth)
		level  level
		text   string
	}{
		"dead token": {func(p *pages.Page, _ *subscriptions.Subscription, _ *PageHealth) { p.Token = pages.TokenInvalid }, levelWrong, "token refused"},
		"ending token": {func(p *pages.Page, _ *subscriptions.Subscription, _ *PageHealth) {
			p.TokenExpires = noon.Add(50 * time.Hour)
		}, levelWarning, "token ends in 2 d"},
		"fields missing": {func(_ *pages.Page, s *subscriptions.Subscription, _ *PageHealth) {
			s.State, s.Actual = subscriptions.Drifted, []string{"feed"}
		}, levelWrong, "fields missing: messages"},
		"refused": {func(_ *pages.Page, s *subscriptions.Subscription, _ *PageHealth) {
			s.State, s.Reason = subscriptions.Failed, "no"
		}, levelWrong, "subscription failed: no"},
		"app lacks": {func(_ *pages.Page, _ *subscriptions.Subscription, h *PageHealth) { h.AppMissing = []string{"feed"} }, levelWrong, "the app itself lacks: feed"},
		"silent": {func(_ *pages.Page, _ *subscriptions.Subscription, h *PageHealth) {
			h.Silent, h.SilentSince, h.Expected = true, noon.Add(-3*time.Hour), 21.4
		}, levelWrong, "silent for 3 h; 21 events expected"},
		"throttled": {func(_ *pages.Page, _ *subscriptions.Subscription, h *PageHealth) { h.State = "throttled" }, levelWarning, "fewer calls"},
		"restricted": {func(p *pages.Page, _ *subscriptions.Subscription, _ *PageHealth) {
			p.Policy = &pages.Policy{Action: "block", Reason: "spam"}
		}, levelWarning, "Meta: block: spam"},
		"standby":    {func(p *pages.Page, _ *subscriptions.Subscription, _ *PageHealth) { p.Traffic.StandbyRun = 9 }, levelWarning, "another app"},
		"never ours": {func(p *pages.Page, _ *subscriptions.Subscription, _ *PageHealth) { p.State = pages.Unknown }, levelWarning, "not connected"},
		"still coming": {func(p *pages.Page, _ *subscriptions.Subscription, _ *PageHealth) {
			p.State, p.StateSince, p.Traffic.LastInboundAt = pages.Disconnected, noon, noon.Add(time.Hour)
		}, levelWarning, "still sends"},
	} {
		p, s, h := fine, *confirmed, PageHealth{State: "confirmed"}
		c.change(&p, &s, &h)
		got := alarmsOf(p, &s, h, noon)
		require.Len(t, got, 1, name)
		assert.Equal(t, c.level, got[0].Level, name)
		assert.Contains(t, got[0].Text, c.text, name)
		assert.Equal(t, c.level, worst(p, got), name)
	}
	assert.Equal(t, levelAway, worst(pages.Page{State: pages.Disconnected}, nil))
}

func TestFilter(t *testing.T) {
	r := row{Page: pages.Page{ID: "700", Name: "Corner Bakery", Company: "acme", State: pages.Connected}, Level: levelWarning}
	for f, want := range map[filter]bool{
		{}: true, {Query: "BAKE"}: true, {Query: "70"}: true, {Query: "acm"}: true, {Query: "x"}: false, {Show: "alarms"}: true,
		{Show: "disconnected"}: false, {Show: "connected", Company: "acme"}: true, {Company: "other"}: false,
	} {
		assert.Equal(t, want, f.takes(r), f)
	}
	r.Level = levelFine
	assert.False(t, filter{Show: "alarms"}.takes(r))
}

func TestRates(t *testing.T) {
	var r rates
	r.add(Intake{Stored: 100, Duplicates: 7}) // what was before is no rate
	for i := range uint64(rateSeconds + 3) {
		r.add(Intake{Stored: 100 + 10*(i+1), Duplicates: 7 + i + 1})
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
	r.add(Intake{}) // a ledger that was begun anew is no rate either
	stored, _ = r.last()
	assert.Zero(t, stored[rateSeconds-1])
}

func TestWords(t *testing.T) {
	assert.Equal(t, "now", ago(999*time.Millisecond))
	assert.Equal(t, "59 s", ago(59*time.Second))
	assert.Equal(t, "47 h", ago(47*time.Hour))
	assert.Equal(t, "2 d", ago(48*time.Hour))
	assert.Equal(t, "1\u202f234\u202f567", thousands("1234567"))
	assert.Equal(t, "-123", thousands("-123"))
	assert.Equal(t, "/pages/a%2Fb%3Fc%22", pathOf("pages", `a/b?c"`))
	assert.Equal(t, "É", initial("éa"))
	assert.Equal(t, "id: 7\nevent: x\ndata: a\ndata: b\n\n", notice{id: 7, event: "x", data: "a\nb\n"}.String())
	assert.Equal(t, "event: x\ndata:\n\n", notice{event: "x"}.String())
}
