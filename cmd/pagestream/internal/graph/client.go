package graph

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/internal/backoff"
)

// Defaults of [Options].
const (
	DefaultBaseURL  = "https://graph.facebook.com"
	DefaultLoginURL = "https://www.facebook.com"
	DefaultVersion  = meta.GraphVersion
	DefaultTimeout  = 20 * time.Second
	DefaultRetries  = 3
	DefaultMaxWait  = 30 * time.Second
)

const (
	// maxAnswer is the largest accepted answer in bytes; Graph's usual ones are a few
	// kilobytes.
	maxAnswer = 4 << 20
	// maxMessageRunes is how much of Graph's message an error keeps.
	maxMessageRunes = 500
	firstBackoff    = 500 * time.Millisecond
	maxBackoff      = 10 * time.Second
)

// Options configure a [Client]. AppID and AppSecret are required.
type Options struct {
	// HTTP sends the requests. Redirects are never followed.
	HTTP *http.Client
	// BaseURL is the URL of Graph without the version.
	BaseURL string
	// LoginURL is the URL of the login dialog without the version.
	LoginURL string
	// Version is the API version, such as "v26.0".
	Version   string
	AppID     string
	AppSecret string
	// LoginScopes are the permissions that the login requests. They are ignored if
	// LoginConfigID is set: a configuration of Login for Business has its own.
	LoginScopes   []string
	LoginConfigID string
	// Timeout limits each attempt.
	Timeout time.Duration
	// Retries is how often a call is repeated after a temporary failure; a negative
	// value means never.
	Retries int
	// MaxWait is how long one call may wait for rate limits in total; a call that
	// would have to wait longer fails at once. A negative value means no waiting.
	MaxWait time.Duration
	// Sleep waits between attempts and returns early with the context's error.
	Sleep func(ctx context.Context, d time.Duration) error
	// Now is the clock for rate limits.
	Now func() time.Time
	// Observe is called after each call that was sent. It must be fast and safe for
	// concurrent use.
	Observe func(Observation)
}

// Observation describes one call of Graph, with all its attempts, for metrics.
type Observation struct {
	Method string
	// Edge is a fixed name of the called edge, without ids, such as
	// "subscribed_apps".
	Edge string
	// Status and Code are those of the last answer, 0 if there was none.
	Status, Code int
	// Took is how long the last attempt took.
	Took    time.Duration
	Retries int
}

// Client calls Graph for one app. It is safe for concurrent use. Printing it does
// not show the secret. Create it with [New].
type Client struct {
	opts  Options
	http  *http.Client
	base  string
	login string
	gates gates
}

// New returns a client for the app of o. [ErrOptions] is returned if the options
// are not usable.
func New(o Options) (*Client, error) {
	if o.AppID == "" || o.AppSecret == "" {
		return nil, fmt.Errorf("%w: it needs the app's id and secret", ErrOptions)
	}
	o.BaseURL = cmp.Or(o.BaseURL, DefaultBaseURL)
	o.Version = cmp.Or(o.Version, DefaultVersion)
	o.Timeout = cmp.Or(o.Timeout, DefaultTimeout)
	o.Retries = cmp.Or(o.Retries, DefaultRetries)
	o.LoginURL = cmp.Or(o.LoginURL, DefaultLoginURL)
	if len(o.LoginScopes) == 0 {
		o.LoginScopes = DefaultLoginScopes()
	}
	o.MaxWait = cmp.Or(o.MaxWait, DefaultMaxWait)
	if o.Sleep == nil {
		o.Sleep = backoff.Sleep
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	for _, base := range []struct{ name, url, like string }{
		{"base URL", o.BaseURL, DefaultBaseURL}, {"login URL", o.LoginURL, DefaultLoginURL},
	} {
		u, err := url.Parse(base.url)
		if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" ||
			u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return nil, fmt.Errorf("%w: the %s is not like %s", ErrOptions, base.name, base.like)
		}
	}
	if !isVersion(o.Version) {
		return nil, fmt.Errorf("%w: version %q is not like %s", ErrOptions, o.Version, DefaultVersion)
	}
	table, _ := simplelru.NewLRU[string, *gate](maxGates, nil) // fails only for a size of 0
	c := &Client{
		opts: o, http: &http.Client{},
		base:  strings.TrimSuffix(o.BaseURL, "/") + "/" + o.Version,
		login: strings.TrimSuffix(o.LoginURL, "/") + "/" + o.Version,
		gates: gates{table: table, now: o.Now},
	}
	if o.HTTP != nil {
		copied := *o.HTTP
		c.http = &copied
	}
	// A redirect could carry the token to another host.
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c, nil
}

