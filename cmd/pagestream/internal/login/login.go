package login

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

// ErrNoBaseURL is returned when nobody knows under which address a browser reaches
// us.
var ErrNoBaseURL = errors.New("logins need the public address; set http.base_url to it, as in https://pagestream.example.com")

// ErrBack is returned when nobody can be led to where an invitation ends.
var ErrBack = errors.New("the way back is no http or https URL of at most 2000 bytes")

// How long the steps of a login may take.
const (
	InviteLife = time.Hour
	// StateLife is from the redirect to Meta until the person comes back.
	StateLife = 10 * time.Minute
	// ChoiceLife is from then until the pages are chosen.
	ChoiceLife = 30 * time.Minute
)

// timeout bounds the work of one request.
const timeout = 5 * time.Minute

const (
	maxInvites = 1000
	maxPending = 1000
	maxBody    = 1 << 20
	// maxPages bounds the pages of one choice; Meta shows no more to anybody.
	maxPages   = 10_000
	maxCompany = 200
	maxBack    = 2000
	cookieName = "pagestream_login"
	path       = "/oauth"
)

// Flow does what a login is for; connect.Connector is one. Its errors are for a
// person to read: they have no token in them.
type Flow interface {
	// LoginURL is where the person says yes.
	LoginURL(app, redirectURI, state string) (string, error)
	// ConsentByCode exchanges the code of a login, once, and changes nothing.
	ConsentByCode(ctx context.Context, app, redirectURI, code string) (meta.Consent, error)
	// Apply connects the chosen pages, each for itself, and calls progress with each
	// when it is done. An error says why the others were not.
	Apply(
		ctx context.Context, c meta.Consent, choice meta.Choice, progress func(meta.Outcome),
	) ([]meta.Outcome, error)
}

// Options configure a [Handler]. Flow is required.
type Options struct {
	// BaseURL is the public listener as a browser sees it.
	BaseURL string
	Flow    Flow
	// Open lets anybody in without an invitation.
	Open   bool
	Now    func() time.Time
	Logger *slog.Logger
}

// Handler serves the flow. Make one with [New]; it is safe for concurrent use.
type Handler struct {
	opts   Options
	secure bool
	prefix string // of the base URL's path

	mu      sync.Mutex
	invites *simplelru.LRU[string, invite]
	pending *simplelru.LRU[string, *pending]

	ctx    context.Context // ends what runs in the background
	cancel context.CancelFunc
	work   sync.WaitGroup
}

// invite is a link that was given out and not used yet.
type invite struct {
	app, company string
	back         string // where the last page leads, empty for nowhere
	fields       []string
	expires      time.Time
}

// pending is one login on its way, kept under the hash of its session cookie.
type pending struct {
	invite
	link    string // the invitation's key; empty where none was needed
	state   []byte // hash; nil once it was used
	expires time.Time
	// consent is set when the person has come back; csrf guards the choice.
	consent *meta.Consent
	csrf    []byte
	// work is what was begun by the choice.
	work *connecting
}

// connecting is a choice that is carried out.
type connecting struct {
	done chan struct{}

	mu      sync.Mutex
	pages   []meta.Outcome // State is empty while a page waits
	gone    []meta.ConsentPage
	failure error
}

// result takes what became of one page.
func (c *connecting) result(o meta.Outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, p := range c.pages {
		if p.Page == o.Page {
			c.pages[i] = o
		}
	}
}

// fail ends the work: of the pages that are not done, or of all if none is.
func (c *connecting) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.ContainsFunc(c.pages, func(o meta.Outcome) bool { return o.State != "" }) {
		c.failure = err
		return
	}
	for i := range c.pages {
		if c.pages[i].State == "" {
			c.pages[i].State, c.pages[i].Reason = subscriptions.Failed, err.Error()
		}
	}
}

