package console

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/streams"
)

//go:embed assets
var assetFiles embed.FS

//go:embed templates
var templateFiles embed.FS

// policy is the Content-Security-Policy: a browser may load only files of this server,
// run no inline scripts, and send forms only to this server.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// assetCache is the Cache-Control of the assets.
const assetCache = "public, max-age=300"

func assets() http.Handler {
	files := http.FileServerFS(assetFiles)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/") { // directories are not listed
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Cache-Control", assetCache)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		files.ServeHTTP(w, r)
	})
}

// templates are the pages by name. Each is the shared layout and parts with the page's
// own body.
var templates = func() map[string]*template.Template {
	shared := template.Must(template.New("layout.html").Funcs(functions).
		ParseFS(templateFiles, "templates/layout.html", "templates/parts.html"))
	out := map[string]*template.Template{}
	names, err := fs.Glob(templateFiles, "templates/*.html")
	if err != nil {
		panic(err)
	}
	for _, file := range names {
		name := strings.TrimSuffix(strings.TrimPrefix(file, "templates/"), ".html")
		if name == "layout" || name == "parts" {
			continue
		}
		out[name] = template.Must(template.Must(shared.Clone()).ParseFS(templateFiles, file))
	}
	return out
}()

var functions = template.FuncMap{
	"ago":     func(t time.Time) string { return ago(time.Since(t)) },
	"until":   func(t time.Time) string { return ago(time.Until(t)) },
	"rfc":     func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	"utc":     func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
	"command": func(step string) bool { return strings.HasPrefix(step, "pagestream ") },
	"minute":  func(t time.Time) string { return t.UTC().Format("2006-01-02T15:04") },
	"clock":   func(t time.Time) string { return t.UTC().Format("15:04:05") },
	"span":    ago,
	"count":   func(n any) string { return thousands(fmt.Sprint(n)) },
	"words":   func(s any) string { return strings.ReplaceAll(fmt.Sprint(s), "_", " ") },
	"path":    pathOf,
	"parts":   partsOf,
	"options": optionsOf,
	"dict":    dict,
	"deref": func(f *float64) float64 {
		if f == nil {
			return 0
		}
		return *f
	},
	"label":   func(r meta.Remedy) string { return remedyLabels[r] },
	"millis":  func(ms int64) string { return ago(time.Duration(ms) * time.Millisecond) },
	"initial": initial,
}

// dict returns a map of pairs of a name and a value, for a part that needs several values.
func dict(pairs ...any) map[string]any {
	out := map[string]any{}
	for i := 0; i+1 < len(pairs); i += 2 {
		out[fmt.Sprint(pairs[i])] = pairs[i+1]
	}
	return out
}

// partsOf lets a line break after each "_" and "." of a name, and nowhere else.
func partsOf(name any) template.HTML {
	text := template.HTMLEscapeString(fmt.Sprint(name))
	return template.HTML(strings.NewReplacer("_", "_<wbr>", ".", ".<wbr>").Replace(text)) //nolint:gosec // escaped above
}

// optionsOf keeps each option of a command on one line: a browser would break it after its hyphens.
func optionsOf(command string) template.HTML {
	words := strings.Split(command, " ")
	for i, w := range words {
		if w = template.HTMLEscapeString(w); strings.HasPrefix(w, "-") {
			w = `<span class="short">` + w + `</span>`
		}
		words[i] = w
	}
	return template.HTML(strings.Join(words, " ")) //nolint:gosec // escaped above
}

// remedyLabels are the texts of the buttons that carry out a remedy.
var remedyLabels = map[meta.Remedy]string{
	meta.RemedyCheck: "Check again", meta.RemedyResubscribe: "Resubscribe",
	meta.RemedyConnect: "Reconnect", meta.RemedyRedrive: "Redrive",
}

// pathOf returns the path with these elements. Ids come from outside, so each element
// is escaped.
func pathOf(parts ...any) string {
	var b strings.Builder
	for _, p := range parts {
		b.WriteString("/" + url.PathEscape(fmt.Sprint(p)))
	}
	return b.String()
}

