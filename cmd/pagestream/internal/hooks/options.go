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

// ErrOptions is returned when the options, or an endpoint among them, can't work.
var ErrOptions = errors.New("options are not valid")

const (
	maxEndpoints = 256
	maxName      = 100
)

// Endpoint is where events go, as [ReadFile] reads it.
type Endpoint struct {
	// Name identifies the endpoint: its position is kept under this name. Who
	// changes the URL keeps the position.
	Name string `yaml:"name"`
	// URL is http or https, without a user in it. Redirects are not followed.
	URL string `yaml:"url"`
	// Secrets sign each delivery, every one of them: while a secret is being
	// replaced, both are here.
	Secrets []string `yaml:"secrets"`
	// Pages and Types say which events; none means all.
	Pages []domain.PageID `yaml:"pages"`
	Types []domain.Type   `yaml:"types"`
	// Timeout bounds one try, by default [DefaultTimeout].
	Timeout time.Duration `yaml:"timeout"`
	// From is the first sequence for an endpoint that was never seen before; 0
	// means what comes after the head. It does nothing later.
	From uint64 `yaml:"from"`
}

func (e Endpoint) wants(s streams.Stored) bool {
	return (len(e.Pages) == 0 || slices.Contains(e.Pages, s.Page)) &&
		(len(e.Types) == 0 || slices.Contains(e.Types, s.Type))
}

// maxFilters is from how many subjects on the server isn't asked to filter.
const maxFilters = 200

// filters are the subjects of the endpoint, nil for all.
func (e Endpoint) filters() []string {
	var out []string
	for _, p := range e.Pages {
		out = append(out, streams.Filter(p, e.Types...)...)
	}
	if len(e.Pages) == 0 && len(e.Types) > 0 {
		out = streams.Filter("", e.Types...)
	}
	slices.Sort(out)
	out = slices.Compact(out)
	if len(out) > maxFilters {
		return nil // each event is looked at anyway
	}
	return out
}

func (e Endpoint) check() error {
	if e.Name == "" || len(e.Name) > maxName {
		return fmt.Errorf("endpoint name has to have 1 to %d bytes: %w", maxName, ErrOptions)
	}
	u, err := url.Parse(e.URL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil {
		return fmt.Errorf("endpoint %q: URL has to be http or https, with a host and no user: %w", e.Name, ErrOptions)
	}
	if slices.Contains(e.Pages, "") {
		return fmt.Errorf("endpoint %q: empty page: %w", e.Name, ErrOptions)
	}
	for _, t := range e.Types {
		if !t.Known() {
			return fmt.Errorf("endpoint %q: no event type %q: %w", e.Name, t, ErrOptions)
		}
	}
	return nil
}

// Options configure [Hooks]. JS, Path and Encode are required.
type Options struct {
	JS jetstream.JetStream
	// Identity is the stream's, as [streams.Ensure] gave it. A position in
	// another life of the stream is forgotten, with its dead letters: the
	// endpoint is then as one never seen before. Empty is not compared.
	Identity streams.Identity
	// Path is the file of positions and dead letters.
	Path      string
	Endpoints []Endpoint
	// Encode makes the body of an event, a CloudEvent in JSON. It has to give the
	// same bytes for the same event, and be safe for concurrent use.
	Encode func(streams.Stored) ([]byte, error)
	Logger *slog.Logger

	// MaxAttempts is after how many failed tries an event is given up; 0 is no
	// bound. GiveUpAfter is how long after the first failed try it is given up.
	// Whichever comes first.
	MaxAttempts int
	GiveUpAfter time.Duration
	// BackoffMin is the pause after the first failed try. It doubles up to
	// BackoffMax; each pause is between half of that and the whole, at random.
	BackoffMin, BackoffMax time.Duration
	// Concurrency is how many tries an endpoint gets at a time.
	Concurrency int
	// MaxDeadLetters bounds the dead letters of an endpoint. Once there are as
	// many, events are not given up any more but tried on.
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
	if len(o.Endpoints) > maxEndpoints {
		return fmt.Errorf("more than %d endpoints: %w", maxEndpoints, ErrOptions)
	}
	names := make(map[string]bool)
	for _, e := range o.Endpoints {
		if err := e.check(); err != nil {
			return err
		}
		if names[e.Name] {
			return fmt.Errorf("two endpoints %q: %w", e.Name, ErrOptions)
		}
		names[e.Name] = true
	}
	return nil
}
