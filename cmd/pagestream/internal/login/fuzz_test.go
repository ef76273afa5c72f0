package login_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/login"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
)

// FuzzCallback checks that Meta is asked for a consent only if a browser comes back with the state
// that it was given and a code, and that nothing of the address is shown.
func FuzzCallback(f *testing.F) {
	flow := &fakeFlow{consent: meta.Consent{Admin: "901", Pages: []meta.ConsentPage{{Page: "1", Name: "Bakery"}}}}
	h := login.New(login.Options{BaseURL: "https://pages.example", Flow: flow, Open: true})
	f.Cleanup(h.Close)
	mux := http.NewServeMux()
	h.Register(mux)
	for _, query := range []string{
		"state=STATE&code=abc", "state=STATE", "code=abc", "state=&code=abc", "state=STATE&error=access_denied&code=abc",
		"state=STATE&state=x&code=abc", "state=x&state=STATE&code=abc", "state=STATE&code=%3Cscript%3E", "%zz", "STATE",
	} {
		f.Add(query, true)
		f.Add(query, false)
	}
	f.Fuzz(func(t *testing.T, query string, sameBrowser bool) {
		begun := httptest.NewRecorder()
		mux.ServeHTTP(begun, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/oauth/start?app=main", nil))
		require.Equal(t, http.StatusFound, begun.Code)
		dialog, err := url.Parse(begun.Header().Get("Location"))
		require.NoError(t, err)
		state := dialog.Query().Get("state")
		require.NotEmpty(t, state)
		query = strings.ReplaceAll(query, "STATE", state)

		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/oauth/callback", nil)
		r.URL.RawQuery = query
		if sameBrowser {
			cookie, _, _ := strings.Cut(begun.Header().Get("Set-Cookie"), ";")
			r.Header.Set("Cookie", cookie)
		}
		asked := len(flow.codes)
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		q := r.URL.Query()
		back := sameBrowser && q.Get("state") == state
		consented := back && q.Get("error") == "" && q.Get("code") != ""
		switch {
		case consented:
			require.Equal(t, http.StatusOK, w.Code)
			require.Equal(t, q.Get("code")+" https://pages.example/oauth/callback", flow.codes[asked])
		case back && q.Get("error") != "":
			require.Equal(t, http.StatusOK, w.Code)
		default:
			require.Equal(t, http.StatusBadRequest, w.Code)
		}
		require.Equal(t, consented, len(flow.codes) > asked)
		for _, values := range q {
			for _, v := range values {
				if strings.ContainsAny(v, "<>\"'&") && len(v) > 3 {
					require.NotContains(t, w.Body.String(), v)
				}
			}
		}
		again := httptest.NewRecorder()
		mux.ServeHTTP(again, r)
		require.Equal(t, http.StatusBadRequest, again.Code, "a state is used once")
	})
}
