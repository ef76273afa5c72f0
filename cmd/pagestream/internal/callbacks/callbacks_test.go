package callbacks_test

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/callbacks"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
)

const (
	secret = "a-secret-of-the-app"
	admin  = "102030405060708090" // more digits than a float can represent
)

// sign returns a signed_request in one base64 alphabet.
func sign(e *base64.Encoding, secret, payload string) string {
	body := e.EncodeToString([]byte(payload))
	m := hmac.New(sha256.New, []byte(secret))
	m.Write([]byte(body))
	return e.EncodeToString(m.Sum(nil)) + "." + body
}

func alphabets() map[string]*base64.Encoding {
	return map[string]*base64.Encoding{
		"url": base64.RawURLEncoding, "url padded": base64.URLEncoding,
		"standard": base64.RawStdEncoding, "standard padded": base64.StdEncoding,
	}
}

const payload = `{"user_id":"` + admin + `","algorithm":"HMAC-SHA256","issued_at":1780354000,"note":"~~~???>>>ÿ"}`

func TestParseSignedRequest(t *testing.T) {
	for name, e := range alphabets() {
		got, err := callbacks.ParseSignedRequest([]string{"old", secret}, sign(e, secret, payload))
		require.NoError(t, err, name)
		assert.Equal(t, callbacks.Request{UserID: admin, Issued: time.Unix(1780354000, 0).UTC(), Secret: 1}, got, name)
	}
	url := base64.RawURLEncoding
	for name, c := range map[string]struct {
		signed string
		err    error
		user   string
	}{
		"number":          {sign(url, secret, `{"user_id":102030405060708090,"algorithm":"hmac-sha256"}`), nil, admin},
		"old":             {sign(url, secret, `{"user_id":"1","algorithm":"HMAC-SHA256","issued_at":1}`), nil, "1"},
		"other secret":    {sign(url, "another", payload), callbacks.ErrSignature, ""},
		"empty secret":    {sign(url, "", payload), callbacks.ErrSignature, ""},
		"changed":         {strings.Replace(sign(url, secret, payload), ".ey", ".eY", 1), callbacks.ErrSignature, ""},
		"other algorithm": {sign(url, secret, `{"user_id":"1","algorithm":"none"}`), callbacks.ErrAlgorithm, ""},
		"no algorithm":    {sign(url, secret, `{"user_id":"1"}`), callbacks.ErrAlgorithm, ""},
		"no user":         {sign(url, secret, `{"algorithm":"HMAC-SHA256"}`), callbacks.ErrMalformed, ""},
		"a name":          {sign(url, secret, `{"algorithm":"HMAC-SHA256","user_id":"1 or 2"}`), callbacks.ErrMalformed, ""},
		"a float":         {sign(url, secret, `{"algorithm":"HMAC-SHA256","user_id":1.5e3}`), callbacks.ErrMalformed, ""},
		"not JSON":        {sign(url, secret, `user_id=1`), callbacks.ErrMalformed, ""},
		"empty":           {"", callbacks.ErrMalformed, ""},
		"no dot":          {"abc", callbacks.ErrMalformed, ""},
		"two dots":        {sign(url, secret, payload) + ".x", callbacks.ErrMalformed, ""},
		"not base64":      {"%%%.%%%", callbacks.ErrMalformed, ""},
		"huge":            {strings.Repeat("a", 1<<20) + ".b", callbacks.ErrMalformed, ""},
	} {
		got, err := callbacks.ParseSignedRequest([]string{secret, ""}, c.signed)
		require.ErrorIs(t, err, c.err, name)
		assert.Equal(t, c.user, got.UserID, name)
	}
}

func TestCorpusVectors(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "..", "..", "..", "..", "shared", "corpus", "SIGNATURES.json"))
	if err != nil {
		t.Skipf("no corpus: %v", err)
	}
	var in struct {
		Vectors []struct {
			Signed string `json:"signed_request"`
			Secret string `json:"secret"`
			Expect string `json:"expect"`
		} `json:"signed_request"`
	}
	require.NoError(t, json.Unmarshal(b, &in))
	require.NotEmpty(t, in.Vectors)
	for _, v := range in.Vectors {
		_, err := callbacks.ParseSignedRequest([]string{v.Secret}, v.Signed)
		assert.Equal(t, v.Expect == "valid", err == nil, "%s: %v", v.Expect, err)
	}
}

