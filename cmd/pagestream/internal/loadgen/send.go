package loadgen

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
	"golang.org/x/sync/errgroup"

	"github.com/pagestream/pagestream/internal/backoff"
)

const (
	// resendAfter is how long a POST that was not answered 200 waits.
	resendAfter = 200 * time.Millisecond
	// holdStep is the pace of sending while too many POSTs wait to be sent
	// again, as when the server is down.
	holdStep = 20 * time.Millisecond
	// recentPosts is how far back a duplicate may reach.
	recentPosts   = 10_000
	progressEvery = 200 * time.Millisecond
	maxAnswer     = 64 << 10
)

// sender sends the traffic and knows which POSTs were answered 200.
type sender struct {
	cfg     Config
	traffic *traffic
	client  *http.Client
	began   time.Time

	mu         sync.Mutex
	next       uint64    // the next new POST
	acked      bits      // POSTs that were answered 200
	waiting    []waiting // to be sent again, in order of due
	posts      uint64
	answered   uint64
	resent     uint64
	duplicates uint64
	statuses   map[string]uint64
	latency    vegeta.LatencyMetrics
	lastAnswer time.Time
	phase      string
	audited    uint64
}

type waiting struct {
	post uint64
	due  time.Time
}

func newSender(cfg Config, run string) *sender {
	now := time.Now()
	return &sender{
		cfg: cfg, began: now, phase: "sending", statuses: map[string]uint64{},
		traffic: &traffic{
			run: run, secret: []byte(cfg.Secret), seed: cfg.Seed, pages: cfg.Pages, contacts: cfg.Contacts,
			items: cfg.Items, start: now.UnixMilli(), rate: cfg.Rate,
		},
		client: &http.Client{
			Timeout:       cfg.Timeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport:     &http.Transport{MaxIdleConnsPerHost: cfg.Concurrency, MaxConnsPerHost: cfg.Concurrency, IdleConnTimeout: time.Minute},
		},
	}
}

// attack sends new POSTs, duplicates and what has to be sent again until the
// duration is over or the context ends, and returns when every answer is in.
func (s *sender) attack(ctx context.Context) error {
	attacker := vegeta.NewAttacker(vegeta.Client(s.client), vegeta.Workers(uint64(s.cfg.Concurrency)),
		vegeta.MaxWorkers(uint64(s.cfg.Concurrency)), vegeta.MaxBody(maxAnswer))
	defer context.AfterFunc(ctx, func() { attacker.Stop() })()
	var failed error
	for r := range attacker.Attack(s.target, s, 0, "") {
		// The POST's number is in the fragment, which is not sent.
		_, fragment, ok := strings.Cut(r.URL, "#")
		post, err := strconv.ParseUint(fragment, 10, 64)
		if !ok || err != nil {
			failed = fmt.Errorf("%w: %s", ErrConfig, r.Error)
			continue
		}
		s.done(post, int(r.Code), r.Latency, r.End())
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return failed
}

// Rate is none that vegeta has to know of: the sender is a pacer of its own.
func (*sender) Rate(time.Duration) float64 { return 0 }

// Pace keeps the rate, and holds back while too much waits to be sent again: the
// server is down, and POSTs that nobody takes would only pile up.
func (s *sender) Pace(elapsed time.Duration, hits uint64) (time.Duration, bool) {
	s.mu.Lock()
	full := s.next*uint64(s.cfg.Items) >= maxMessages
	hold := len(s.waiting) >= 4*s.cfg.Concurrency
	s.mu.Unlock()
	if full || elapsed >= s.cfg.Duration {
		return 0, true
	}
	wait := time.Duration(0)
	if s.cfg.Rate > 0 {
		wait, _ = vegeta.ConstantPacer{Freq: s.cfg.Rate, Per: time.Second}.Pace(elapsed, hits)
	}
	if hold {
		wait = max(wait, holdStep)
	}
	// A long wait would outlast the end of the run.
	return min(wait, max(0, s.cfg.Duration-elapsed)), false
}

// target chooses the next POST: one that has to be sent again, a duplicate, or a
// new one.
func (s *sender) target(t *vegeta.Target) error {
	post := s.choose(time.Now())
	body := s.traffic.body(post, time.Now())
	t.Method, t.Body, t.Header = http.MethodPost, body, s.traffic.header(body)
	t.URL = s.cfg.URL + "#" + strconv.FormatUint(post, 10)
	return nil
}

func (s *sender) choose(now time.Time) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if post, ok := s.again(now, len(s.waiting) >= 4*s.cfg.Concurrency); ok {
		s.resent++
		return post
	}
	h := mix(s.cfg.Seed ^ mix(s.next+s.duplicates+s.resent+1))
	if s.next > 0 && int(h%100) < s.cfg.Duplicates {
		s.duplicates++
		return s.next - 1 - (h>>8)%min(s.next, recentPosts)
	}
	s.next++
	return s.next - 1
}

