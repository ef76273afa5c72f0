// Package loadgen sends signed webhook traffic to a running pagestream as Meta
// would, and then checks through the API that it was stored.
//
// A POST that is not answered 200 is sent again until it is, so the server may be
// killed and restarted during a run. The audit checks the server's guarantee: every
// message that it answered 200 for is in the stream exactly once, and in its
// conversation exactly once.
//
// Sent messages are not kept in memory: the id of a message contains the number of
// its POST, from which its page, contact and text are derived, with the seed. A run
// needs a few bits of memory per message.
package loadgen

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"strings"
	"time"
)

// Errors that are returned before anything is sent.
var (
	// ErrConfig is returned when the configuration of a run is not valid.
	ErrConfig = errors.New("load can't be run")
	// ErrRemote is returned when a URL is not on this machine and AllowRemote is
	// not set.
	ErrRemote = errors.New("not on this machine; to load another machine, use: pagestream load --allow-remote")
)

// Errors that end a run.
var (
	// ErrSecret is returned when the server does not accept the signature: nothing was stored.
	ErrSecret = errors.New("the server refused the signature: the app secret is not that of the app which the " +
		"webhook's URL names; give the right one with --secret-file")
	// ErrSilent is returned when the duration is over and the server has answered no POST for Timeout although it
	// accepts them, or for twice as long.
	ErrSilent = errors.New("the server does not answer")
)

// Limits of a run, so that ids stay short and memory small.
const (
	maxItems    = 1000
	maxContacts = 9_999_999 // for all pages together
	maxMessages = 1 << 30
	maxIDs      = 10_000_000_000
)

// Config configures a run. URL, Secret, API and Token are required.
type Config struct {
	// URL is the URL of the webhook, with the app's name if it is not the first app.
	URL string
	// Secret is the app secret that signs the deliveries.
	Secret string
	// Rate is the number of POSTs per second; 0 is as fast as Concurrency allows.
	Rate int
	// Concurrency is the number of connections; default 64.
	Concurrency int
	// Pages and Contacts (per page) are the number of pages and contacts of the
	// messages; default 10 and 100.
	Pages    int
	Contacts int
	// Items is the number of messages in a POST, of one or more pages; default 1.
	Items int
	// Duplicates is the percentage of POSTs that repeat an earlier one's messages
	// with another entry.time.
	Duplicates int
	// Duration is how long new messages are sent; default 10 s.
	Duration time.Duration
	// Seed determines the traffic, except for the run's own ids.
	Seed uint64
	// Timeout is how long an answer may take; default 5 s, as for Meta.
	Timeout time.Duration
	// Grace is how long after Duration POSTs that were not answered 200 are still
	// sent again; default 1 minute.
	Grace time.Duration
	// API is the base URL of the private listener, Token its admin token.
	API   string
	Token string
	// AuditTimeout limits the audit; default 5 minutes.
	AuditTimeout time.Duration
	// AllowRemote allows URL and API to be on another machine.
	AllowRemote bool
	// Progress is called about every 200 ms, from one goroutine at a time.
	Progress func(Progress)
}

// Progress is the progress of a run.
type Progress struct {
	// Phase is "sending", "resending", "auditing the stream", "auditing conversations"
	// or "forgetting the test pages".
	Phase string
	// Elapsed is the time since the start of the run.
	Elapsed time.Duration
	// Posts counts sent POSTs, Acked those that were answered 200, and Waiting those
	// that must be sent again.
	Posts, Acked uint64
	Waiting      int
	// Audited counts the events or conversations that the audit has read.
	Audited uint64
}

// complete sets the defaults and checks the configuration.
func (c *Config) complete() error {
	c.Concurrency, c.Items = cmp.Or(c.Concurrency, 64), cmp.Or(c.Items, 1)
	c.Pages, c.Contacts = cmp.Or(c.Pages, 10), cmp.Or(c.Contacts, 100)
	c.Duration, c.Timeout = cmp.Or(c.Duration, 10*time.Second), cmp.Or(c.Timeout, 5*time.Second)
	c.Grace, c.AuditTimeout = cmp.Or(c.Grace, time.Minute), cmp.Or(c.AuditTimeout, 5*time.Minute)
	if c.Progress == nil {
		c.Progress = func(Progress) {}
	}
	c.API = strings.TrimSuffix(c.API, "/")
	switch {
	case c.Secret == "":
		return fmt.Errorf("%w: no app secret; give --secret-file", ErrConfig)
	case c.Token == "":
		return fmt.Errorf("%w: no admin token; give --token-file", ErrConfig)
	case c.Rate < 0, c.Concurrency < 1, c.Concurrency > 10000:
		return fmt.Errorf("%w: --rate is at least 0, --concurrency 1 to 10000", ErrConfig)
	case c.Pages < 1, c.Contacts < 1, c.Pages > maxContacts/c.Contacts:
		return fmt.Errorf("%w: --pages and --contacts are at least 1 and together at most %d contacts",
			ErrConfig, maxContacts)
	case c.Items < 1, c.Items > maxItems:
		return fmt.Errorf("%w: --items is 1 to %d", ErrConfig, maxItems)
	case c.Duplicates < 0, c.Duplicates > 99:
		return fmt.Errorf("%w: --duplicates is 0 to 99 percent", ErrConfig)
	case c.Duration < 0, c.Timeout < 0, c.Grace < 0, c.AuditTimeout < 0:
		return fmt.Errorf("%w: times are positive", ErrConfig)
	}
	for name, raw := range map[string]string{"--url": c.URL, "--server": c.API} {
		u, err := url.Parse(raw)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.Fragment != "" {
			return fmt.Errorf("%w: %s is not a URL such as http://127.0.0.1:8080/webhooks", ErrConfig, name)
		}
		local := u.Hostname() == "localhost" || net.ParseIP(u.Hostname()).IsLoopback()
		if !c.AllowRemote && !local {
			return fmt.Errorf("%w: %s %s is %w", ErrConfig, name, u.Host, ErrRemote)
		}
	}
	return nil
}

// newRunID returns ten random digits, which make the ids of each run different.
func newRunID() string {
	return fmt.Sprintf("%010d", rand.Uint64N(maxIDs))
}