// initial returns the first letter of a name. It is shown instead of a picture, which
// would have to be loaded from another server.
func initial(name string) string {
	for _, r := range name {
		return strings.ToUpper(string(r))
	}
	return "?"
}

// ago formats a duration in its largest unit, shortly enough for a table.
func ago(d time.Duration) string {
	switch {
	case d < time.Second:
		return "now"
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d d", int(d.Hours()/24))
}

// thousands groups digits by three, separated by narrow no-break spaces.
func thousands(s string) string {
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return s
}

// frame contains the layout's fields, and the page's own View.
type frame struct {
	Title string
	// Page is the name of the template.
	Page    string
	Role    Role
	Admin   bool
	Version string
	// Breakable is set if there is a fake Meta to break.
	Breakable bool
	// Done and Failed are the message about a submitted form's success or failure.
	Done, Failed string
	View         any
}

// show responds with a page. If the page can't be rendered it responds 500.
func (c *Console) show(w http.ResponseWriter, r *http.Request, status int, name, title string, view any) {
	c.showOutcome(w, r, status, name, title, view, "", "")
}

// showOutcome responds with a page and the message about a submitted form.
func (c *Console) showOutcome(w http.ResponseWriter, r *http.Request, status int, name, title string, view any,
	done, failed string,
) {
	var role Role
	if h, err := c.sessions.of(r); err == nil {
		role = roleOf(h)
	}
	f := frame{
		Title: title, Page: name, Role: role, Admin: role == Admin, Version: c.opts.Version,
		Done: done, Failed: failed, View: view, Breakable: c.opts.Breaker != nil,
	}
	var b bytes.Buffer
	if err := templates[name].Execute(&b, f); err != nil {
		c.opts.Logger.Error("page can't be rendered", "page", name, "err", err)
		http.Error(w, "the page can't be shown; the server's log has the cause", http.StatusInternalServerError)
		return
	}
	head := w.Header()
	head.Set("Content-Type", "text/html; charset=utf-8")
	head.Set("Content-Security-Policy", policy)
	head.Set("Cache-Control", "no-store")
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("X-Frame-Options", "DENY")
	head.Set("Referrer-Policy", "same-origin")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}

// part renders one named part of a page.
func part(name string, view any) ([]byte, error) {
	var b bytes.Buffer
	err := templates["overview"].ExecuteTemplate(&b, name, view)
	return b.Bytes(), err
}

// problem is an error whose text is shown to the user.
type problem struct {
	status int
	text   string
}

func (p problem) Error() string { return p.text }

func notFound(text string) error { return problem{http.StatusNotFound, text} }
func badInput(text string) error { return problem{http.StatusBadRequest, text} }

// serve is a handler that returns an error instead of showing it; see
// [Console.handler].
type serve func(http.ResponseWriter, *http.Request) error

// handler requires a session, and the admin role for requests that change anything, which
// are put on record. It shows an error of serve as a page. An error that is not meant for
// the user is logged here, once.
func (c *Console) handler(route route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, err := c.sessions.of(r)
		if err != nil {
			c.askSignIn(w, r)
			return
		}
		safe := r.Method == http.MethodGet || r.Method == http.MethodHead
		if safe {
			ctx, cancel := h.Until(r.Context())
			defer cancel()
			r = r.WithContext(ctx)
		} else {
			action := c.opts.History.Begin(r, h.Name, string(h.Scope), route.verb)
			defer action.End()
			recorded := &statusWriter{ResponseWriter: w, status: http.StatusInternalServerError}
			defer func() { action.Ended(recorded.status, 0) }()
			w, r = recorded, r.WithContext(action.With(r.Context()))
			action.On("page", r.PathValue("page"))
			noun, _, _ := strings.Cut(route.verb, "_")
			action.On(strings.TrimSuffix(noun, "s"), r.PathValue("name"))
			action.OnContact(contactOf(r))
			if roleOf(h) != Admin {
				action.Denied(http.StatusForbidden)
			}
		}
		if roleOf(h) != Admin && (!safe || route.admin) {
			text := "You are signed in as read-only: sign out, and in again with the admin token, to change anything."
			if safe {
				text = "This is for administrators only: sign out, and in again with the admin token, to see it."
			}
			c.showError(w, r, problem{http.StatusForbidden, text})
			return
		}
		if !safe {
			r.Body = http.MaxBytesReader(w, r.Body, maxForm)
			if err := r.ParseForm(); err != nil {
				c.showError(w, r, badInput("The form could not be read."))
				return
			}
			// The contact is not logged.
			c.opts.Logger.Info("console action requested", "what", r.Pattern, "page", r.PathValue("page"))
		}
		if err := route.serve(w, r); err != nil && r.Context().Err() == nil {
			c.showError(w, r, err)
		}
	})
}