// view is how far it is.
func (c *connecting) view() (v resultView, failure error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v = resultView{Results: slices.Clone(c.pages), Gone: c.gone}
	for _, o := range v.Results {
		if o.State == "" {
			v.Waiting++
		}
		if o.Confirmed() {
			v.Confirmed++
		}
	}
	return v, c.failure
}

// New returns the handler. It panics without a flow, which is a mistake in the
// wiring.
func New(o Options) *Handler {
	if o.Flow == nil {
		panic("login: Flow is required")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	o.BaseURL = strings.TrimSuffix(o.BaseURL, "/")
	prefix := ""
	if u, err := url.Parse(o.BaseURL); err == nil {
		prefix = u.Path
	}
	h := &Handler{
		opts: o, prefix: prefix, secure: strings.HasPrefix(o.BaseURL, "https://"),
		invites: bounded[invite](maxInvites), pending: bounded[*pending](maxPending),
	}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	return h
}

// bounded is a map that forgets the oldest. It has to be read with Peek, which
// leaves the order as it is.
func bounded[T any](most int) *simplelru.LRU[string, T] {
	m, _ := simplelru.NewLRU[string, T](most, nil) // it fails for no size alone
	return m
}

// Close gives up what is being connected and returns when nothing runs any more.
// Pages that are done stay done. It is idempotent.
func (h *Handler) Close() {
	h.cancel()
	h.work.Wait()
}

// Register adds the flow's routes to mux.
func (h *Handler) Register(mux *http.ServeMux) {
	mux.HandleFunc("GET /oauth/start", h.start)
	mux.HandleFunc("GET /oauth/callback", h.callback)
	mux.HandleFunc("POST /oauth/callback", h.choose)
	mux.HandleFunc("GET /oauth/progress", h.progress)
}

// Invite makes a link for one login, within [InviteLife]. It is used up when a
// person has come back from Meta with a consent: what opens a link before that,
// as chats do to show what it leads to, and a person who thinks again, leave it
// as it is. Of more than a thousand that nobody used the oldest falls away.
//
// back is where a link on the last page leads, which nobody is sent to; it may be
// empty, and else fails with [ErrBack] unless it is a URL of a page.
func (h *Handler) Invite(app, company, back string, fields []string) (link string, expires time.Time, err error) {
	if h.opts.BaseURL == "" {
		return "", time.Time{}, ErrNoBaseURL
	}
	if !isPage(back) {
		return "", time.Time{}, ErrBack
	}
	code := random()
	expires = h.opts.Now().Add(InviteLife)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.invites.Add(key(code), invite{
		app: app, company: company, back: back, fields: slices.Clone(fields), expires: expires,
	})
	return h.opts.BaseURL + path + "/start?invite=" + url.QueryEscape(code), expires, nil
}

// isPage reports whether a link may lead to back, or back is empty.
func isPage(back string) bool {
	u, err := url.Parse(back)
	return back == "" || err == nil && len(back) <= maxBack && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.User == nil
}

// start sends the browser to Meta.
func (h *Handler) start(w http.ResponseWriter, r *http.Request) {
	if h.opts.BaseURL == "" {
		h.fail(w, http.StatusServiceUnavailable, ErrNoBaseURL.Error())
		return
	}
	in, link, ok := h.accept(r.URL.Query().Get("invite"), r.URL.Query().Get("app"))
	if !ok {
		h.fail(w, http.StatusForbidden, "This link is not valid, or was used, or is over an hour old. Ask for a new one; the operator types: pagestream pages login")
		return
	}
	session, state := random(), random()
	target, err := h.opts.Flow.LoginURL(in.app, h.redirectURI(), state)
	if err != nil {
		h.fail(w, http.StatusBadRequest, err.Error())
		return
	}
	h.mu.Lock()
	h.pending.Add(key(session), &pending{invite: in, link: link, state: hash(state), expires: h.opts.Now().Add(StateLife)})
	h.mu.Unlock()
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: session, Path: h.prefix + path, MaxAge: int((StateLife + ChoiceLife).Seconds()),
		HttpOnly: true, Secure: h.secure, SameSite: http.SameSiteLaxMode,
	})
	guard(w, "")
	http.Redirect(w, r, target, http.StatusFound)
}

