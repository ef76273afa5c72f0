package loadgen

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pagestream/pagestream/internal/backoff"
)

// ErrAPI is returned when the API can't be reached or its answer is not the expected
// one. Lost messages are not an error: they are in the [Report].
var ErrAPI = errors.New("the API can't be read")

const (
	eventsPerPage   = 1000
	messagesPerPage = 500
	auditReaders    = 4
	apiTimeout      = 15 * time.Second // a read waits for its event for up to 10 s
	apiPause        = 200 * time.Millisecond
	// patience is how long the API may give no answer, and startPatience before anything is sent and after the audit.
	patience      = 30 * time.Second
	startPatience = 5 * time.Second
	maxAPIAnswer  = 256 << 20
	// forgetTimeout bounds how long the end of a run takes to forget the pages.
	forgetTimeout  = 2 * time.Minute
	forgetVerb     = "/forget" // after the path of a page
	auditReadTypes = "message.received,message.echoed"
)

// api reads the private API.
type api struct {
	base, token string
	http        *http.Client
}

func newAPI(cfg Config) *api {
	return &api{base: cfg.API, token: cfg.Token, http: &http.Client{
		Timeout:   apiTimeout,
		Transport: &http.Transport{MaxIdleConnsPerHost: auditReaders},
	}}
}

// get reads a resource into out. If the resource does not exist, out is unchanged.
// It tries again while the server can't be reached, is starting or is behind (5xx), for
// as long as it has patience, and until the context ends.
func (a *api) get(ctx context.Context, path string, query url.Values, patience time.Duration, out any) error {
	return a.do(ctx, http.MethodGet, path+"?"+query.Encode(), patience, out)
}

// do sends a request as get does. A request that changes anything may be carried out twice. A page that is not there
// at a second try to forget it was forgotten by one that was not answered.
func (a *api) do(ctx context.Context, method, path string, patience time.Duration, out any) error {
	last, missingOK := time.Now().Add(patience), method == http.MethodGet
	for {
		attempt, cancel := context.WithDeadline(ctx, last)
		retry, err := a.once(attempt, method, path, missingOK, out)
		cancel()
		if err == nil || !retry || ctx.Err() != nil || time.Now().Add(apiPause).After(last) {
			return err
		}
		if ctxErr := backoff.Sleep(ctx, apiPause); ctxErr != nil {
			return fmt.Errorf("%w (%w)", err, ctxErr)
		}
		missingOK = missingOK || strings.HasSuffix(path, forgetVerb)
	}
}

// once is one try of do; retry reports whether another one may succeed. With missingOK it is no error that the resource
// does not exist.
func (a *api) once(ctx context.Context, method, path string, missingOK bool, out any) (retry bool, err error) {
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, nil)
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrAPI, err)
	}
	req.Header.Set("Authorization", "Bearer "+a.token)
	req.Header.Set("Accept", "application/json")
	resp, err := a.http.Do(req)
	if err != nil {
		return true, fmt.Errorf("%w: the server at %s does not answer: %w", ErrAPI, a.base, cause(err))
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotFound && missingOK:
		return false, nil
	case resp.StatusCode != http.StatusOK:
		var p struct{ Detail string }
		_ = json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&p)
		return resp.StatusCode >= http.StatusInternalServerError, fmt.Errorf("%w: %s", ErrAPI, a.refused(resp.StatusCode, p.Detail))
	}
	if out == nil {
		return false, nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAPIAnswer)).Decode(out); err != nil {
		return true, fmt.Errorf("%w: the answer of %s breaks off: %w", ErrAPI, a.base, cause(err))
	}
	return false, nil
}

// refused says why the API did not do something.
func (a *api) refused(status int, detail string) string {
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return "the token does not permit it; give the file with the server's admin token with --token-file"
	case detail != "":
		return detail
	}
	return "what answers at " + a.base + " is not pagestream's private listener, or can't answer now; see --server"
}

// cause returns an error of a request without the method and the address.
func cause(err error) error {
	var request *url.Error
	if errors.As(err, &request) {
		return request.Err
	}
	return err
}

// eachPage sends a request about each page of a run, until one fails. done is called with the number of those
// that have succeeded.
func (a *api) eachPage(ctx context.Context, run string, pages int, verb string, done func(uint64)) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(auditReaders)
	var n atomic.Uint64
	for page := range pages {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			err := a.do(ctx, http.MethodPost, "/api/v1/pages/"+pageID(run, page)+verb, startPatience, nil)
			if err == nil {
				done(n.Add(1))
			}
			return err
		})
	}
	return g.Wait()
}

// mark marks the pages of a run as tests. It returns whether any page was marked.
func (a *api) mark(ctx context.Context, run string, pages int) (some bool, err error) {
	var marked atomic.Bool
	if err = a.eachPage(ctx, run, pages, "/test", func(uint64) { marked.Store(true) }); err != nil {
		err = fmt.Errorf("mark the pages as tests: %w", err)
	}
	return marked.Load(), err
}

// forget removes the pages of a run from the read models. It does so as well after the context has ended.
func (a *api) forget(ctx context.Context, run string, pages int, progress func(phase string, done uint64)) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), forgetTimeout)
	defer cancel()
	err := a.eachPage(ctx, run, pages, forgetVerb, func(n uint64) { progress("forgetting the test pages", n) })
	if err != nil {
		return fmt.Errorf("test pages are left, of this run; remove them with: pagestream pages forget --tests: %w", err)
	}
	return nil
}

