package callbacks

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
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
	"strconv"
	"strings"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
)

// Disconnector ends connections.
type Disconnector interface {
	// DisconnectAdmin ends every connection that the person has made through the app
	// before that time, and returns the outcome of each. It may be repeated. An error
	// means that some connections may not have ended.
	DisconnectAdmin(ctx context.Context, app, admin string, before time.Time, reason string) ([]meta.Outcome, error)
}

// Eraser erases the data of a person who connected pages.
type Eraser interface {
	// Erase erases what the person's id is in, and the tokens. It may be repeated.
	Erase(ctx context.Context, a meta.AdminErasure) (meta.AdminErased, error)
	// Done returns what was done for a request.
	Done(ctx context.Context, request string) (meta.AdminErased, error)
}

// App is a configured app. Its secrets verify the signatures of the callbacks.
type App struct {
	Name    string
	Secrets []string
}

const (
	// timeout limits one request, statusTimeout one request for the status page.
	timeout       = 20 * time.Second
	statusTimeout = 5 * time.Second
	// maxAge is how old a signed_request may be.
	maxAge = 24 * time.Hour
	// maxSkew is how far ahead of ours Meta's clock may be. For that long a request that is dated
	// ahead can be sent again and end connections that were made after it, so it is short.
	maxSkew = time.Minute
)

// Errors of a signed_request that is refused because of its time.
var (
	// ErrOld is returned when a signed_request was issued more than a day ago, or does
	// not say when.
	ErrOld = errors.New("signed_request was not issued within the last 24 hours")
	// ErrFuture is returned when a signed_request was issued in the future.
	ErrFuture = errors.New("signed_request was issued in the future; check this machine's clock")
)

