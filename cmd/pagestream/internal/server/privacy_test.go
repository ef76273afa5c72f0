package server_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/pages"
)

// callback posts a signed request about a user, as Meta does, and returns the status and the body.
func (r *running) callback(t *testing.T, path, user string) (int, string) {
	t.Helper()
	payload := fmt.Appendf(nil, `{"algorithm":"HMAC-SHA256","user_id":%q,"issued_at":%d}`, user, time.Now().Unix())
	body := base64.RawURLEncoding.EncodeToString(payload)
	m := hmac.New(sha256.New, []byte(testSecret))
	m.Write([]byte(body))
	signed := base64.RawURLEncoding.EncodeToString(m.Sum(nil)) + "." + body
	resp, err := http.PostForm("http://"+r.PublicAddr()+path, url.Values{"signed_request": {signed}})
	require.NoError(t, err)
	return resp.StatusCode, read(t, resp)
}

// TestMetaCallbacksDisconnectPages checks that both callbacks disconnect the pages that the user
// connected, and that deliveries for these pages are still stored.
func TestMetaCallbacksDisconnectPages(t *testing.T) {
	for _, path := range []string{"/meta/deauthorize", "/meta/data-deletion"} {
		t.Run(path, func(t *testing.T) {
			g, cfg := newFakeMeta(t, 3)
			r := start(t, cfg)
			r.connectAll(t, g)
			code, body := r.callback(t, path, "5555555") // somebody else
			require.Equal(t, http.StatusOK, code, body)
			assert.Equal(t, pages.Connected, get[pages.Page](t, r, "/api/v1/pages/7000").State)
			code, body = r.callback(t, path, testUser)
			require.Equal(t, http.StatusOK, code, body)
			require.NoError(t, r.Model("pages").WaitFor(t.Context(), lastSeq(t, r)))
			for i := range 3 {
				p := get[pages.Page](t, r, fmt.Sprint("/api/v1/pages/", 7000+i))
				assert.Equal(t, pages.Disconnected, p.State)
				_, subscribed := g.SubscribedFields(testAppID, string(p.ID))
				assert.False(t, subscribed)
			}
			last := lastSeq(t, r)
			code, body = r.callback(t, path, testUser) // again
			require.Equal(t, http.StatusOK, code)
			assert.Equal(t, last, lastSeq(t, r))
			delivery := message("7000", "31", "m_1", "still here", 1790000000000)
			require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), delivery))
			assert.Equal(t, 1, r.events(t, "7000")[domain.MessageReceived])
			if path == "/meta/deauthorize" {
				return
			}
			var out struct{ URL string }
			require.NoError(t, json.Unmarshal([]byte(body), &out))
			r.stop(t)
			r = start(t, cfg)
			link, err := url.Parse(out.URL)
			require.NoError(t, err)
			resp, err := http.Get("http://" + r.PublicAddr() + link.RequestURI())
			require.NoError(t, err)
			assert.Equal(t, http.StatusOK, resp.StatusCode, "the status page is known after a restart")
			assert.Contains(t, read(t, resp), "was carried out on")
		})
	}
}

// TestEraseFromTheCommandLine checks that a contact is removed from the stream and the read models,
// that other contacts are kept, and that a redelivery is not stored again.
func TestEraseFromTheCommandLine(t *testing.T) {
	r := start(t, testConfig(t.TempDir()))
	for i := range 6 {
		body := message("104", fmt.Sprint("310", i%2), fmt.Sprint("m_", i), "a private word", 1790000000000+int64(i))
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), body))
	}
	code, _, stderr := r.command(t, "erase", "104", "3100")
	assert.Equal(t, cli.ExitUsage, code)
	assert.Contains(t, stderr, "--yes")
	code, out, stderr := r.command(t, "erase", "104", "3100", "--yes")
	require.Equal(t, cli.ExitOK, code, stderr)
	assert.Contains(t, out, "3 events are removed from the stream")
	code, out, _ = r.command(t, "erase", "104", "3100", "--yes")
	assert.Equal(t, cli.ExitOK, code)
	assert.Contains(t, out, "nothing")
	st := status(t, r)
	require.NoError(t, r.Model("conversations").WaitFor(t.Context(), st.Stream.LastSeq))
	_, out, _ = r.command(t, "conversations", "show", "104", "3100")
	assert.Contains(t, out, "has no messages")
	code, out, _ = r.command(t, "conversations", "show", "104", "3101")
	assert.Equal(t, cli.ExitOK, code)
	assert.Contains(t, out, "a private word")
	redelivery := message("104", "3100", "m_0", "a private word", 1790000000000)
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), redelivery))
	assert.Equal(t, 3, r.events(t, "104")[domain.MessageReceived], "the redelivery is a duplicate")
}