// accept looks at an invitation, and returns the key that it is kept under.
func (h *Handler) accept(code, app string) (in invite, link string, ok bool) {
	if code == "" {
		return invite{app: app}, "", h.opts.Open
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	link = key(code)
	in, ok = h.invites.Peek(link)
	return in, link, ok && h.opts.Now().Before(in.expires)
}

// admit keeps the consent for the choice, if the invitation was not used up
// meanwhile, and uses it up. What it keeps falls away by itself.
func (h *Handler) admit(p *pending, consent meta.Consent, csrf string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p.link != "" && !h.invites.Remove(p.link) {
		return false
	}
	p.consent, p.csrf, p.expires = &consent, hash(csrf), h.opts.Now().Add(ChoiceLife)
	time.AfterFunc(ChoiceLife, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		p.consent = nil // with it go the tokens
	})
	return true
}

// patient gives the request the time that its work may take, instead of the
// server's, which is for webhooks. The body has been read.
func (h *Handler) patient(w http.ResponseWriter) {
	end := time.Now().Add(timeout + 10*time.Second)
	c := http.NewResponseController(w)
	// A server that has no deadlines needs no other ones.
	_, _ = c.SetReadDeadline(end), c.SetWriteDeadline(end)
}

func (h *Handler) redirectURI() string { return h.opts.BaseURL + path + "/callback" }

// callback is where Meta sends the browser back to.
func (h *Handler) callback(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	p, ok := h.back(r, q.Get("state"))
	switch {
	case !ok:
		h.fail(w, http.StatusBadRequest, "This login was not begun in this browser, or was finished, or took more than ten minutes. Start again from the link.")
		return
	case q.Get("error") != "":
		// Meta's words come from outside: not shown, not logged.
		h.fail(w, http.StatusOK, "Nothing was connected: the login was not approved. Start again when you want to.")
		return
	case q.Get("code") == "":
		h.fail(w, http.StatusBadRequest, "Meta sent no code. Start again from the link.")
		return
	}
	h.patient(w)
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	consent, err := h.opts.Flow.ConsentByCode(ctx, p.app, h.redirectURI(), q.Get("code"))
	if err != nil {
		h.opts.Logger.Warn("login failed", "app", p.app, "err", err)
		h.fail(w, http.StatusBadGateway, "Meta did not let us read your pages: "+err.Error())
		return
	}
	csrf := random()
	if !h.admit(p, consent, csrf) {
		h.fail(w, http.StatusForbidden, "Another login was finished with this link meanwhile. Ask for a new one; the operator types: pagestream pages login")
		return
	}
	h.show(w, http.StatusOK, choosePage, chooseView{Consent: consent, Company: p.company, CSRF: csrf})
}

// back finds the login that a browser comes back with and uses up its state.
func (h *Handler) back(r *http.Request, state string) (*pending, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, ok := h.session(r)
	if !ok || p.state == nil || subtle.ConstantTimeCompare(p.state, hash(state)) != 1 {
		return nil, false
	}
	p.state = nil
	return p, true
}

// session finds the login of the browser's cookie. The lock is held.
func (h *Handler) session(r *http.Request) (*pending, bool) {
	c, err := r.Cookie(cookieName)
	if err != nil {
		return nil, false
	}
	p, ok := h.pending.Peek(key(c.Value))
	if !ok || !h.opts.Now().Before(p.expires) {
		return nil, false
	}
	return p, true
}