// statusWriter remembers the status of a response; that of none is a failure.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader remembers the status.
func (s *statusWriter) WriteHeader(status int) {
	s.status = status
	s.ResponseWriter.WriteHeader(status)
}

// Unwrap is for [http.ResponseController].
func (s *statusWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// maxForm bounds the body of a form, in bytes.
const maxForm = 64 << 10

// askSignIn redirects to the sign-in page, which redirects back afterwards.
func (c *Console) askSignIn(w http.ResponseWriter, r *http.Request) {
	target := "/sign-in"
	if r.Method == http.MethodGet {
		target += "?next=" + template.URLQueryEscaper(r.URL.RequestURI())
	}
	switch {
	case strings.HasPrefix(r.URL.Path, "/live/"):
		http.Error(w, "sign in first", http.StatusUnauthorized)
	case r.Header.Get("HX-Request") != "":
		w.Header().Set("HX-Redirect", "/sign-in")
		w.WriteHeader(http.StatusUnauthorized)
	default:
		http.Redirect(w, r, target, http.StatusSeeOther)
	}
}

func (c *Console) showError(w http.ResponseWriter, r *http.Request, err error) {
	var p problem
	switch {
	case errors.As(err, &p):
	case errors.Is(err, pages.ErrNotFound):
		p = problem{http.StatusNotFound, "This page is unknown: no event about it was ever stored."}
	case errors.Is(err, conversations.ErrErased):
		p = problem{http.StatusGone, "This conversation was erased at the contact's request."}
	case errors.Is(err, conversations.ErrNotFound):
		p = problem{http.StatusNotFound, "There is no such conversation."}
	case errors.Is(err, conversations.ErrCursor):
		p = problem{http.StatusBadRequest, "That position in the list no longer exists; start again from the beginning."}
	case errors.Is(err, streams.ErrNotFound):
		p = problem{http.StatusNotFound, "There is no such event: it was erased, or is not stored yet."}
	case errors.Is(err, streams.ErrMalformed):
		p = problem{http.StatusUnprocessableEntity, "This message in the stream is not an event; the audit counts it."}
	case errors.Is(err, projections.ErrDamaged):
		p = problem{http.StatusServiceUnavailable, "A read model was damaged and is being built again. Try again later: " +
			"the page Streams shows how far it is."}
	case errors.Is(err, context.DeadlineExceeded):
		p = problem{http.StatusGatewayTimeout, "It took too long; try again."}
	default:
		c.opts.Logger.Error("console request failed", "what", r.Pattern, "page", r.PathValue("page"), "err", err)
		p = problem{http.StatusInternalServerError, "That did not work; the server's log has the cause."}
	}
	c.show(w, r, p.status, "problem", http.StatusText(p.status), p.text)
}

// pretty returns JSON indented, as text that is valid UTF-8. It does not indent what is no
// JSON, or is nested deeply: the spaces would grow with the square of the depth.
func pretty(raw []byte) string {
	var b bytes.Buffer
	text := bytes.ToValidUTF8(raw, []byte("\uFFFD"))
	if domain.TooDeep(text) || json.Indent(&b, text, "", "  ") != nil {
		return string(text)
	}
	return b.String()
}
