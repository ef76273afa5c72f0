package fakegraph

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// Errors of a [Graph] and its options.
var (
	// ErrOptions is returned when options are not valid: an id is missing, repeated
	// or not a number, or a user has a page that is not in the options.
	ErrOptions = errors.New("fake graph can't be created")
	// ErrUnknown is returned when there is no such app, user, page, contact or token,
	// or the user has no role on the page.
	ErrUnknown = errors.New("not in the fake graph")
)

const (
	// DefaultVersion is the API version of requests without one.
	DefaultVersion = "v26.0"
	// Checkpoint is the subcode with which tokens are invalid until their user has passed
	// a security check.
	Checkpoint = 490
	// DefaultContacts is the default number of people who write to each page.
	DefaultContacts = 12

	maxContacts = 1_000_000 // for all pages together
	codeLife    = 10 * time.Minute
	shortLife   = 2 * time.Hour
	longLife    = 60 * 24 * time.Hour
	dataAccess  = 90 * 24 * time.Hour
	maxCodes    = 10_000
)

// App is a Meta app. The two URLs are its callbacks for people who remove it and
// for people who request the deletion of their data; empty is none.
type App struct{ ID, Secret, Name, DeauthorizeURL, DataDeletionURL string }

// Page is a Facebook page, with its linked Instagram account if it has one.
type Page struct{ ID, Name, Category, Instagram string }

// User is a person who manages pages and has granted the scopes to the apps. Empty
// Scopes are all that pagestream needs.
type User struct {
	ID, Name string
	Pages    []string
	// Business are those of Pages that the person has through a business: they are not in the list of
	// the person's pages, but can be read by their ids.
	Business []string
	Scopes   []string
}

// Options are the content of a [Graph]. At least one app, one user and one page are
// required.
type Options struct {
	Apps  []App
	Users []User
	Pages []Page
	// Seed determines tokens, contacts and their names.
	Seed uint64
	// Contacts is the number of people who write to each page; default
	// [DefaultContacts].
	Contacts int
	// MeOverwrites makes a POST to me/subscribed_apps remove the app from all other
	// pages.
	MeOverwrites bool
	// ProofOptional turns "Require App Secret" off: a missing appsecret_proof is
	// allowed, a wrong one is not.
	ProofOptional bool
	// Picker makes the login dialog ask which pages are granted; without it all are
	// granted at once. The parameter display=picker has the same effect.
	Picker bool
	// Window closes a conversation for the page 24 hours after the person's last
	// message, or after 7 days for messages with the tag HUMAN_AGENT.
	Window bool
	// ConversationLimit is the maximum number of calls per second of the
	// Conversations API for each page; 0 is no limit, Meta's limit is 2.
	ConversationLimit int
	Now               func() time.Time
}

// Graph is the state of the fake and an http.Handler that serves it. It is safe for
// concurrent use. Create one with [New].
type Graph struct {
	opts     Options
	apps     map[string]App
	users    map[string]User
	pages    map[string]Page
	contacts map[string]*contact // by PSID
	people   map[string][]string // PSIDs by page
	serial   atomic.Uint64
	codes    *lru.Cache[string, *code]
	leads    *lru.Cache[string, lead]
	// linked are the Instagram accounts by page. The map is never changed, only
	// replaced.
	linked atomic.Pointer[map[string]string]

	mu         sync.Mutex
	tokens     map[string]*token
	subs       map[[2]string][]string // by app and page; an empty list is also a subscription
	engines    map[*Engine]struct{}
	appSubs    map[[2]string]appSubscription // by app and object
	history    map[string][]storedMessage    // by page
	tasks      map[[2]string][]string        // by user and page
	granted    map[[2]string][]string        // by app and user
	dataAccess map[[2]string]time.Time       // when it ended, by app and user
	limits     map[string]*limit             // by page, or "" for the app
	scripts    []*scripted
}

// contact is a person who writes to a page.
type contact struct {
	page, first, last string
	lastIn            time.Time // of the person's last message
	closed            bool      // the messaging window is closed
	blocked           bool      // the person has blocked the page
}

// token is an access token.
type token struct {
	kind    string // "USER", "PAGE" or "APP"
	app     string
	user    string
	page    string
	scopes  []string
	issued  time.Time
	expires time.Time // zero: never
	long    bool
	// dead is the subcode with which the token is invalid, -1 for an invalid token
	// without a subcode, 0 for a valid one.
	dead int
}

// code is a login code.
type code struct {
	app, user, redirect string
	issued              time.Time
	used                bool
}

var allScopes = []string{
	"pages_show_list", "pages_messaging", "pages_manage_metadata", "pages_read_engagement",
	"pages_read_user_content", "leads_retrieval", "ads_management", "instagram_basic", "instagram_manage_messages",
}