// choose connects what the person has chosen.
func (h *Handler) choose(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if err := r.ParseForm(); err != nil {
		h.fail(w, http.StatusBadRequest, "The form could not be read. Start again from the link.")
		return
	}
	h.mu.Lock()
	p, ok := h.session(r)
	ok = ok && p.consent != nil && subtle.ConstantTimeCompare(p.csrf, hash(r.PostForm.Get("csrf"))) == 1
	var consent meta.Consent
	var chosen []domain.PageID
	for _, page := range r.PostForm["page"] {
		chosen = append(chosen, domain.PageID(page))
	}
	company := strings.TrimSpace(r.PostForm.Get("company"))
	if p != nil && p.company != "" {
		company = p.company // the invitation's stands
	}
	fine := len(chosen) > 0 && len(chosen) <= maxPages && len(company) <= maxCompany && !strings.ContainsFunc(company, unicode.IsControl)
	if ok && fine {
		consent, p.consent = *p.consent, nil // once
	}
	h.mu.Unlock()
	switch {
	case !ok:
		h.fail(w, http.StatusBadRequest, "This choice was made already, or took more than half an hour. Start again from the link.")
		return
	case !fine:
		h.fail(w, http.StatusBadRequest, "No page was chosen, or the company's name is too long. Go back and choose at least one page.")
		return
	}
	h.patient(w)
	work := h.connect(p, consent, meta.Choice{Pages: chosen, Company: company, Fields: p.fields})
	select { // with few pages nobody has to look on
	case <-work.done:
	case <-time.After(shortly):
	case <-r.Context().Done():
	}
	guard(w, "")
	http.Redirect(w, r, h.opts.BaseURL+path+"/progress", http.StatusSeeOther)
}

// shortly is how long an answer waits for the pages to be connected.
const shortly = 2 * time.Second

// connect begins to connect the chosen pages.
func (h *Handler) connect(p *pending, consent meta.Consent, choice meta.Choice) *connecting {
	c := &connecting{done: make(chan struct{}), gone: consent.Gone}
	for _, id := range choice.Pages {
		o := meta.Outcome{Page: id}
		for _, page := range consent.Pages {
			if page.Page == id {
				o.Name = page.Name
			}
		}
		c.pages = append(c.pages, o)
	}
	h.mu.Lock()
	p.work, p.expires = c, h.opts.Now().Add(ChoiceLife)
	h.mu.Unlock()
	h.work.Go(func() {
		defer close(c.done)
		ctx, cancel := context.WithTimeout(h.ctx, timeout)
		defer cancel()
		if _, err := h.opts.Flow.Apply(ctx, consent, choice, c.result); err != nil {
			h.opts.Logger.Warn("chosen pages can't be connected", "app", p.app, "err", err)
			c.fail(err)
			return
		}
		v, _ := c.view()
		h.opts.Logger.Info("pages connected by login", "app", p.app, "chosen", len(choice.Pages), "confirmed", v.Confirmed)
	})
	return c
}

// progress shows how far the chosen pages are, and at the end what became of
// them. The page asks again by itself until then, and after that shows the same
// for as long as the choice would have been open.
func (h *Handler) progress(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	p, ok := h.session(r)
	ok = ok && p.work != nil
	h.mu.Unlock()
	if !ok {
		h.fail(w, http.StatusBadRequest, "No pages are being connected in this browser, or it was long ago. Start again from the link.")
		return
	}
	ended := false
	select {
	case <-p.work.done:
		ended = true
	default:
	}
	view, failure := p.work.view()
	view.Back = p.back
	switch {
	case failure != nil:
		h.fail(w, http.StatusBadGateway, "Nothing was connected: "+failure.Error())
	case !ended:
		w.Header().Set("Refresh", "1")
		h.show(w, http.StatusOK, progressPage, view)
	default:
		h.show(w, http.StatusOK, resultPage, view)
	}
}

// random is a secret of 256 bits.
func random() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// hash keeps secrets out of memory that a dump would show, and makes lookups by
// them independent of their bytes.
func hash(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

func key(secret string) string { return string(hash(secret)) }
