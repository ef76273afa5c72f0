package loadgen

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Report is the summary of a run. A POST is one HTTP request, an item one
// message. Items that were never answered 200 are not promised to be stored.
type Report struct {
	// Run is the run's id, the digits after "m_" in each mid.
	Run string `json:"run"`
	// Posts counts all requests: new, duplicates and those sent again.
	Posts uint64 `json:"posts"`
	// Items counts different messages; Acked of them were answered 200, and
	// Unacked never, in spite of sending again.
	Items   uint64 `json:"items"`
	Acked   uint64 `json:"acked"`
	Unacked uint64 `json:"unacked"`
	// Resent counts POSTs sent again because the answer was not 200,
	// DuplicatesSent those that repeated another for the test's sake.
	Resent         uint64 `json:"resent"`
	DuplicatesSent uint64 `json:"duplicates_sent"`
	// RatePosts and RateItems are per second, of what was answered 200, from the
	// start to the last answer. Repeated items count.
	RatePosts float64 `json:"rate_posts_s"`
	RateItems float64 `json:"rate_items_s"`
	// P50 to Max are the times to an answer of 200.
	P50 float64 `json:"p50_ms"`
	P95 float64 `json:"p95_ms"`
	P99 float64 `json:"p99_ms"`
	Max float64 `json:"max_ms"`
	// Statuses counts answers by status; "none" is no answer.
	Statuses map[string]uint64 `json:"statuses"`
	// Stored is how many different items are in the stream. Lost were answered
	// 200 and are not; Duplicated are in it more than once.
	Stored                    uint64 `json:"stored"`
	Lost                      uint64 `json:"lost"`
	Duplicated                uint64 `json:"duplicated"`
	LostInConversations       uint64 `json:"lost_in_conversations"`
	DuplicatedInConversations uint64 `json:"duplicated_in_conversations"`
	// Misplaced counts items found under another page or contact.
	Misplaced uint64 `json:"misplaced"`
	// Duration is how long was sent, AuditDuration how long was read, in
	// seconds.
	Duration      float64 `json:"duration_s"`
	AuditDuration float64 `json:"audit_duration_s"`
}

// OK reports whether the server kept its promise: something was acknowledged,
// and nothing of that is lost, doubled or misplaced.
func (r Report) OK() bool {
	return r.Acked > 0 && r.Lost == 0 && r.Duplicated == 0 &&
		r.LostInConversations == 0 && r.DuplicatedInConversations == 0 && r.Misplaced == 0
}

// Run sends the traffic, sends again what was not answered 200, and audits. An
// error says that it could not be carried out; what the audit found is in the
// report. Several runs may be made against one server, also at once.
func Run(ctx context.Context, cfg Config) (Report, error) {
	if err := cfg.complete(); err != nil {
		return Report{}, err
	}
	api := newAPI(cfg)
	defer api.http.CloseIdleConnections()
	before, err := api.lastSeq(ctx, startTries)
	if err != nil {
		return Report{}, fmt.Errorf("before sending: %w", err)
	}

	s := newSender(cfg, newRunID())
	defer s.client.CloseIdleConnections()
	telling, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { s.tell(telling) })
	defer running.Wait()
	defer stop()
	if err := s.attack(ctx); err != nil {
		return Report{}, fmt.Errorf("send: %w", err)
	}
	if err := s.resend(ctx); err != nil {
		return Report{}, fmt.Errorf("send again: %w", err)
	}

	started := time.Now()
	auditCtx, cancel := context.WithTimeout(ctx, cfg.AuditTimeout)
	defer cancel()
	after, err := api.lastSeq(auditCtx, 0)
	if err != nil {
		return Report{}, fmt.Errorf("after sending: %w", err)
	}
	if after < before {
		return Report{}, fmt.Errorf("the stream is shorter than it was before the run; was the server started with another data directory? (%d, was %d)",
			after, before)
	}
	a := &audit{api: api, traffic: s.traffic, posts: s.next, progress: s.at}
	if err := a.readStream(auditCtx, before, after); err != nil {
		return Report{}, fmt.Errorf("audit the stream: %w", err)
	}
	if err := a.readConversations(auditCtx, after); err != nil {
		return Report{}, fmt.Errorf("audit conversations: %w", err)
	}
	r := s.summary(a)
	r.AuditDuration = time.Since(started).Seconds()
	return r, nil
}

// summary compares what was acknowledged with what was found.
func (s *sender) summary(a *audit) Report {
	r := Report{
		Run: s.traffic.run, Posts: s.posts, Resent: s.resent, DuplicatesSent: s.duplicates, Statuses: s.statuses,
		Items: s.next * uint64(s.cfg.Items), Misplaced: a.misplaced,
		P50: ms(s.latency.Quantile(0.50)), P95: ms(s.latency.Quantile(0.95)), P99: ms(s.latency.Quantile(0.99)), Max: ms(s.latency.Max),
	}
	for post := range s.next {
		acked := s.acked.has(post)
		for item := range s.cfg.Items {
			n := s.traffic.index(post, item)
			r.Acked += one(acked)
			r.Unacked += one(!acked)
			r.Stored += one(a.stream.once.has(n))
			r.Lost += one(acked && !a.stream.once.has(n))
			r.Duplicated += one(a.stream.twice.has(n))
			r.LostInConversations += one(acked && !a.conversations.once.has(n))
			r.DuplicatedInConversations += one(a.conversations.twice.has(n))
		}
	}
	if s.answered > 0 {
		took := s.lastAnswer.Sub(s.began)
		r.Duration = took.Seconds()
		r.RatePosts = float64(s.answered) / max(took.Seconds(), 1e-9)
		r.RateItems = r.RatePosts * float64(s.cfg.Items)
	}
	return r
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func one(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}