// AppID returns the app's id at Meta.
func (c *Client) AppID() string { return c.opts.AppID }

// Format keeps the secret out of logs, for every format verb.
func (c *Client) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "graph client of app "+c.opts.AppID)
}

func isVersion(v string) bool {
	major, minor, dot := strings.Cut(strings.TrimPrefix(v, "v"), ".")
	return strings.HasPrefix(v, "v") && dot && digits(major, 3) && digits(minor, 3)
}

// digits reports whether s consists of 1 to limit decimal digits.
func digits(s string, limit int) bool {
	return s != "" && len(s) <= limit && strings.Trim(s, "0123456789") == ""
}

// path returns the path of an edge of a page, user or app; an empty edge means the
// object itself. It accepts only digits as an id, so that an id can't become an
// alias or another path. For any other id the result is empty, and [Client.do]
// rejects it.
func path(object, edge string) string {
	if !isID(object) {
		return ""
	}
	return strings.TrimSuffix("/"+object+"/"+edge, "/")
}

// isID reports whether s is the id of a page, user or app.
func isID(s string) bool { return digits(s, 32) }

// call is one call of Graph. The params of a GET or DELETE go into the URL and so
// must not contain a token; those of a POST go into the form.
type call struct {
	method string
	// path is a result of the function path.
	path string
	// edge is the name for [Observation].
	edge string
	// page is the page whose rate limits apply; if it is empty, only the app's apply.
	page   string
	token  string
	params url.Values
	// secrets are further texts that must not occur in an error.
	secrets []string
	// noRetry prevents a repetition of the call if Graph may have acted on it. After
	// a rate limit it is repeated all the same.
	noRetry bool
	// noRetryOnCode1 prevents a repetition after code 1: the caller handles it.
	noRetryOnCode1 bool
	// conversationsAPI makes the call count against the limit of the Conversations
	// API.
	conversationsAPI bool
}

// appToken returns the app's own access token.
func (c *Client) appToken() string { return c.opts.AppID + "|" + c.opts.AppSecret }

// do makes the call and decodes the answer into out. It repeats the call after a
// temporary failure or a rate limit, if that is allowed.
func (c *Client) do(ctx context.Context, k call, out any) error {
	switch {
	case k.path == "":
		return ErrPageID
	case k.token == "":
		return ErrNoToken
	}
	proof := c.proof(k.token)
	params := url.Values{"appsecret_proof": {proof}}
	maps.Copy(params, k.params)
	k.params = params
	k.secrets = append(slices.Clip(k.secrets), k.token, c.opts.AppSecret, proof)
	var (
		waited time.Duration
		seen   Observation
		last   error
	)
	for try := 0; ; try++ {
		if err := c.waitForLimits(ctx, k, &waited); err != nil {
			switch {
			case last == nil:
				return err
			case ctx.Err() != nil:
				last = fmt.Errorf("%w (%w)", last, ctx.Err())
			}
			break
		}
		began := time.Now()
		status, err := c.attempt(ctx, k, out)
		seen = Observation{Method: k.method, Edge: k.edge, Status: status, Took: time.Since(began), Retries: try}
		refusal := meta.Refused(err)
		if refusal == nil {
			if err == nil {
				c.gates.accept(k.page)
			}
			last = err
			break
		}
		seen.Code, last = refusal.Code, err
		class := refusal.Class()
		throttled := class == meta.Throttled
		if throttled {
			refusal.After = c.gates.refuse(k.page, refusal.Code)
		}
		if try >= c.opts.Retries ||
			!throttled && (k.noRetry || k.noRetryOnCode1 && refusal.Code == 1 || class != meta.Transient) {
			break
		}
		if throttled {
			continue // waitForLimits waits
		}
		wait := backoff.Jitter(backoff.After(try+1, firstBackoff, maxBackoff))
		if slept := c.opts.Sleep(ctx, wait); slept != nil {
			last = fmt.Errorf("%w (%w)", err, slept)
			break
		}
	}
	if c.opts.Observe != nil {
		c.opts.Observe(seen)
	}
	return last
}

