package hooks

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
)

// Defaults of [Options] and [Endpoint].
const (
	DefaultTimeout        = 15 * time.Second
	DefaultGiveUpAfter    = 24 * time.Hour
	DefaultBackoffMin     = time.Second
	DefaultBackoffMax     = 15 * time.Minute
	DefaultConcurrency    = 8
	DefaultMaxDeadLetters = 100_000
)

// ErrOptions is returned when the options, or an endpoint in them, are not valid.
var ErrOptions = errors.New("options are not valid")

const (
	maxEndpoints = 256
	maxName      = 100
)

// Endpoint is one receiver of events, as [ReadFile] reads it.
type Endpoint struct {
	// Name identifies the endpoint: its position is stored under this name, so an
	// endpoint whose URL changes keeps its position.
	Name string `yaml:"name"`
	// URL is http or https, without a user in it. Redirects are not followed.
	URL string `yaml:"url"`
	// Secrets are used to sign: each delivery has one signature for each secret.
	// While a secret is being rotated, the old and the new one are both here.
	Secrets []string `yaml:"secrets"`
	// Pages are the pages whose events are sent, besides those of Company, whose events
	// are those of the time at which the company had the page. All is every page, instead
	// of the two.
	Pages   []domain.PageID `yaml:"pages"`
	Company Company         `yaml:"company"`
	All     bool            `yaml:"all"`
	// Types are the types of the events, besides contact.erased; nil means every type but page.* and
	// subscription.*. Events that another app delivered are never sent.
	Types []domain.Type `yaml:"types"`
	// Timeout bounds one try, by default [DefaultTimeout].
	Timeout time.Duration `yaml:"timeout"`
	// From is the first sequence for an endpoint that has no position yet; 0 starts
	// after the stream's head. Once there is a position, From has no effect.
	From uint64 `yaml:"from"`
}

// selection returns the events that are sent, with the id of the endpoint's company.
func (e Endpoint) selection(company string) meta.Selection {
	return meta.Select(e.All, e.Pages, company, meta.Received(e.Types))
}

// maxFilters is the largest number of subjects that the server filters by. With
// more, all events are read and filtered here.
const maxFilters = 200

// filters returns the filter subjects of the endpoint, nil for all events.
func (e Endpoint) filters() []string {
	var out []string
	types := meta.Received(e.Types)
	switch {
	case (e.All || e.Company != "") && len(types) == 0:
		return nil
	case e.All || e.Company != "":
		out = streams.Filter("", types...)
	default:
		for _, p := range e.Pages {
			out = append(out, streams.Filter(p, types...)...)
		}
	}
	slices.Sort(out)
	out = slices.Compact(out)
	if len(out) > maxFilters {
		return nil // the selection is applied to each event anyway
	}
	return out
}