func FuzzParseSignedRequest(f *testing.F) {
	for _, e := range alphabets() {
		f.Add(sign(e, secret, payload), payload)
	}
	f.Add("a.b", `{"algorithm":"HMAC-SHA256","user_id":00}`)
	f.Fuzz(func(t *testing.T, s, inner string) {
		for _, one := range []string{s, sign(base64.RawURLEncoding, secret, inner)} {
			got, err := callbacks.ParseSignedRequest([]string{secret}, one)
			if err == nil {
				require.NotEmpty(t, got.UserID, "such an id was accepted")
				require.Empty(t, strings.Trim(got.UserID, "0123456789"), "such an id was accepted")
			}
		}
	})
}

// issued is the time of the payload, now that of the handler.
var (
	issued = time.Unix(1780354000, 0).UTC()
	now    = time.Date(2026, 6, 1, 23, 0, 0, 0, time.UTC)
)

// fakeDisconnector stores the arguments of DisconnectAdmin and Erase.
type fakeDisconnector struct {
	got    [][3]string
	erased []meta.AdminErasure
	before time.Time // what DisconnectAdmin has to get; zero is a second after issued
	done   meta.AdminErased
	err    error
}

func (e *fakeDisconnector) DisconnectAdmin(
	ctx context.Context, app, admin string, before time.Time, reason string,
) ([]meta.Outcome, error) {
	if _, ok := ctx.Deadline(); !ok {
		return nil, errors.New("it may wait without a limit")
	}
	if !before.Equal(cmp.Or(e.before, issued.Add(time.Second))) {
		return nil, errors.New("it ends connections that were made after the request")
	}
	e.got = append(e.got, [3]string{app, admin, reason})
	return make([]meta.Outcome, 2), e.err
}

func (e *fakeDisconnector) Erase(ctx context.Context, a meta.AdminErasure) (meta.AdminErased, error) {
	if _, ok := ctx.Deadline(); !ok {
		return e.done, errors.New("it may wait without a limit")
	}
	e.erased = append(e.erased, a)
	return e.done, e.err
}

func (e *fakeDisconnector) Done(_ context.Context, request string) (meta.AdminErased, error) {
	if !slices.ContainsFunc(e.erased, func(a meta.AdminErasure) bool { return a.Request == request }) {
		return meta.AdminErased{}, nil
	}
	return e.done, e.err
}

func serve(t *testing.T, e *fakeDisconnector, key string) string {
	t.Helper()
	mux := http.NewServeMux()
	callbacks.New(callbacks.Options{
		Apps: []callbacks.App{
			{Name: "one", Secrets: []string{"first"}}, {Name: "two", Secrets: []string{secret, "older"}},
		},
		Disconnector: e, Eraser: e,
		BaseURL: "https://example.org/",
		Key:     []byte(key),
		Now:     func() time.Time { return now },
	}).Register(mux)
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL
}

func post(t *testing.T, to, signed string) (int, string, http.Header) {
	t.Helper()
	r, err := http.PostForm(to, url.Values{"signed_request": {signed}})
	require.NoError(t, err)
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	return r.StatusCode, string(b), r.Header
}