// again takes the first waiting POST that is due, or the first of all where
// anything goes. Those that a duplicate has brought home meanwhile fall away.
func (s *sender) again(now time.Time, any bool) (uint64, bool) {
	for len(s.waiting) > 0 {
		w := s.waiting[0]
		switch {
		case s.acked.has(w.post):
			s.waiting = s.waiting[1:]
		case any || !now.Before(w.due):
			s.waiting = s.waiting[1:]
			return w.post, true
		default:
			return 0, false
		}
	}
	return 0, false
}

// done takes note of one answer; status 0 is none.
func (s *sender) done(post uint64, status int, took time.Duration, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.posts++
	answer := "none"
	if status != 0 {
		answer = strconv.Itoa(status)
	}
	s.statuses[answer]++
	if status == http.StatusOK {
		s.answered++
		s.acked.set(post)
		s.latency.Add(took)
		if at.After(s.lastAnswer) {
			s.lastAnswer = at
		}
	} else if !s.acked.has(post) {
		s.waiting = append(s.waiting, waiting{post, time.Now().Add(resendAfter)})
	}
}

// tell says where the run stands, again and again until the context ends.
func (s *sender) tell(ctx context.Context) {
	for backoff.Sleep(ctx, progressEvery) == nil {
		s.mu.Lock()
		p := Progress{
			Phase: s.phase, Elapsed: time.Since(s.began),
			Posts: s.posts, Acked: s.answered, Waiting: len(s.waiting), Audited: s.audited,
		}
		s.mu.Unlock()
		s.cfg.Progress(p) // outside of the lock that sending needs
	}
}

// at notes what the run is doing now.
func (s *sender) at(phase string, audited uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.phase, s.audited = phase, audited
}

// resend sends what is still waiting, until all of it is answered 200 or the
// grace is over. What remains then is unacknowledged, which is no error.
func (s *sender) resend(ctx context.Context) error {
	grace, cancel := context.WithTimeout(ctx, s.cfg.Grace)
	defer cancel()
	s.at("resending", 0)
	for grace.Err() == nil {
		s.mu.Lock()
		round := slices.DeleteFunc(s.waiting, func(w waiting) bool { return s.acked.has(w.post) })
		s.waiting = nil
		s.resent += uint64(len(round))
		s.mu.Unlock()
		if len(round) == 0 {
			break
		}
		g := errgroup.Group{}
		g.SetLimit(s.cfg.Concurrency)
		for _, w := range round {
			g.Go(func() error { s.post(grace, w.post); return nil })
		}
		_ = g.Wait() // the functions return nil
		s.mu.Lock()
		left := len(s.waiting)
		s.mu.Unlock()
		if left > 0 {
			_ = backoff.Sleep(grace, resendAfter) // the loop asks the context
		}
	}
	return ctx.Err()
}

// post sends one POST outside of vegeta.
func (s *sender) post(ctx context.Context, post uint64) {
	start, status := time.Now(), 0
	body := s.traffic.body(post, start)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.cfg.URL, bytes.NewReader(body))
	if err == nil {
		req.Header = s.traffic.header(body)
		var resp *http.Response
		if resp, err = s.client.Do(req); err == nil {
			_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer))
			resp.Body.Close()
			status = resp.StatusCode
		}
	}
	s.done(post, status, time.Since(start), time.Now())
}