// New returns a fake with the content of o, with no page subscribed. [ErrOptions] is
// returned when o is not valid.
func New(o Options) (*Graph, error) {
	if len(o.Apps) == 0 || len(o.Users) == 0 || len(o.Pages) == 0 {
		return nil, fmt.Errorf("%w: it needs an app, a user and a page", ErrOptions)
	}
	o.Contacts = cmp.Or(max(o.Contacts, 0), DefaultContacts)
	if o.Contacts > maxContacts/len(o.Pages) {
		return nil, fmt.Errorf("%w: over %d contacts", ErrOptions, maxContacts)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	g := &Graph{
		opts: o, apps: map[string]App{}, users: map[string]User{}, pages: map[string]Page{},
		contacts: map[string]*contact{}, people: map[string][]string{},
		tokens: map[string]*token{}, subs: map[[2]string][]string{}, engines: map[*Engine]struct{}{},
		appSubs: map[[2]string]appSubscription{}, history: map[string][]storedMessage{}, tasks: map[[2]string][]string{},
		granted: map[[2]string][]string{}, dataAccess: map[[2]string]time.Time{}, limits: map[string]*limit{"": {}},
	}
	g.codes, _ = lru.New[string, *code](maxCodes) // only a bad size is an error
	g.leads, _ = lru.New[string, lead](maxLeads)
	var err error // the first problem
	taken := map[string]bool{}
	take := func(kind, id string) {
		if id == "" || len(id) > 32 || strings.Trim(id, "0123456789") != "" || taken[id] {
			err = cmp.Or(err, fmt.Errorf("%w: %s id %q is not a number or not unique", ErrOptions, kind, id))
		}
		taken[id] = true
	}
	for _, a := range o.Apps {
		take("app", a.ID)
		if a.Secret == "" {
			err = cmp.Or(err, fmt.Errorf("%w: app %s has no secret", ErrOptions, a.ID))
		}
		g.apps[a.ID] = a
		// The app has all fields, so that the pages' subscriptions decide what is
		// delivered.
		g.appSubs[[2]string{a.ID, objectPage}] = appSubscription{fields: pageFields}
	}
	accounts := map[string]string{}
	for _, p := range o.Pages {
		take("page", p.ID)
		g.pages[p.ID] = p
		if p.Instagram != "" {
			accounts[p.ID] = p.Instagram
		}
		g.limits[p.ID] = &limit{}
	}
	g.linked.Store(&accounts)
	for _, u := range o.Users {
		take("user", u.ID)
		for _, p := range u.Pages {
			if _, ok := g.pages[p]; !ok {
				err = cmp.Or(err, fmt.Errorf("%w: user %s has an unknown page %s", ErrOptions, u.ID, p))
			}
		}
		if len(u.Scopes) == 0 {
			u.Scopes = allScopes
		}
		g.users[u.ID] = u
	}
	for _, p := range o.Pages {
		for i := range o.Contacts {
			psid, c := g.newContact(p.ID, i)
			take("contact", psid)
			g.contacts[psid] = c
			g.people[p.ID] = append(g.people[p.ID], psid)
		}
	}
	if err != nil {
		return nil, err
	}
	return g, nil
}

// PageToken returns the user's long-lived token of a page. It is the same for the
// same seed. [ErrUnknown] is returned when the user has no role on the page.
func (g *Graph) PageToken(app, user, page string) (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pageToken(app, user, page, true)
}

func (g *Graph) pageToken(app, user, page string, long bool) (string, error) {
	if len(g.tasksOf(user, page)) == 0 || g.apps[app].ID == "" {
		return "", fmt.Errorf("token of page %s for user %s: %w", page, user, ErrUnknown)
	}
	t := &token{kind: "PAGE", app: app, user: user, page: page, scopes: g.users[user].Scopes, long: long}
	return g.issue(t, fmt.Sprint("page|", app, "|", user, "|", page, "|", long)), nil
}

// UserToken returns a token of a user as a login returns it: long-lived or for two
// hours. [ErrUnknown] is returned for an unknown app or user.
func (g *Graph) UserToken(app, user string, long bool) (string, error) {
	if g.apps[app].ID == "" || g.users[user].ID == "" {
		return "", fmt.Errorf("token of user %s: %w", user, ErrUnknown)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.userToken(app, user, long), nil
}

func (g *Graph) userToken(app, user string, long bool) string {
	t := &token{kind: "USER", app: app, user: user, scopes: g.users[user].Scopes, long: long}
	return g.issue(t, fmt.Sprint("user|", app, "|", user, "|", long))
}

// issue returns the token with this name. If there is none, or it is invalid or
// expired, t is stored with another value, as Meta issues a new token.
func (g *Graph) issue(t *token, name string) string {
	now := g.opts.Now()
	t.issued = now
	switch {
	case !t.long:
		t.expires = now.Add(shortLife)
	case t.kind == "USER":
		t.expires = now.Add(longLife)
	}
	for n := 0; ; n++ {
		s := "EAA" + letters(g.hash("token", name, strconv.Itoa(n)))
		old := g.tokens[s]
		if old == nil {
			g.tokens[s] = t
			return s
		}
		if old.dead == 0 && (old.expires.IsZero() || now.Before(old.expires)) {
			return s
		}
	}
}

// KillToken makes a token invalid with a subcode of error 190: 458 app removed, 460
// password changed, 463 expired, 490 checkpoint, and so on; 0 is no subcode.
// [ErrUnknown] is returned for an unknown token.
func (g *Graph) KillToken(access string, subcode int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.tokens[access]
	if t == nil {
		return fmt.Errorf("token: %w", ErrUnknown)
	}
	t.dead = cmp.Or(subcode, -1)
	return nil
}

// KillTokens makes the valid tokens of a page that a user got for an app invalid with a
// subcode; see [Graph.KillToken]. [ErrUnknown] is returned when there is none.
func (g *Graph) KillTokens(app, user, page string, subcode int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.killTokens(subcode, func(t *token) bool { return t.app == app && t.user == user && t.page == page })
	if n == 0 {
		return fmt.Errorf("valid token of page %s: %w", page, ErrUnknown)
	}
	return nil
}

// Checkpointed returns the pages whose tokens a checkpoint has ended, so that the user has
// no valid one, sorted.
func (g *Graph) Checkpointed(app, user string) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	ended := map[string]bool{}
	for _, t := range g.tokens {
		if t.app == app && t.user == user && t.page != "" && t.dead == Checkpoint {
			ended[t.page] = true
		}
	}
	for _, t := range g.tokens {
		if t.app == app && t.user == user && g.tokenError(t) == nil {
			delete(ended, t.page)
		}
	}
	return sortedKeys(ended)
}

// ReviveTokens makes the tokens of a page that a user got for an app and that a
// checkpoint ended (subcode [Checkpoint]) valid again, as when the user has passed it,
// and returns how many those were.
func (g *Graph) ReviveTokens(app, user, page string) (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, t := range g.tokens {
		if t.app == app && t.user == user && t.page == page && t.dead == Checkpoint {
			t.dead = 0
			n++
		}
	}
	return n
}

// SubscribedFields returns the app's fields on a page, sorted, and whether the app
// is subscribed to the page.
func (g *Graph) SubscribedFields(app, page string) ([]string, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	fields, ok := g.subs[[2]string{app, page}]
	return slices.Clone(fields), ok
}

// SetSubscription changes an app's subscription to a page without its knowledge, as
// another product, an admin or Meta may do. Without fields it removes the
// subscription.
func (g *Graph) SetSubscription(app, page string, fields ...string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	key := [2]string{app, page}
	if len(fields) == 0 {
		delete(g.subs, key)
		return
	}
	g.subs[key] = slices.Compact(slices.Sorted(slices.Values(fields)))
}

// Contacts returns the PSIDs of the people who write to a page.
func (g *Graph) Contacts(page string) []string { return slices.Clone(g.people[page]) }

// subscribedPages returns the pages that the app is subscribed to, sorted.
func (g *Graph) subscribedPages(app string) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []string
	for key := range g.subs {
		if key[0] == app {
			out = append(out, key[1])
		}
	}
	slices.Sort(out)
	return out
}