// attempt sends the call once.
func (c *Client) attempt(ctx context.Context, k call, out any) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	target, body := c.base+k.path, io.Reader(nil)
	if k.method == http.MethodPost {
		body = strings.NewReader(k.params.Encode())
	} else {
		target += "?" + k.params.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, k.method, target, body)
	if err != nil {
		return 0, fmt.Errorf("%s %s: %w", k.method, k.path, ErrOptions)
	}
	req.Header.Set("Authorization", "Bearer "+k.token)
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, unreachable(k, err)
	}
	defer resp.Body.Close()
	c.gates.record(resp.Header, k.page)
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return resp.StatusCode, unreachable(k, err)
	}
	if len(b) > maxAnswer {
		return resp.StatusCode, fmt.Errorf("%s %s: %w: it is over %d bytes", k.method, k.path, ErrAnswer, maxAnswer)
	}
	if refusal := refused(resp.StatusCode, b, k.secrets); refusal != nil {
		return resp.StatusCode, fmt.Errorf("%s %s: %w", k.method, k.path, refusal)
	}
	if err := json.Unmarshal(b, out); err != nil {
		// The decoder's error may quote the answer, which may contain a token.
		return resp.StatusCode, fmt.Errorf("%s %s: %w", k.method, k.path, ErrAnswer)
	}
	return resp.StatusCode, nil
}

// unreachable returns an [ErrUnreachable] with the cause, without the URL that
// net/http quotes. A context's error is wrapped, so that errors.Is finds it.
func unreachable(k call, err error) error {
	cause := err
	var u *url.Error
	if errors.As(err, &u) {
		cause = u.Err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s %s: %w: %w", k.method, k.path, ErrUnreachable, cause)
	}
	return fmt.Errorf("%s %s: %w: %s", k.method, k.path, ErrUnreachable, scrub(cause.Error(), k.secrets...))
}

// refused returns the error in an answer: a body with "error", whatever the status,
// or any status other than 2xx. It returns nil if there is none.
func refused(status int, body []byte, secrets []string) *meta.Error {
	var in struct {
		Error *errorBody `json:"error"`
	}
	err := json.Unmarshal(body, &in)
	if err == nil && in.Error != nil {
		return in.Error.refusal(status, secrets)
	}
	if status < 200 || status > 299 {
		return &meta.Error{Status: status, Message: http.StatusText(status)}
	}
	return nil
}

// errorBody is an error in Graph's JSON, at the top of an answer or within the data
// of debug_token.
type errorBody struct {
	Message     string `json:"message"`
	Type        string `json:"type"`
	Code        number `json:"code"`
	Subcode     number `json:"error_subcode"`
	DataSubcode number `json:"subcode"` // debug_token's name for it
	Transient   flag   `json:"is_transient"`
	FBTrace     string `json:"fbtrace_id"`
}

func (e *errorBody) refusal(status int, secrets []string) *meta.Error {
	message := []rune(scrub(e.Message, secrets...))
	return &meta.Error{
		Status: status, Code: int(e.Code), Subcode: int(cmp.Or(e.Subcode, e.DataSubcode)), Type: e.Type,
		Message: string(message[:min(len(message), maxMessageRunes)]),
		FBTrace: scrub(e.FBTrace, secrets...), Transient: bool(e.Transient),
	}
}

// proof returns the appsecret_proof of a token: a MAC which proves that the caller
// also has the app's secret.
func (c *Client) proof(token string) string {
	m := hmac.New(sha256.New, []byte(c.opts.AppSecret))
	m.Write([]byte(token))
	return hex.EncodeToString(m.Sum(nil))
}

// id is an id that may be a JSON string or a number. It may have 17 digits and more,
// so it is never decoded as a float.
type id string

func (i *id) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, (*string)(i))
	}
	if string(b) == "null" {
		return nil
	}
	if !digits(string(b), 40) {
		return ErrAnswer
	}
	*i = id(b)
	return nil
}

// number is an integer that may be a JSON string. Any other value is decoded as 0,
// so that one unexpected field does not hide the rest of an error.
type number int64

func (n *number) UnmarshalJSON(b []byte) error {
	v, err := strconv.ParseInt(strings.Trim(string(b), `"`), 10, 64)
	if err == nil {
		*n = number(v)
	}
	return nil
}

// flag is a boolean that may be the JSON string "true", as in Meta's own samples.
type flag bool

func (f *flag) UnmarshalJSON(b []byte) error {
	*f = strings.Trim(string(b), `"`) == "true"
	return nil
}
