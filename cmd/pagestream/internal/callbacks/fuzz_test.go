package callbacks_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/callbacks"
)

// FuzzDeletionCode checks that the status page knows a code only if it was given to somebody, and
// shows no markup of another one.
func FuzzDeletionCode(f *testing.F) {
	var e fakeDisconnector
	mux := http.NewServeMux()
	callbacks.New(callbacks.Options{
		Apps: []callbacks.App{{Name: "one", Secrets: []string{secret}}}, Disconnector: &e, Eraser: &e, Key: []byte("key"),
		Now: func() time.Time { return now },
	}).Register(mux)
	given := func(code string) bool {
		head, mac, _ := strings.Cut(code, "-")
		m := hmac.New(sha256.New, []byte("key"))
		m.Write([]byte("data-deletion:" + head))
		return (len(head) == 20 || len(head) == 12) && mac == base64.RawURLEncoding.EncodeToString(m.Sum(nil)[:15])
	}
	form := url.Values{"signed_request": {sign(base64.RawURLEncoding, secret, payload)}}
	r := httptest.NewRequestWithContext(f.Context(), http.MethodPost, "/meta/data-deletion", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	var answer struct {
		Code string `json:"confirmation_code"`
	}
	require.NoError(f, json.Unmarshal(w.Body.Bytes(), &answer))
	require.True(f, given(answer.Code), answer.Code)
	f.Add(answer.Code)
	f.Add(answer.Code + "A")
	f.Add(strings.ToUpper(answer.Code))
	f.Add(answer.Code[1:])
	f.Add("")
	f.Add("-")
	f.Add("0a1b2c3d509b-x")
	f.Add("\xff-\xff")
	f.Add("<script>alert(1)</script>")
	f.Fuzz(func(t *testing.T, code string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/meta/data-deletion?code="+url.QueryEscape(code), nil)
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		want := http.StatusNotFound
		if given(code) {
			want = http.StatusOK
		}
		require.Equal(t, want, w.Code)
		if html.EscapeString(code) != code && len(code) > 3 {
			require.NotContains(t, w.Body.String(), code)
		}
	})
}