// lastSeq returns the sequence of the stream's last event.
func (a *api) lastSeq(ctx context.Context, patience time.Duration) (uint64, error) {
	var out struct {
		Stream *struct {
			LastSeq uint64 `json:"last_seq"`
		} `json:"stream"`
	}
	if err := a.get(ctx, "/api/v1/status", nil, patience, &out); err != nil {
		return 0, err
	}
	if out.Stream == nil {
		return 0, fmt.Errorf("%w: what answers at %s has no stream of events; is it pagestream's private listener? See --server", ErrAPI, a.base)
	}
	return out.Stream.LastSeq, nil
}

// seen counts how often each message of the run was found, up to two.
type seen struct{ once, twice bits }

func (s *seen) add(n uint64) {
	if s.once.has(n) {
		s.twice.set(n)
	}
	s.once.set(n)
}

// audit compares what was sent with what the API returns.
type audit struct {
	api     *api
	traffic *traffic
	// posts is how many different POSTs were sent.
	posts    uint64
	progress func(phase string, audited uint64)

	mu            sync.Mutex
	stream        seen
	conversations seen
	// misplaced counts events and messages under another page or contact than the
	// one that they were sent for. They are not counted as stored.
	misplaced uint64
}

// known returns the message with that mid; false if this run has not sent it.
func (a *audit) known(mid string) (message, bool) {
	m, ok := a.traffic.parse(mid)
	return m, ok && m.post < a.posts
}

// readStream reads the events with a sequence greater than after, up to until.
func (a *audit) readStream(ctx context.Context, after, until uint64) error {
	query := url.Values{"limit": {strconv.Itoa(eventsPerPage)}, "type": {auditReadTypes}}
	var read uint64
	for after < until {
		query.Set("after", strconv.FormatUint(after, 10))
		var out struct {
			Items []struct {
				Seq     uint64 `json:"seq"`
				ID      string `json:"id"`
				Page    string `json:"page"`
				Contact string `json:"contact"`
				Data    struct {
					Message struct {
						MID string `json:"mid"`
					} `json:"message"`
				} `json:"data"`
			} `json:"items"`
			Next string `json:"next"`
		}
		if err := a.api.get(ctx, "/api/v1/events", query, patience, &out); err != nil {
			return err
		}
		for _, e := range out.Items {
			if e.Seq > until {
				return nil
			}
			mid := e.Data.Message.MID
			if mid == "" {
				_, mid, _ = strings.Cut(e.ID, ":msg:")
			}
			m, ok := a.known(mid)
			if !ok {
				continue
			}
			if e.Page != a.traffic.pageID(m.page) || e.Contact != a.traffic.contactID(m.page, m.contact) {
				a.misplaced++
				continue
			}
			a.stream.add(a.traffic.index(m.post, m.item))
		}
		read += uint64(len(out.Items))
		a.progress("auditing the stream", read)
		if out.Next == "" {
			return nil
		}
		next, err := strconv.ParseUint(out.Next, 10, 64)
		if err != nil || next <= after {
			return fmt.Errorf("%w: the next cursor %q of the events does not advance", ErrAPI, out.Next)
		}
		after = next
	}
	return nil
}

// readConversations reads every conversation that the run wrote to, from a read
// model that has event minSeq.
func (a *audit) readConversations(ctx context.Context, minSeq uint64) error {
	var used bits
	for k := range a.posts {
		for i := range a.traffic.items {
			m := a.traffic.message(k, i)
			used.set(uint64(m.page*a.traffic.contacts + m.contact))
		}
	}
	g, group := errgroup.WithContext(ctx)
	g.SetLimit(auditReaders)
	var read atomic.Uint64
	for n := range a.traffic.pages * a.traffic.contacts {
		if !used.has(uint64(n)) || group.Err() != nil {
			continue
		}
		g.Go(func() error {
			if err := a.readConversation(group, n/a.traffic.contacts, n%a.traffic.contacts, minSeq); err != nil {
				return err
			}
			a.progress("auditing conversations", read.Add(1))
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

func (a *audit) readConversation(ctx context.Context, page, contact int, minSeq uint64) error {
	path := "/api/v1/conversations/" + a.traffic.pageID(page) + "/" + a.traffic.contactID(page, contact) + "/messages"
	query := url.Values{"limit": {strconv.Itoa(messagesPerPage)}, "min_seq": {strconv.FormatUint(minSeq, 10)}}
	for {
		var out struct {
			Items []struct {
				MID string `json:"mid"`
			} `json:"items"`
			Next string `json:"next"`
		}
		if err := a.api.get(ctx, path, query, patience, &out); err != nil {
			return err
		}
		a.mu.Lock()
		for _, item := range out.Items {
			m, ok := a.known(item.MID)
			switch {
			case !ok:
			case m.page != page || m.contact != contact:
				a.misplaced++
			default:
				a.conversations.add(a.traffic.index(m.post, m.item))
			}
		}
		a.mu.Unlock()
		if out.Next == "" {
			return nil
		}
		if out.Next == query.Get("cursor") {
			return fmt.Errorf("%w: the cursor of %s does not advance", ErrAPI, path)
		}
		query.Set("cursor", out.Next)
	}
}