func TestDeauthorize(t *testing.T) {
	var e fakeDisconnector
	base := serve(t, &e, "key")
	// Meta may repeat the callback.
	for _, path := range []string{"/meta/deauthorize", "/meta/deauthorize/two", "/meta/deauthorize"} {
		code, body, _ := post(t, base+path, sign(base64.URLEncoding, secret, payload))
		assert.Equal(t, http.StatusOK, code)
		assert.JSONEq(t, `{"success":true}`, body)
	}
	require.Len(t, e.got, 3)
	assert.Equal(t, [3]string{"two", admin, "the admin has removed the app"}, e.got[0])

	for name, c := range map[string]struct {
		path, signed string
		want         int
	}{
		"other secret":    {"", sign(base64.URLEncoding, "x", payload), http.StatusUnauthorized},
		"other app":       {"/one", sign(base64.URLEncoding, secret, payload), http.StatusUnauthorized},
		"unknown app":     {"/three", sign(base64.URLEncoding, secret, payload), http.StatusUnauthorized},
		"other algorithm": {"", sign(base64.URLEncoding, secret, `{"user_id":"1","algorithm":"HMAC-MD5"}`), http.StatusBadRequest},
		"nothing":         {"", "", http.StatusBadRequest},
		"huge":            {"", strings.Repeat("x", 1<<20), http.StatusBadRequest},
	} {
		code, body, _ := post(t, base+"/meta/deauthorize"+c.path, c.signed)
		assert.Equal(t, c.want, code, name)
		assert.NotContains(t, body, admin, name)
	}
	assert.Len(t, e.got, 3, "and nobody was disconnected by those")

	e.err = errors.New("the stream is full")
	code, body, head := post(t, base+"/meta/deauthorize", sign(base64.URLEncoding, secret, payload))
	assert.Equal(t, http.StatusServiceUnavailable, code, "so that Meta sends it again")
	assert.NotEmpty(t, head.Get("Retry-After"))
	assert.NotContains(t, body, "full")
}

func TestDataDeletion(t *testing.T) {
	var e fakeDisconnector
	base := serve(t, &e, "key")
	// In a form that was not escaped, "+" is decoded as a space.
	signed := sign(base64.StdEncoding, "older", payload)
	r, err := http.Post(base+"/meta/data-deletion", "application/x-www-form-urlencoded",
		strings.NewReader("signed_request="+strings.ReplaceAll(signed, "=", "%3D")))
	require.NoError(t, err)
	defer r.Body.Close()
	require.Equal(t, http.StatusOK, r.StatusCode)
	var out struct {
		URL  string `json:"url"`
		Code string `json:"confirmation_code"`
	}
	require.NoError(t, json.NewDecoder(r.Body).Decode(&out))
	require.True(t, strings.HasPrefix(out.URL, "https://example.org/meta/data-deletion?code="), out.URL)
	assert.Contains(t, out.URL, out.Code)
	assert.NotContains(t, out.URL, admin)
	require.Len(t, e.got, 1)
	assert.Equal(t, admin, e.got[0][1])

	path := strings.TrimPrefix(out.URL, "https://example.org")
	page := func(base, path string) (int, string) {
		r, err := http.Get(base + path)
		require.NoError(t, err)
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		assert.Contains(t, r.Header.Get("Content-Security-Policy"), "default-src 'none'")
		return r.StatusCode, string(b)
	}
	for _, base := range []string{base, serve(t, &e, "key")} { // the second one as after a restart
		code, body := page(base, path)
		assert.Equal(t, http.StatusOK, code)
		assert.Contains(t, body, out.Code)
		assert.Contains(t, body, "1 June 2026")
	}
	for name, p := range map[string]string{
		"longer": path + "A", "none": "/meta/data-deletion", "script": "/meta/data-deletion?code=%3Cscript%3E-x",
		"cut": path[:len(path)-5],
	} {
		code, body := page(base, p)
		assert.Equal(t, http.StatusNotFound, code, name)
		assert.NotContains(t, body, "<script")
	}
	code, _ := page(serve(t, &e, "another key"), path)
	assert.Equal(t, http.StatusNotFound, code)
}

// claims returns a payload about the admin that was issued at that time.
func claims(at time.Time) string {
	return fmt.Sprintf(`{"user_id":%q,"algorithm":"HMAC-SHA256","issued_at":%d}`, admin, at.Unix())
}

// TestOldAndFutureRequestsAreRefused checks that a signed_request that somebody has kept can't be used again later.
func TestOldAndFutureRequestsAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		payload, want string
	}{
		"30 days old":      {claims(now.Add(-30 * 24 * time.Hour)), "within the last 24 hours"},
		"just over a day":  {claims(now.Add(-24*time.Hour - time.Second)), "within the last 24 hours"},
		"without a time":   {`{"user_id":"1","algorithm":"HMAC-SHA256"}`, "within the last 24 hours"},
		"from tomorrow":    {claims(now.Add(24 * time.Hour)), "in the future"},
		"just over 1 min":  {claims(now.Add(time.Minute + time.Second)), "in the future"},
		"before the epoch": {`{"user_id":"1","algorithm":"HMAC-SHA256","issued_at":-5}`, "within the last 24 hours"},
	} {
		for _, path := range []string{"/meta/deauthorize", "/meta/data-deletion/two"} {
			var e fakeDisconnector
			code, body, _ := post(t, serve(t, &e, "key")+path, sign(base64.URLEncoding, secret, c.payload))
			assert.Equal(t, http.StatusBadRequest, code, name)
			assert.Contains(t, body, c.want, name)
			assert.Empty(t, e.got, name)
			assert.Empty(t, e.erased, name)
		}
	}
}

