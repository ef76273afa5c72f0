package fakegraph

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
)

// maxRequest is the maximum size of a request's body in bytes.
const maxRequest = 1 << 20

// contentType is the content type of every answer, although it is JSON.
const contentType = "text/javascript; charset=UTF-8"

// failure is an error answer of the Graph API.
type failure struct {
	status    int
	kind      string
	code, sub int
	message   string
	transient bool
}

func oauth(status, code, sub int, message string) *failure {
	return &failure{status: status, kind: "OAuthException", code: code, sub: sub, message: message}
}

func methodException(sub int, message string) *failure {
	return &failure{status: http.StatusBadRequest, kind: "GraphMethodException", code: 100, sub: sub, message: message}
}

func (f *failure) write(w http.ResponseWriter, trace string) {
	body := map[string]any{"message": f.message, "type": f.kind, "code": f.code, "fbtrace_id": trace}
	if f.sub != 0 {
		body["error_subcode"] = f.sub
	}
	if f.transient {
		body["is_transient"] = true
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(f.status)
	_, _ = w.Write(marshal(map[string]any{"error": body}))
}

// request is a call with the parameters of its query and body.
type request struct {
	http     *http.Request
	w        http.ResponseWriter
	method   string
	version  string
	path     string // without the version
	id, edge string // the two parts of path
	params   map[string]string
	access   string // the access token of the request
}

var versionSegment = regexp.MustCompile(`^v\d{1,3}\.\d{1,3}$`)

// ServeHTTP answers one Graph request.
func (g *Graph) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	req, fail := g.parse(w, r)
	trace := letters(g.hash("trace", g.nextSerial()))[:11]
	if f := g.nextFailure(req); f != nil {
		if f.ApplyFirst && fail == nil {
			_, _ = g.route(req)
		}
		f.respond(w, r, trace)
		return
	}
	var out any
	if fail == nil {
		out, fail = g.route(req)
	}
	head := w.Header()
	head.Set("facebook-api-version", req.version)
	head.Set("x-fb-trace-id", trace)
	head.Set("x-fb-rev", "1000000000")
	head.Set("Cache-Control", "private, no-cache, no-store, must-revalidate")
	switch {
	case fail != nil:
		if fail.code == 190 {
			head.Set("WWW-Authenticate",
				`OAuth "Facebook Platform" "invalid_token" "`+strings.ReplaceAll(fail.message, `"`, "'")+`"`)
		}
		fail.write(w, trace)
	case out != nil: // nil: the request is answered already
		head.Set("Content-Type", contentType)
		_, _ = w.Write(marshal(out))
	}
}