// Options configure a [Handler]. Apps, Disconnector, Eraser and Key are required.
type Options struct {
	// Apps are tried in order if the path names none.
	Apps         []App
	Disconnector Disconnector
	Eraser       Eraser
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

// New returns the handler. It panics if a required option is missing, which is a
// programming error.
func New(o Options) *Handler {
	if o.Disconnector == nil || o.Eraser == nil || len(o.Key) == 0 {
		panic("callbacks: Disconnector, Eraser and Key are required")
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
	h.serve(w, r, func(ctx context.Context, app string, req Request) (any, error) {
		return map[string]any{"success": true}, h.end(ctx, app, req.UserID, h.before(req), "the admin has removed the app")
	})
}

// deletion ends the connections as well and erases the person's data, and answers with
// the URL of the status page and the confirmation code.
func (h *Handler) deletion(w http.ResponseWriter, r *http.Request) {
	h.serve(w, r, func(ctx context.Context, app string, req Request) (any, error) {
		before := h.before(req)
		if err := h.end(ctx, app, req.UserID, before, "the admin has asked for their data to be deleted"); err != nil {
			return nil, err
		}
		request := h.request(app, req)
		done, err := h.opts.Eraser.Erase(ctx, meta.AdminErasure{
			Hash: domain.AdminHash(app, req.UserID), Before: before, Request: request,
		})
		if err != nil {
			return nil, fmt.Errorf("erase data: %w", err)
		}
		h.opts.Logger.Info("data of an admin were erased", "app", app, "pages", done.Pages, "events", done.Events,
			"secrets", done.Secrets)
		code := request + "-" + h.mac(request)
		return map[string]any{
			"url":               h.opts.BaseURL + "/meta/data-deletion?code=" + url.QueryEscape(code),
			"confirmation_code": code,
		}, nil
	})
}

// serve parses a request, carries it out and answers.
func (h *Handler) serve(
	w http.ResponseWriter, r *http.Request, do func(ctx context.Context, app string, req Request) (any, error),
) {
	r.Body = http.MaxBytesReader(w, r.Body, 2*maxRequest)
	if err := r.ParseForm(); err != nil {
		http.Error(w, "the form can't be read", http.StatusBadRequest)
		return
	}
	// A "+" that was not escaped was decoded as a space, which base64 does not have.
	signed := strings.ReplaceAll(r.PostForm.Get("signed_request"), " ", "+")
	app, req, err := h.parse(r.PathValue("app"), signed)
	if err == nil {
		err = h.checkTime(req)
	}
	switch {
	case errors.Is(err, ErrSignature):
		h.opts.Logger.Warn("callback is not signed by a configured app", "path", r.URL.Path)
		http.Error(w, err.Error(), http.StatusUnauthorized)
		return
	case err != nil:
		h.opts.Logger.Warn("callback is refused", "path", r.URL.Path, "app", app, "err", err)
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	// The work is finished even if Meta closes the connection.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), timeout)
	defer cancel()
	out, err := do(ctx, app, req)
	if err != nil {
		h.opts.Logger.Error("callback can't be carried out", "path", r.URL.Path, "app", app, "err", err)
		w.Header().Set("Retry-After", "60")
		http.Error(w, "it can't be recorded now; send it again", http.StatusServiceUnavailable)
		return
	}
	answer(w, out)
}

// checkTime refuses a request that is too old or from the future: whoever has seen one
// could end new connections with it at any time later.
func (h *Handler) checkTime(req Request) error {
	switch age := h.opts.Now().Sub(req.Issued); {
	case req.Issued.IsZero() || age > maxAge:
		return ErrOld
	case age < -maxSkew:
		return ErrFuture
	}
	return nil
}

// before returns the time before which a connection was made that the request is about.
// issued_at has no fractions of a second, so its whole second counts, up to now.
func (h *Handler) before(req Request) time.Time {
	end := req.Issued.Add(time.Second)
	if now := h.opts.Now(); end.After(now) {
		return now
	}
	return end
}

// end ends the connections that the person made before a time.
func (h *Handler) end(ctx context.Context, app, admin string, before time.Time, reason string) error {
	ended, err := h.opts.Disconnector.DisconnectAdmin(ctx, app, admin, before, reason)
	if err != nil {
		return fmt.Errorf("end connections (%d have ended): %w", len(ended), err)
	}
	h.opts.Logger.Info("connections of an admin were ended", "app", app, "pages", len(ended), "reason", reason)
	return nil
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

// Lengths of a request in a confirmation code. Codes of earlier versions have a shorter
// one, for which nothing is recorded.
const (
	requestSize    = 8
	requestLen     = 2*requestSize + dayLen
	oldRequestLen  = 8 + dayLen
	dayLen         = 4
	secondsPerDay  = 24 * 3600
	dayFormat      = "2 January 2006"
	recordedFormat = "2 January 2006, 15:04 MST"
)

// request returns the identifier of a request: a MAC of it and its day. It says nothing
// about the person, and is the same if the request is repeated. A confirmation code is
// the identifier and a MAC of it.
func (h *Handler) request(app string, req Request) string {
	m := hmac.New(sha256.New, h.opts.Key)
	fmt.Fprintf(m, "data-deletion-request:%s:%s:%d", app, req.UserID, req.Issued.Unix())
	return hex.EncodeToString(m.Sum(nil)[:requestSize]) + fmt.Sprintf("%04x", req.Issued.Unix()/secondsPerDay)[:dayLen]
}

func (h *Handler) mac(head string) string {
	m := hmac.New(sha256.New, h.opts.Key)
	m.Write([]byte("data-deletion:" + head))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil)[:codeMAC])
}

// open returns the request of a confirmation code and its day. It returns false if the
// MAC is wrong.
func (h *Handler) open(code string) (request string, day time.Time, ok bool) {
	request, mac, found := strings.Cut(code, "-")
	if !found || len(request) != requestLen && len(request) != oldRequestLen ||
		!hmac.Equal([]byte(mac), []byte(h.mac(request))) {
		return "", time.Time{}, false
	}
	days, err := strconv.ParseInt(request[len(request)-dayLen:], 16, 64)
	if err != nil {
		return "", time.Time{}, false
	}
	return request, time.Unix(days*secondsPerDay, 0).UTC(), true
}

const style = `body{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:2rem auto;padding:0 1rem;color:#1c2330}`

var statusPage = template.Must(template.New("status").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Data deletion</title><style>` + style + `</style></head><body>
<h1>Data deletion</h1>
{{if not .Known}}<p>There is no request with this code.</p>
{{else if .Open}}<p>The request with the code <b>{{.Code}}</b> of {{.Day}} is being carried out:
{{.Open}} of {{.Events}} stored records are not deleted yet. Please look again in some minutes.</p>
{{else}}<p>The request with the code <b>{{.Code}}</b> was carried out on {{.Day}}.</p>
{{if .Old}}<p>Every connection between this service and the pages that you had connected was ended,
and the access tokens that you had given can't be used any more.</p>
{{else if .Events}}<ul>
<li>Pages that you had connected: {{.Pages}}. These connections have ended.</li>
<li>Stored records with your id: {{.Events}}. They are deleted; what remains of them does not name you.</li>
<li>Access tokens that you had given: {{.Secrets}}. They are erased.</li>
<li>Recorded: {{.At}}.</li>
</ul>
{{else}}<p>Nothing was stored that names you.</p>
{{end}}<p>Messages that customers have sent to those pages belong to the pages
and were not part of the request.</p>{{end}}
</body></html>
`))

var stylePolicy = func() string {
	sum := sha256.Sum256([]byte(style))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; frame-ancestors 'none'; base-uri 'none'"
}()

// status serves the page on which a person sees the result of their deletion request.
func (h *Handler) status(w http.ResponseWriter, r *http.Request) {
	var view struct {
		Known, Old                   bool
		Code, Day, At                string
		Pages, Events, Secrets, Open int
	}
	view.Code = r.URL.Query().Get("code")
	request, day, known := h.open(view.Code)
	view.Known, view.Old = known, len(request) == oldRequestLen
	if known && !view.Old {
		ctx, cancel := context.WithTimeout(r.Context(), statusTimeout)
		defer cancel()
		done, err := h.opts.Eraser.Done(ctx, request)
		if err != nil {
			h.opts.Logger.Error("state of a deletion request can't be read", "err", err)
			http.Error(w, "the page can't be shown now", http.StatusServiceUnavailable)
			return
		}
		view.Pages, view.Events, view.Secrets, view.Open = done.Pages, done.Events, done.Secrets, done.Open
		if !done.At.IsZero() {
			day, view.At = done.At.UTC(), done.At.UTC().Format(recordedFormat)
		}
	}
	view.Day = day.Format(dayFormat)
	var b bytes.Buffer
	if err := statusPage.Execute(&b, view); err != nil {
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
