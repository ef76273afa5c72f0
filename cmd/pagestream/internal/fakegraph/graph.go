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

// Errors when a fake is made or asked about something it does not have.
var (
	// ErrOptions is returned when the options don't describe a whole: an id that is
	// missing, twice, or not a number, or a user of a page that is not there.
	ErrOptions = errors.New("fake graph can't be made")
	// ErrUnknown is returned when there is no such app, user, page or token, or that the
	// user has no role on the page.
	ErrUnknown = errors.New("not in the fake graph")
)

const (
	// DefaultVersion is the API version of requests that name none.
	DefaultVersion = "v23.0"
	// DefaultContacts is how many people write to each page.
	DefaultContacts = 12

	maxContacts = 1_000_000 // of all pages together
	codeLife    = 10 * time.Minute
	shortLife   = 2 * time.Hour
	longLife    = 60 * 24 * time.Hour
	dataAccess  = 90 * 24 * time.Hour
	maxCodes    = 10_000
)

// App is a Meta app. The two URLs are its callbacks about people who remove it,
// or who want their data deleted; empty is none.
type App struct{ ID, Secret, Name, DeauthorizeURL, DataDeletionURL string }

// Page is a Facebook page, with its linked Instagram account if it has one.
type Page struct{ ID, Name, Category, Instagram string }

// User is a person who manages pages and has granted the apps these scopes. No
// scopes means all that pagestream needs.
type User struct {
	ID, Name string
	Pages    []string
	Scopes   []string
}

// Options describe what there is. One app, one user and one page at least.
type Options struct {
	Apps  []App
	Users []User
	Pages []Page
	// Seed decides tokens, contacts and their names.
	Seed uint64
	// Contacts is the number of people who write to each page; default [DefaultContacts].
	Contacts int
	// MeOverwrites makes a POST to me/subscribed_apps drop the app from all
	// other pages.
	MeOverwrites bool
	// ProofOptional turns "Require App Secret" off: a missing appsecret_proof is
	// allowed, a wrong one never.
	ProofOptional bool
	// Picker makes the login dialog ask which pages are granted; without it all
	// are, at once. The parameter display=picker asks for it too.
	Picker bool
	// Window closes a conversation for the page 24 hours after the person last
	// wrote, except for HUMAN_AGENT, which has 7 days.
	Window bool
	// ConversationLimit is how many calls a second the Conversations API takes for
	// each page; 0 is no limit, Meta's is 2.
	ConversationLimit int
	Now               func() time.Time
}

// Graph is the state of the fake and the handler that serves it. It is safe for
// concurrent use. Make one with [New].
type Graph struct {
	opts     Options
	apps     map[string]App
	users    map[string]User
	pages    map[string]Page
	contacts map[string]*contact // by PSID
	people   map[string][]string // PSIDs by page
	serial   atomic.Uint64
	codes    *lru.Cache[string, *code]

	mu         sync.Mutex
	tokens     map[string]*token
	subs       map[[2]string][]string // by app and page; a present empty list is subscribed
	engines    map[*Engine]struct{}
	appSubs    map[[2]string]appSubscription // by app and object
	history    map[string][]historic         // by page
	tasks      map[[2]string][]string        // by user and page
	granted    map[[2]string][]string        // by app and user
	dataAccess map[[2]string]time.Time       // when it has ended, by app and user
	limits     map[string]*limit             // by page, or "" for the app
	scripts    []*scripted
}

// contact is one person as one page knows them.
type contact struct {
	page, first, last string
	lastIn            time.Time // when they last wrote
	closed            bool      // their window is
	blocked           bool      // the page is, by them
}

// token is one access token.
type token struct {
	kind    string // "USER", "PAGE" or "APP"
	app     string
	user    string
	page    string
	scopes  []string
	issued  time.Time
	expires time.Time // zero: never
	long    bool
	// dead is the subcode it died of; -1 without one.
	dead int
}

// code is one login code.
type code struct {
	app, user, redirect string
	issued              time.Time
	used                bool
}

var allScopes = []string{
	"pages_show_list", "pages_messaging", "pages_manage_metadata", "pages_read_engagement",
	"instagram_basic", "instagram_manage_messages",
}

