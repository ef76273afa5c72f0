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
	// resendAfter is the pause before a POST that was not answered 200 is sent again.
	resendAfter = 200 * time.Millisecond
	// holdStep is the interval of sending while too many POSTs wait to be sent again,
	// for example because the server is down.
	holdStep = 20 * time.Millisecond
	// recentPosts is how many POSTs back the original of a duplicate may be.
	recentPosts   = 10_000
	progressEvery = 200 * time.Millisecond
	maxAnswer     = 64 << 10
)

// sender sends the traffic and records which POSTs were answered 200. It implements
// [vegeta.Pacer].
type sender struct {
	cfg     Config
	traffic *traffic
	client  *http.Client
	began   time.Time

	mu         sync.Mutex
	next       uint64    // the number of the next new POST
	acked      bits      // POSTs that were answered 200
	waiting    []waiting // to be sent again, in the order of due
	posts      uint64
	answered   uint64
	resent     uint64
	duplicates uint64
	statuses   map[string]uint64
	latency    vegeta.LatencyMetrics
	lastAnswer time.Time
	heard      time.Time // the last answer of any status
	hangs      bool      // the last POST was not answered within Timeout
	phase      string
	audited    uint64
}

// waiting is a POST that must be sent again.
type waiting struct {
	post uint64
	due  time.Time
}

// start sets the time at which sending begins.
func (s *sender) start() {
	s.began = time.Now()
	s.heard, s.traffic.start = s.began, s.began.UnixMilli()
}

func newSender(cfg Config, run string) *sender {
	return &sender{
		cfg: cfg, phase: "sending", statuses: map[string]uint64{},
		traffic: &traffic{
			run: run, secret: []byte(cfg.Secret), seed: cfg.Seed, pages: cfg.Pages, contacts: cfg.Contacts,
			items: cfg.Items, rate: cfg.Rate,
		},
		client: &http.Client{
			Timeout:       cfg.Timeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport: &http.Transport{
				MaxIdleConnsPerHost: cfg.Concurrency, MaxConnsPerHost: cfg.Concurrency, IdleConnTimeout: time.Minute,
			},
		},
	}
}

// attack sends new POSTs, duplicates and POSTs that must be sent again until the
// duration is over, the context ends, or an answer says that none can be accepted. It
// returns when every POST is answered.
func (s *sender) attack(ctx context.Context) error {
	attacker := vegeta.NewAttacker(vegeta.Client(s.client), vegeta.Workers(uint64(s.cfg.Concurrency)),
		vegeta.MaxWorkers(uint64(s.cfg.Concurrency)), vegeta.MaxBody(maxAnswer))
	defer context.AfterFunc(ctx, func() { attacker.Stop() })()
	var failed error
	for r := range attacker.Attack(s.target, s, 0, "") {
		// The fragment, which is not sent, has the POST's number.
		_, fragment, ok := strings.Cut(r.URL, "#")
		post, err := strconv.ParseUint(fragment, 10, 64)
		if !ok || err != nil {
			failed = fmt.Errorf("%w: %s", ErrConfig, r.Error)
			continue
		}
		s.recordAnswer(post, int(r.Code), r.Latency, r.End())
		if err := s.hopeless(int(r.Code)); err != nil && failed == nil {
			failed = err
			attacker.Stop()
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return failed
}

// hopeless returns an error for a status that no POST of the run can change.
func (s *sender) hopeless(status int) error {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return ErrSecret
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return fmt.Errorf("%w: there is no webhook at %s; see --url", ErrConfig, s.cfg.URL)
	}
	return nil
}

// Rate returns 0, since vegeta needs no rate here: [sender.Pace] decides when to send.
func (*sender) Rate(time.Duration) float64 { return 0 }

// Pace returns how long to wait before the next POST, and whether to stop. It keeps
// the rate, and sends slowly while too many POSTs wait to be sent again: the server
// is then down, and more POSTs would only accumulate.
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
	// The wait must not be longer than the rest of the run.
	return min(wait, max(0, s.cfg.Duration-elapsed)), false
}

// target sets t to the next POST: one that must be sent again, a duplicate, or a new
// one.
func (s *sender) target(t *vegeta.Target) error {
	post := s.choose(time.Now())
	body := s.traffic.body(post, time.Now())
	t.Method, t.Body, t.Header = http.MethodPost, body, s.traffic.header(body)
	t.URL = s.cfg.URL + "#" + strconv.FormatUint(post, 10)
	return nil
}

// choose returns the number of the next POST.
func (s *sender) choose(now time.Time) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if post, ok := s.takeWaiting(now, len(s.waiting) >= 4*s.cfg.Concurrency); ok {
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

// takeWaiting removes and returns the first waiting POST that is due, or the first
// one at all if any is true. It drops those that a duplicate has delivered meanwhile.
func (s *sender) takeWaiting(now time.Time, any bool) (uint64, bool) {
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

// recordAnswer records the answer to a POST; status 0 is no answer.
func (s *sender) recordAnswer(post uint64, status int, took time.Duration, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.posts++
	answer := "none"
	if status != 0 {
		answer = strconv.Itoa(status)
	}
	s.statuses[answer]++
	if status != 0 {
		s.heard = at
	}
	s.hangs = status == 0 && took >= s.cfg.Timeout
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

// reportProgress calls Config.Progress at intervals until the context ends.
func (s *sender) reportProgress(ctx context.Context) {
	for backoff.Sleep(ctx, progressEvery) == nil {
		s.mu.Lock()
		p := Progress{
			Phase: s.phase, Elapsed: time.Since(s.began),
			Posts: s.posts, Acked: s.answered, Waiting: len(s.waiting), Audited: s.audited,
		}
		s.mu.Unlock()
		s.cfg.Progress(p) // without the lock, which sending needs
	}
}

// setPhase sets the phase of the run and how much the audit has read.
func (s *sender) setPhase(phase string, audited uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.phase, s.audited = phase, audited
}

// resend sends the POSTs that are still waiting until all are answered 200 or the
// grace period is over. The rest is then unacknowledged, which is not an error. It fails
// with [ErrSilent] if no POST has been answered for a while.
func (s *sender) resend(ctx context.Context) error {
	grace, cancel := context.WithTimeout(ctx, s.cfg.Grace)
	defer cancel()
	s.setPhase("resending", 0)
	for grace.Err() == nil {
		s.mu.Lock()
		round := slices.DeleteFunc(s.waiting, func(w waiting) bool { return s.acked.has(w.post) })
		s.waiting = nil
		s.resent += uint64(len(round))
		patience := 2 * s.cfg.Timeout // a server that is down may be starting
		if s.hangs {
			patience = s.cfg.Timeout
		}
		silent := time.Since(s.heard) > patience
		s.mu.Unlock()
		if len(round) == 0 {
			break
		}
		if silent {
			return fmt.Errorf("%w at %s; is it running? Try: pagestream status", ErrSilent, s.cfg.URL)
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
			_ = backoff.Sleep(grace, resendAfter) // the loop checks the context
		}
	}
	return ctx.Err()
}

// post sends one POST without vegeta.
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
	s.recordAnswer(post, status, time.Since(start), time.Now())
}
