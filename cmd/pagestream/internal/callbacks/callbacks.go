package callbacks

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
)

// Disconnector ends connections.
type Disconnector interface {
	// DisconnectAdmin ends every connection that the person has made through the app
	// and returns the outcome of each. It may be repeated. An error means that some
	// connections may not have ended.
	DisconnectAdmin(ctx context.Context, app, admin, reason string) ([]meta.Outcome, error)
}

// App is a configured app. Its secrets verify the signatures of the callbacks.
type App struct {
	Name    string
	Secrets []string
}

// timeout limits one request.
const timeout = 20 * time.Second

// Options configure a [Handler]. Apps and Disconnector are required.
type Options struct {
	// Apps are tried in order if the path names none.
	Apps         []App
	Disconnector Disconnector
	// BaseURL is the public URL of the listener, for the link to the status page.
	BaseURL string
	// Key signs the confirmation codes. It must be secret, and the same after a
	// restart, so that older codes stay valid.
	Key    []byte
	Now    func() time.Time
	Logger *slog.Logger
}

// Handler serves the callbacks. It is safe for concurrent use. Create it with [New].
type Handler struct{ opts Options }

// New returns the handler. It panics without a disconnector or a key, which is a
// programming error.
func New(o Options) *Handler {
	if o.Disconnector == nil || len(o.Key) == 0 {
		panic("callbacks: Disconnector and Key are required")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	o.BaseURL = strings.TrimSuffix(o.BaseURL, "/")
	return &Handler{o}
}

// Register adds the routes to mux. The callbacks exist with and without the app's
// name at the end of the path.
func (h *Handler) Register(mux *http.ServeMux) {
	mux.HandleFunc("POST /meta/deauthorize", h.deauthorize)
	mux.HandleFunc("POST /meta/deauthorize/{app}", h.deauthorize)
	mux.HandleFunc("POST /meta/data-deletion", h.deletion)
	mux.HandleFunc("POST /meta/data-deletion/{app}", h.deletion)
	mux.HandleFunc("GET /meta/data-deletion", h.status)
}

// deauthorize ends the connections of a person who has removed the app.
func (h *Handler) deauthorize(w http.ResponseWriter, r *http.Request) {
	if _, ok := h.end(w, r, "the admin has removed the app"); ok {
		answer(w, map[string]any{"success": true})
	}
}

// deletion ends the connections as well, and answers with the URL of the status page
// and the confirmation code.
func (h *Handler) deletion(w http.ResponseWriter, r *http.Request) {
	at, ok := h.end(w, r, "the admin has asked for their data to be deleted")
	if !ok {
		return
	}
	code := h.code(at)
	answer(w, map[string]any{
		"url":               h.opts.BaseURL + "/meta/data-deletion?code=" + url.QueryEscape(code),
		"confirmation_code": code,
	})
}

// end parses a request and ends the person's connections. If it returns false, it has
// written the answer.
func (h *Handler) end(w http.ResponseWriter, r *http.Request, reason string) (time.Time, bool) {
	r.Body = http.MaxBytesReader(w, r.Body, 2*maxRequest)
	if err := r.ParseForm(); err != nil {
		http.Error(w, "the form can't be read", http.StatusBadRequest)
		return time.Time{}, false
	}
	// A "+" that was not escaped was decoded as a space, which base64 does not have.
	signed := strings.ReplaceAll(r.PostForm.Get("signed_request"), " ", "+")
	app, req, err := h.parse(r.PathValue("app"), signed)
	switch {
	case errors.Is(err, ErrSignature):
		h.opts.Logger.Warn("callback is not signed by a configured app", "path", r.URL.Path)
		http.Error(w, err.Error(), http.StatusUnauthorized)
		return time.Time{}, false
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadRequest)
		return time.Time{}, false
	}
	// The work is finished even if Meta closes the connection.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), timeout)
	defer cancel()
	ended, err := h.opts.Disconnector.DisconnectAdmin(ctx, app, req.UserID, reason)
	if err != nil {
		h.opts.Logger.Error("connections of an admin can't be ended", "app", app, "ended", len(ended), "err", err)
		w.Header().Set("Retry-After", "60")
		http.Error(w, "it can't be recorded now; send it again", http.StatusServiceUnavailable)
		return time.Time{}, false
	}
	h.opts.Logger.Info("connections of an admin were ended", "app", app, "pages", len(ended), "reason", reason)
	return h.opts.Now(), true
}

