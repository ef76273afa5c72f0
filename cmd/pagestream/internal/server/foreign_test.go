package server_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/config"
	"github.com/pagestream/pagestream/domain"
)

const otherSecret = "the secret of the other app"

// postAs sends a delivery that an app has signed.
func (r *running) postAs(t *testing.T, app, secret string, body []byte) {
	t.Helper()
	m := hmac.New(sha256.New, []byte(secret))
	m.Write(body)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
		"http://"+r.PublicAddr()+"/webhooks/"+app, bytes.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(m.Sum(nil)))
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)
}

// TestAnAppSpeaksForItsOwnPagesOnly attacks a page that is connected through one app with
// deliveries that another configured app has signed.
func TestAnAppSpeaksForItsOwnPagesOnly(t *testing.T) {
	t.Parallel()
	g, cfg := newFakeMeta(t, 2)
	other := cfg.Apps[0]
	other.Name, other.ID, other.Secrets = "other", "901", []config.Secret{otherSecret}
	cfg.Apps = append(cfg.Apps, other)
	r := start(t, cfg)

	// Before the page is connected, the other app takes the id of a message that is still to come.
	r.postAs(t, "other", otherSecret, message("7000", "31", "m_1", "taken", 1790000000000))
	require.Equal(t, map[domain.Type]int{domain.MessageReceived: 1}, r.events(t, "7000"))
	// The page's own app delivers before it is connected, and again afterwards.
	r.postAs(t, "main", testSecret, message("7000", "31", "m_0", "early", 1789999999000))
	r.connectAll(t, g)
	r.postAs(t, "main", testSecret, message("7000", "31", "m_0", "early", 1789999999000))
	r.postAs(t, "main", testSecret, message("7000", "31", "m_1", "hello", 1790000000000))

	unsend := `{"object":"page","entry":[{"id":"7000","time":1790000005000,"messaging":[{"sender":{"id":"31"},` +
		`"recipient":{"id":"7000"},"timestamp":1790000004000,"message":{"mid":"m_1","is_deleted":true}}]}]}`
	for range 2 { // the second time, each is a duplicate
		r.postAs(t, "other", otherSecret, message("7000", "31", "m_2", "not theirs", 1790000001000))
		r.postAs(t, "other", otherSecret, []byte(unsend))
	}
	r.postAs(t, "main", testSecret, message("7000", "31", "m_2", "theirs", 1790000001000))

	events := r.events(t, "7000")
	require.Equal(t, 2, events[domain.ForeignReceived])
	require.Equal(t, 4, events[domain.MessageReceived], "m_0, m_1 twice, m_2")
	require.Zero(t, events[domain.MessageDeleted])
	texts := map[string]string{}
	for _, m := range r.messages(t, "7000", "31") {
		require.False(t, m.Deleted)
		texts[m.MID] = m.Text
	}
	require.Equal(t, "theirs", texts["m_2"])

	p := get[operate.Page](t, r, "/api/v1/pages/7000")
	require.EqualValues(t, 2, p.Traffic.Types[domain.ForeignReceived])
	require.Equal(t, "901", p.Traffic.ForeignApp)
	causes := map[meta.State]bool{}
	for _, f := range p.Judgement.Findings {
		causes[f.Cause] = true
	}
	require.True(t, causes[meta.StateForeign], "%v", causes)

	// An event of the page that has no app is as before, and an operator can mend a wrong judgement.
	r.postAs(t, "other", otherSecret, message("8000", "31", "m_1", "unconnected", 1790000000000))
	require.Equal(t, map[domain.Type]int{domain.MessageReceived: 1}, r.events(t, "8000"))
	r.postAs(t, "other", otherSecret, message("7001", "32", "m_9", "adopted", 1790000000000))
	code, _, stderr := r.command(t, "events", "adopt", "7001")
	require.Equal(t, 2, code)
	require.Contains(t, stderr, "--all")
	for i, want := range []string{"1 events adopted; 0 were", "0 events adopted; 1 were"} {
		code, out, stderr := r.command(t, "events", "adopt", "7001", "--all")
		require.Zero(t, code, stderr)
		require.Contains(t, out, want, "time %d", i+1)
	}
	m := r.messages(t, "7001", "32")
	require.Len(t, m, 1)
	require.Equal(t, "adopted", m[0].Text)
	require.Equal(t, fmt.Sprintf("%s:7001:msg:m_9", "page"), m[0].ID)
	code, _, stderr = r.command(t, "events", "adopt", "7000", "1")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "event 1 is no event of another app")
}

// TestTheAppThatAPageMovedToIsItsOwner checks that the connections before an event judge
// it, also directly after the page has moved.
func TestTheAppThatAPageMovedToIsItsOwner(t *testing.T) {
	t.Parallel()
	g, cfg := newFakeMeta(t, 1)
	other := cfg.Apps[0]
	other.Name, other.ID, other.Secrets = "other", "901", []config.Secret{otherSecret}
	cfg.Apps = append(cfg.Apps, other)
	r := start(t, cfg)
	r.connectAll(t, g)
	for i := range 20 { // the page moves to and fro
		app, id, secret, loser, loserSecret := "other", "901", otherSecret, "main", testSecret
		if i%2 == 1 {
			app, id, secret, loser, loserSecret = "main", testAppID, testSecret, "other", otherSecret
		}
		last, err := r.Publisher().LastOf(t.Context(), "7000", domain.PageConnected)
		require.NoError(t, err)
		_, err = r.Publisher().Append(t.Context(), domain.Event{
			ID: fmt.Sprintf("move-%d", i), Type: domain.PageConnected, Page: "7000",
			Data: domain.Data{Connection: &domain.Connection{ConnectionID: fmt.Sprint(i), App: app, AppID: id}},
		}, last)
		require.NoError(t, err)
		r.postAs(t, app, secret, message("7000", "31", fmt.Sprintf("own_%d", i), "own", 4000000000000))
		r.postAs(t, loser, loserSecret, message("7000", "31", fmt.Sprintf("foreign_%d", i), "foreign", 4000000000000))
	}
	events := r.events(t, "7000")
	require.Equal(t, 20, events[domain.MessageReceived])
	require.Equal(t, 20, events[domain.ForeignReceived])
}