func (e Endpoint) check() error {
	if e.Name == "" || len(e.Name) > maxName {
		return fmt.Errorf("endpoint name must have 1 to %d bytes: %w", maxName, ErrOptions)
	}
	u, err := url.Parse(e.URL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil {
		return fmt.Errorf("endpoint %q: URL must be http or https, with a host and no user: %w", e.Name, ErrOptions)
	}
	switch {
	case slices.Contains(e.Pages, ""):
		return fmt.Errorf("endpoint %q: empty page: %w", e.Name, ErrOptions)
	case e.All && e.Pages != nil:
		return fmt.Errorf("endpoint %q: it has pages and all: true; remove one: %w", e.Name, ErrOptions)
	case e.All && e.Company != "":
		return fmt.Errorf("endpoint %q: it has company and all: true; remove one: %w", e.Name, ErrOptions)
	case e.Pages != nil && len(e.Pages) == 0 && e.Company != "":
		return fmt.Errorf("endpoint %q: pages is an empty list; remove it: %w", e.Name, ErrOptions)
	case !e.All && len(e.Pages) == 0 && e.Company == "":
		return fmt.Errorf("endpoint %q: say which pages with pages: [...] or company: NAME, "+
			"or write all: true for every page: %w", e.Name, ErrOptions)
	case e.Types != nil && len(e.Types) == 0:
		return fmt.Errorf("endpoint %q: types is an empty list; remove it for every type: %w", e.Name, ErrOptions)
	}
	for _, t := range e.Types {
		if !meta.Selectable(t) {
			return fmt.Errorf("endpoint %q: no event type %q: %w", e.Name, t, ErrOptions)
		}
	}
	return nil
}

// Options configure [Hooks]. JS, Path and Encode are required.
type Options struct {
	JS jetstream.JetStream
	// Identity is the stream's identity, as [streams.Ensure] returned it. If a
	// stored position is of a stream of another name, or of one that was made at
	// another time and whose events are not known, the position and the dead letters
	// are deleted, and the endpoint starts like a new one. An empty identity is
	// not compared. If the events are known and the stream has others, the position
	// is moved back to the last one that is in both.
	Identity streams.Identity
	// Path is the file that stores positions and dead letters.
	Path      string
	Endpoints []Endpoint
	// Encode returns the request body of an event, a CloudEvent in JSON. It must
	// return the same bytes for the same event, and be safe for concurrent use. It is
	// given events without sealed tokens.
	Encode func(streams.Stored) ([]byte, error)
	// KnowsPage reports whether there is such a page. The status of an endpoint has the
	// pages for which it returns false. Nil means that every page is known.
	KnowsPage func(domain.PageID) bool
	// Pages is the read model of pages, and FindCompany returns the id of the company that
	// has a name, or has it as its id, and false if there is none. Both are required if an
	// endpoint has a company.
	Pages       meta.PagesModel
	FindCompany func(name string) (id string, found bool)
	Logger      *slog.Logger

	// An event is given up after MaxAttempts failed tries (0 means no limit), or at
	// the first failure that is GiveUpAfter or more after its first failed try,
	// whichever comes first.
	MaxAttempts int
	GiveUpAfter time.Duration
	// BackoffMin is the pause after the first failed try. It doubles up to
	// BackoffMax; each pause is a random time between half of that and all of it.
	BackoffMin, BackoffMax time.Duration
	// Concurrency is the number of concurrent tries of an endpoint.
	Concurrency int
	// MaxDeadLetters bounds the dead letters of an endpoint. Once the limit is
	// reached, events are no longer given up: they are tried again.
	MaxDeadLetters int
}

func (o Options) withDefaults() Options {
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	o.GiveUpAfter = cmp.Or(o.GiveUpAfter, DefaultGiveUpAfter)
	o.BackoffMin = cmp.Or(o.BackoffMin, DefaultBackoffMin)
	o.BackoffMax = cmp.Or(o.BackoffMax, DefaultBackoffMax)
	o.BackoffMax = max(o.BackoffMax, o.BackoffMin)
	o.Concurrency = cmp.Or(o.Concurrency, DefaultConcurrency)
	o.MaxDeadLetters = cmp.Or(o.MaxDeadLetters, DefaultMaxDeadLetters)
	return o
}

func (o Options) check() error {
	if o.JS == nil || o.Path == "" || o.Encode == nil {
		return fmt.Errorf("JS, Path and Encode are required: %w", ErrOptions)
	}
	byCompany := func(e Endpoint) bool { return e.Company != "" }
	if slices.ContainsFunc(o.Endpoints, byCompany) && (o.Pages == nil || o.FindCompany == nil) {
		return fmt.Errorf("a company needs Pages and FindCompany: %w", ErrOptions)
	}
	return Check(o.Endpoints)
}

// Check fails with [ErrOptions] or [ErrSecret] if [New] would refuse the endpoints.
func Check(endpoints []Endpoint) error {
	if len(endpoints) > maxEndpoints {
		return fmt.Errorf("more than %d endpoints: %w", maxEndpoints, ErrOptions)
	}
	names := make(map[string]bool)
	for _, e := range endpoints {
		if err := e.check(); err != nil {
			return err
		}
		if _, err := parseSecrets(e.Secrets); err != nil {
			return fmt.Errorf("endpoint %q: %w", e.Name, err)
		}
		if names[e.Name] {
			return fmt.Errorf("two endpoints %q: %w", e.Name, ErrOptions)
		}
		names[e.Name] = true
	}
	return nil
}