// New returns a fake of what o describes, with no page subscribed.
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
		appSubs: map[[2]string]appSubscription{}, history: map[string][]historic{}, tasks: map[[2]string][]string{},
		granted: map[[2]string][]string{}, dataAccess: map[[2]string]time.Time{}, limits: map[string]*limit{"": {}},
	}
	g.codes, _ = lru.New[string, *code](maxCodes) // only a bad size is an error
	var err error                                 // the first
	taken := map[string]bool{}
	take := func(kind, id string) {
		if id == "" || len(id) > 32 || strings.Trim(id, "0123456789") != "" || taken[id] {
			err = cmp.Or(err, fmt.Errorf("%w: %s id %q is not a number or is there twice", ErrOptions, kind, id))
		}
		taken[id] = true
	}
	for _, a := range o.Apps {
		take("app", a.ID)
		if a.Secret == "" {
			err = cmp.Or(err, fmt.Errorf("%w: app %s has no secret", ErrOptions, a.ID))
		}
		g.apps[a.ID] = a
		// All, so that what is delivered is up to the pages.
		g.appSubs[[2]string{a.ID, objectPage}] = appSubscription{fields: pageFields}
	}
	for _, p := range o.Pages {
		take("page", p.ID)
		g.pages[p.ID] = p
		g.limits[p.ID] = &limit{}
	}
	for _, u := range o.Users {
		take("user", u.ID)
		for _, p := range u.Pages {
			if _, ok := g.pages[p]; !ok {
				err = cmp.Or(err, fmt.Errorf("%w: user %s has page %s, which is not there", ErrOptions, u.ID, p))
			}
		}
		if len(u.Scopes) == 0 {
			u.Scopes = allScopes
		}
		g.users[u.ID] = u
	}
	for _, p := range o.Pages {
		for i := range o.Contacts {
			psid, c := g.person(p.ID, i)
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

// PageToken returns the user's long-lived token of a page, the same for the same
// seed. It fails with [ErrUnknown] where the user has no role on the page.
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

// UserToken returns a token of a user, as the end of a login gives it: long-lived
// or for two hours.
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

// issue returns the token with this name, made new where it is not there or has
// died or expired. Then it is another one, as Meta's would be.
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

// KillToken makes a token invalid with a subcode of 190: 458 app removed, 460
// password changed, 463 expired, 490 checkpoint, and so on; 0 is without one.
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

// SubscribedFields returns the app's fields on a page, sorted, and whether it is
// subscribed at all.
func (g *Graph) SubscribedFields(app, page string) ([]string, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	fields, ok := g.subs[[2]string{app, page}]
	return slices.Clone(fields), ok
}

// SetSubscription changes what an app is subscribed to behind everybody's back,
// as a sibling product, an admin or Meta may do. No fields at all removes it.
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

// subscribedPages returns the pages the app is subscribed to, sorted.
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

// nextSerial is another number at each call.
func (g *Graph) nextSerial() string { return strconv.FormatUint(g.serial.Add(1), 10) }

// hash is a number-like 32 bytes that follow from the seed.
func (g *Graph) hash(parts ...string) []byte {
	var text strings.Builder
	for _, p := range parts {
		fmt.Fprintf(&text, "%d:%s", len(p), p)
	}
	return sign(sha256.New, string(binary.BigEndian.AppendUint64(nil, g.opts.Seed)), text.String())
}

// sign is the HMAC of a text.
func sign(algorithm func() hash.Hash, secret, text string) []byte {
	m := hmac.New(algorithm, []byte(secret))
	m.Write([]byte(text))
	return m.Sum(nil)
}

// letters spells a hash in letters and digits.
func letters(b []byte) string {
	return strings.NewReplacer("-", "A", "_", "B").Replace(base64.RawURLEncoding.EncodeToString(b))
}

var (
	firstNames = []string{"Ann", "Jürgen", "Søren", "Zoë", "Łukasz", "María", "Nguyễn", "Yuki", "Amélie", "Björn", "Chloe", "İbrahim"}
	lastNames  = []string{"Müller", "Jensen", "O’Brien", "Kowalski", "García", "Trần", "佐藤", "Dubois", "Öberg", "Smith", "Yılmaz", "Novák"}
)

// person is one contact of a page. Every twelfth has no profile to show, like
// somebody who signed up with a phone number.
func (g *Graph) person(page string, i int) (psid string, c *contact) {
	h := g.hash("contact", page, strconv.Itoa(i))
	c = &contact{page: page}
	if i%12 != 11 {
		c.first, c.last = firstNames[int(h[8])%len(firstNames)], lastNames[int(h[9])%len(lastNames)]
	}
	return fmt.Sprintf("7%015d", binary.BigEndian.Uint64(h)%1_000_000_000_000_000), c
}