// TestRequestAheadEndsWhatIsThere checks that a request from a clock that is ahead ends no connection that is made after
// it has arrived, although it is dated before that: somebody could send it again then.
func TestRequestAheadEndsWhatIsThere(t *testing.T) {
	for _, ahead := range []time.Duration{0, time.Second, time.Minute} {
		for _, path := range []string{"/meta/deauthorize", "/meta/data-deletion"} {
			e := fakeDisconnector{before: now}
			code, body, _ := post(t, serve(t, &e, "key")+path, sign(base64.URLEncoding, secret, claims(now.Add(ahead))))
			require.Equal(t, http.StatusOK, code, body)
			require.Len(t, e.got, 1)
			for _, a := range e.erased {
				assert.Equal(t, now, a.Before)
			}
		}
	}
}

// TestStatusPageSaysWhatWasDone checks that each request has its own page with its numbers, that a repeated request
// has the same code, and that neither names the person.
func TestStatusPageSaysWhatWasDone(t *testing.T) {
	e := fakeDisconnector{done: meta.AdminErased{
		Pages: 3, Events: 41, Secrets: 5, At: time.Date(2026, 6, 1, 22, 58, 0, 0, time.UTC),
	}}
	base := serve(t, &e, "key")
	deletion := func() string {
		code, body, _ := post(t, base+"/meta/data-deletion", sign(base64.URLEncoding, secret, payload))
		require.Equal(t, http.StatusOK, code, body)
		var out struct {
			Code string `json:"confirmation_code"`
		}
		require.NoError(t, json.Unmarshal([]byte(body), &out))
		return out.Code
	}
	show := func(code string) string {
		r, err := http.Get(base + "/meta/data-deletion?code=" + url.QueryEscape(code))
		require.NoError(t, err)
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, r.StatusCode, string(b))
		assert.NotContains(t, string(b), admin)
		return string(b)
	}
	first := deletion()
	assert.Equal(t, first, deletion(), "a repeated request is the same request")
	require.Len(t, e.erased, 2)
	assert.Equal(t, e.erased[0], e.erased[1])
	assert.Equal(t, domain.AdminHash("two", admin), e.erased[0].Hash)
	assert.Equal(t, issued.Add(time.Second), e.erased[0].Before)
	assert.NotContains(t, e.erased[0].Request, admin)

	body := show(first)
	for _, want := range []string{
		"was carried out on 1 June 2026", "had connected: 3.", "with your id: 41.", "had given: 5.",
		"1 June 2026, 22:58 UTC",
	} {
		assert.Contains(t, body, want)
	}
	e.done.Open = 7
	body = show(first)
	assert.Contains(t, body, "7 of 41")
	assert.NotContains(t, body, "was carried out")
	e.done = meta.AdminErased{}
	assert.Contains(t, show(first), "Nothing was stored that names you")
	// A code of an earlier version, for which nothing is recorded.
	const old = "0a1b2c3d509b-"
	m := hmac.New(sha256.New, []byte("key"))
	m.Write([]byte("data-deletion:0a1b2c3d509b"))
	body = show(old + base64.RawURLEncoding.EncodeToString(m.Sum(nil)[:15]))
	assert.Contains(t, body, "was carried out on 1 July 2026")
	assert.Contains(t, body, "connection")

	e.err = errors.New("the stream is away")
	code, body, head := post(t, base+"/meta/data-deletion", sign(base64.URLEncoding, secret, payload))
	assert.Equal(t, http.StatusServiceUnavailable, code, "so that Meta sends it again")
	assert.NotEmpty(t, head.Get("Retry-After"))
	assert.NotContains(t, body, "away")
}