// nextSerial returns a new number at each call.
func (g *Graph) nextSerial() string { return strconv.FormatUint(g.serial.Add(1), 10) }

// hash returns 32 pseudorandom bytes that depend on the seed and the parts.
func (g *Graph) hash(parts ...string) []byte {
	var text strings.Builder
	for _, p := range parts {
		fmt.Fprintf(&text, "%d:%s", len(p), p)
	}
	return sign(sha256.New, string(binary.BigEndian.AppendUint64(nil, g.opts.Seed)), text.String())
}

// sign returns the HMAC of a text.
func sign(algorithm func() hash.Hash, secret, text string) []byte {
	m := hmac.New(algorithm, []byte(secret))
	m.Write([]byte(text))
	return m.Sum(nil)
}

// letters encodes a hash in letters and digits.
func letters(b []byte) string {
	return strings.NewReplacer("-", "A", "_", "B").Replace(base64.RawURLEncoding.EncodeToString(b))
}

var (
	firstNames = []string{
		"Ann", "Jürgen", "Søren", "Zoë", "Łukasz", "María", "Nguyễn", "Yuki", "Amélie", "Björn",
		"Chloe", "İbrahim",
	}
	lastNames = []string{
		"Müller", "Jensen", "O’Brien", "Kowalski", "García", "Trần", "佐藤", "Dubois", "Öberg", "Smith",
		"Yılmaz", "Novák",
	}
)

// newContact returns contact i of a page. Every twelfth has no profile, like a
// person who signed up with a phone number.
func (g *Graph) newContact(page string, i int) (psid string, c *contact) {
	h := g.hash("contact", page, strconv.Itoa(i))
	c = &contact{page: page}
	if i%12 != 11 {
		c.first, c.last = firstNames[int(h[8])%len(firstNames)], lastNames[int(h[9])%len(lastNames)]
	}
	return fmt.Sprintf("7%015d", binary.BigEndian.Uint64(h)%1_000_000_000_000_000), c
}