// parse verifies a signed_request and returns the app that signed it.
func (h *Handler) parse(app, signed string) (string, Request, error) {
	last := ErrSignature
	for _, a := range h.opts.Apps {
		if app != "" && a.Name != app {
			continue
		}
		req, err := ParseSignedRequest(a.Secrets, signed)
		if err == nil {
			return a.Name, req, nil
		}
		if !errors.Is(err, ErrSignature) {
			last = err
		}
	}
	return "", Request{}, last
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(v)
}

// codeMAC is how many bytes of the MAC are in a code.
const codeMAC = 15

// code returns a confirmation code: random bytes, the day of the request and a MAC of
// both. It has no data of the person, and can be verified without stored state.
func (h *Handler) code(at time.Time) string {
	var b [8]byte
	_, _ = rand.Read(b[:4]) // never fails: crypto/rand
	copy(b[4:], fmt.Appendf(nil, "%04x", at.Unix()/(24*3600))[:4])
	head := hex.EncodeToString(b[:4]) + string(b[4:])
	return head + "-" + h.mac(head)
}

func (h *Handler) mac(head string) string {
	m := hmac.New(sha256.New, h.opts.Key)
	m.Write([]byte("data-deletion:" + head))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil)[:codeMAC])
}

// day returns the day of a confirmation code. It returns false if the MAC is wrong.
func (h *Handler) day(code string) (time.Time, bool) {
	head, mac, found := strings.Cut(code, "-")
	if !found || len(head) != 12 || !hmac.Equal([]byte(mac), []byte(h.mac(head))) {
		return time.Time{}, false
	}
	var days int64
	if _, err := fmt.Sscanf(head[8:], "%04x", &days); err != nil {
		return time.Time{}, false
	}
	return time.Unix(days*24*3600, 0).UTC(), true
}

const style = `body{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:2rem auto;padding:0 1rem;color:#1c2330}`

var statusPage = template.Must(template.New("status").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Data deletion</title><style>` + style + `</style></head><body>
<h1>Data deletion</h1>
{{if .Known}}<p>The request with the code <b>{{.Code}}</b> was carried out on {{.Day}}.</p>
<p>Every connection between this service and the pages that you had connected was ended, and the access tokens that you had given can't be used any more. Messages that customers have sent to those pages belong to the pages and were not part of the request.</p>
{{else}}<p>There is no request with this code.</p>{{end}}
</body></html>
`))

var stylePolicy = func() string {
	sum := sha256.Sum256([]byte(style))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; frame-ancestors 'none'; base-uri 'none'"
}()

// status serves the page on which a person sees the result of their deletion request.
func (h *Handler) status(w http.ResponseWriter, r *http.Request) {
	code := r.URL.Query().Get("code")
	day, known := h.day(code)
	var b bytes.Buffer
	if err := statusPage.Execute(&b, struct {
		Known     bool
		Code, Day string
	}{known, code, day.Format("2 January 2006")}); err != nil {
		http.Error(w, "the page can't be shown", http.StatusInternalServerError)
		return
	}
	head := w.Header()
	head.Set("Content-Type", "text/html; charset=utf-8")
	head.Set("Cache-Control", "no-store")
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Content-Security-Policy", stylePolicy)
	if !known {
		w.WriteHeader(http.StatusNotFound)
	}
	_, _ = w.Write(b.Bytes())
}
