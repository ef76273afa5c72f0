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
	apiTimeout      = 30 * time.Second
	apiPause        = 200 * time.Millisecond
	startTries      = 5
	maxAPIAnswer    = 256 << 20
	auditReadTypes  = "message.received,message.echoed"
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
// It tries again while the server can't be reached, is starting or is behind (5xx),
// at most tries times if tries is not 0, and until the context ends.
func (a *api) get(ctx context.Context, path string, query url.Values, tries int, out any) error {
	for try := 1; ; try++ {
		retry, err := a.getOnce(ctx, path, query, out)
		if err == nil || !retry || tries > 0 && try >= tries {
			return err
		}
		if ctxErr := backoff.Sleep(ctx, apiPause); ctxErr != nil {
			return fmt.Errorf("%w (%w)", err, ctxErr)
		}
	}
}

// getOnce is one try of get; retry reports whether another one may succeed.
func (a *api) getOnce(ctx context.Context, path string, query url.Values, out any) (retry bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.base+path+"?"+query.Encode(), nil)
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrAPI, err)
	}
	req.Header.Set("Authorization", "Bearer "+a.token)
	req.Header.Set("Accept", "application/json")
	resp, err := a.http.Do(req)
	if err != nil {
		return ctx.Err() == nil, fmt.Errorf("%w: %w", ErrAPI, err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return false, nil
	case resp.StatusCode != http.StatusOK:
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer))
		return resp.StatusCode >= http.StatusInternalServerError, fmt.Errorf("%w: GET %s: %s", ErrAPI, path, resp.Status)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAPIAnswer)).Decode(out); err != nil {
		return ctx.Err() == nil, fmt.Errorf("%w: GET %s: %w", ErrAPI, path, err)
	}
	return false, nil
}

// lastSeq returns the sequence of the stream's last event.
func (a *api) lastSeq(ctx context.Context, tries int) (uint64, error) {
	var out struct {
		Stream *struct {
			LastSeq uint64 `json:"last_seq"`
		} `json:"stream"`
	}
	if err := a.get(ctx, "/api/v1/status", nil, tries, &out); err != nil {
		return 0, err
	}
	if out.Stream == nil {
		return 0, fmt.Errorf("%w: GET /api/v1/status has no stream; is this a pagestream server?", ErrAPI)
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
		if err := a.api.get(ctx, "/api/v1/events", query, 0, &out); err != nil {
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
			if e.Page != pageID(m.page) || e.Contact != a.traffic.contactID(m.page, m.contact) {
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
	path := "/api/v1/conversations/" + pageID(page) + "/" + a.traffic.contactID(page, contact) + "/messages"
	query := url.Values{"limit": {strconv.Itoa(messagesPerPage)}, "min_seq": {strconv.FormatUint(minSeq, 10)}}
	for {
		var out struct {
			Items []struct {
				MID string `json:"mid"`
			} `json:"items"`
			Next string `json:"next"`
		}
		if err := a.api.get(ctx, path, query, 0, &out); err != nil {
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