func (g *Graph) parse(w http.ResponseWriter, r *http.Request) (*request, *failure) {
	req := &request{http: r, w: w, method: r.Method, version: DefaultVersion, params: map[string]string{}}
	req.path = strings.Trim(r.URL.Path, "/")
	if first, rest, _ := strings.Cut(req.path, "/"); versionSegment.MatchString(first) {
		req.version, req.path = first, rest
	}
	req.id, req.edge, _ = strings.Cut(req.path, "/")
	for k, v := range r.URL.Query() {
		req.params[k] = v[0]
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
	if req.readBody() != nil {
		return req, oauth(http.StatusBadRequest, 100, 0, "(#100) The request body could not be read")
	}
	if m := strings.ToUpper(req.params["method"]); r.Method == http.MethodPost && m != "" {
		req.method = m
	}
	req.access = req.params["access_token"]
	scheme, value, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if strings.EqualFold(scheme, "Bearer") || strings.EqualFold(scheme, "OAuth") {
		req.access = strings.TrimSpace(value)
	}
	return req, nil
}

func (q *request) readBody() error {
	if strings.HasPrefix(q.http.Header.Get("Content-Type"), "application/json") {
		b, err := io.ReadAll(q.http.Body)
		if err != nil {
			return err
		}
		var in map[string]json.RawMessage
		if err := json.Unmarshal(b, &in); err != nil {
			return err
		}
		for k, v := range in {
			var s string
			if json.Unmarshal(v, &s) != nil {
				s = string(v) // numbers, lists and objects stay JSON
			}
			q.params[k] = s
		}
		return nil
	}
	err := q.http.ParseForm()
	if strings.HasPrefix(q.http.Header.Get("Content-Type"), "multipart/form-data") {
		err = q.http.ParseMultipartForm(maxRequest)
	}
	for k, v := range q.http.PostForm {
		q.params[k] = v[0]
	}
	return err
}

// route calls the handler of a request's path and method.
func (g *Graph) route(q *request) (any, *failure) {
	switch q.path {
	case "dialog/oauth":
		return g.dialog(q)
	case "oauth/access_token":
		return g.exchange(q)
	case "debug_token":
		return g.debugToken(q)
	}
	if q.id == "" || strings.Contains(q.edge, "/") {
		return nil, oauth(http.StatusBadRequest, 2500, 0, "Unknown path components: /"+q.path)
	}
	t, fail := g.authorize(q)
	if fail == nil {
		fail = cmp.Or(g.countCall(q, t), g.notGranted(t))
	}
	if fail != nil {
		return nil, fail
	}
	id, edge, me := q.id, q.edge, q.id == "me"
	if me {
		if id = cmp.Or(t.page, t.user); id == "" {
			return nil, oauth(http.StatusBadRequest, 2500, 0,
				"An active access token must be used to query information about the current user.")
		}
	}
	page, user := g.pages[id].ID != "", g.users[id].ID != ""
	person, app := g.contacts[id] != nil, g.apps[id].ID != ""
	l, isLead := g.leads.Peek(id)
	switch {
	case edge == "permissions" && user:
		return g.permissions(q, t, id)
	case edge == "subscriptions" && app:
		return g.appSubscriptions(q, t, id)
	case edge == "conversations" && q.method == http.MethodGet && page:
		return g.conversations(q, t, id)
	case edge == "messages" && q.method == http.MethodGet && strings.HasPrefix(id, "t_"):
		return g.messagesOf(q, t, id)
	case edge == "" && q.method == http.MethodGet && strings.HasPrefix(id, "m_") && t.kind == "PAGE":
		return g.message(q, t, id)
	case edge == "" && q.method == http.MethodGet && page:
		return g.pageNode(q, t, id)
	case edge == "" && q.method == http.MethodGet && user:
		return g.userNode(q, t, id)
	case edge == "" && q.method == http.MethodGet && person:
		return g.profile(q, t, id)
	case edge == "" && q.method == http.MethodGet && isLead:
		return g.lead(q, t, id, l)
	case edge == "accounts" && q.method == http.MethodGet && user:
		return g.accounts(q, t, id)
	case edge == "subscribed_apps" && page:
		return g.subscribedApps(q, t, id, me)
	case edge == "messages" && q.method == http.MethodPost && page:
		return g.send(q, t, id)
	case !page && !user && !person, edge == "":
		return nil, missing(q.method, id)
	}
	return nil, oauth(http.StatusBadRequest, 2500, 0, "Unknown path components: /"+edge)
}

// missing returns the error for an object that does not exist or that the token may
// not access. As in the Graph API, it is the same for both.
func missing(method, id string) *failure {
	return methodException(33, fmt.Sprintf("Unsupported %s request. Object with ID '%s' does not exist, "+
		"cannot be loaded due to missing permissions, or does not support this operation.", strings.ToLower(method), id))
}

// authorize returns the caller's token and verifies the appsecret_proof.
func (g *Graph) authorize(q *request) (token, *failure) {
	if q.access == "" {
		return token{}, oauth(http.StatusBadRequest, 104, 0, "An access token is required to request this resource.")
	}
	t, fail := g.findToken(q.access)
	if fail != nil {
		return token{}, fail
	}
	proof := q.params["appsecret_proof"]
	if proof == "" && (t.kind == "APP" || g.opts.ProofOptional) {
		return t, nil
	}
	if proof == "" {
		return token{}, methodException(0, "API calls from the server require an appsecret_proof argument")
	}
	want := sign(sha256.New, g.apps[t.app].Secret, q.access)
	if got, err := hex.DecodeString(proof); err != nil || !hmac.Equal(got, want) {
		return token{}, methodException(0, "Invalid appsecret_proof provided in the API argument")
	}
	return t, nil
}

// findToken returns a valid token.
func (g *Graph) findToken(access string) (token, *failure) {
	if id, secret, isApp := strings.Cut(access, "|"); isApp {
		app, ok := g.apps[id]
		if !ok || !hmac.Equal([]byte(secret), []byte(app.Secret)) {
			return token{}, oauth(http.StatusBadRequest, 190, 0, "Invalid OAuth access token signature.")
		}
		return token{kind: "APP", app: id}, nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.tokens[access]
	if t == nil {
		return token{}, oauth(http.StatusBadRequest, 190, 0, "Invalid OAuth access token - Cannot parse access token")
	}
	return *t, g.tokenError(t)
}

// tokenError returns why a token is invalid, nil if it is valid. It sets dead of a
// token that has expired. The caller holds the lock.
func (g *Graph) tokenError(t *token) *failure {
	now := g.opts.Now()
	ends, ended := g.dataAccess[[2]string{t.app, t.user}]
	switch {
	case t.dead != 0:
	case !t.expires.IsZero() && !now.Before(t.expires):
		t.dead = 463
	case ended && !now.Before(ends):
		t.dead = -1
	default:
		return nil
	}
	messages := map[int]string{
		-1:  "Invalid OAuth access token.",
		458: "Error validating access token: The user has not authorized application " + t.app + ".",
		459: "Error validating access token: You cannot access the app till you log in to www.facebook.com " +
			"and follow the instructions given.",
		460: "Error validating access token: The session has been invalidated because the user changed their password " +
			"or Facebook has changed the session for security reasons.",
		463: "Error validating access token: Session has expired.",
		464: "Error validating access token: Sessions for the user are not allowed " +
			"because the user is not a confirmed user.",
		467: "Error validating access token: The session is invalid because the user logged out.",
		490: "Error validating access token: The user is enrolled in a blocking, logged-in checkpoint",
		492: "Error validating access token: Session does not match current stored session. " +
			"The user lost their role on the page.",
	}
	return oauth(http.StatusBadRequest, 190, max(t.dead, 0),
		cmp.Or(messages[t.dead], "Error validating access token."))
}

// nested matches a pair of braces without other braces inside. The closing one may
// be missing at the end.
var nested = regexp.MustCompile(`\{[^{}]*(\}|$)`)

// fields returns the names in a fields parameter, without nested fields in braces.
func fields(param string) []string {
	for nested.MatchString(param) {
		param = nested.ReplaceAllString(param, "")
	}
	var out []string
	for name := range strings.SplitSeq(param, ",") {
		if name = strings.TrimSpace(name); name != "" {
			out = append(out, name)
		}
	}
	return out
}

// selectFields returns the fields of a node that are requested and not nil, and
// always its id.
func selectFields(kind, param string, node map[string]any) (any, *failure) {
	names := fields(param)
	if len(names) == 0 {
		names = []string{"name"}
	}
	out := map[string]any{"id": node["id"]}
	for _, f := range names {
		v, ok := node[f]
		if !ok {
			return nil, oauth(http.StatusBadRequest, 100, 0,
				fmt.Sprintf("(#100) Tried accessing nonexisting field (%s) on node type (%s)", f, kind))
		}
		if v != nil {
			out[f] = v
		}
	}
	return out, nil
}
