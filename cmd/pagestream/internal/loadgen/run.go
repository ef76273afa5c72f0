package loadgen

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Report is the summary of a run. A POST is one HTTP request, an item one message.
// Items that were never answered 200 may or may not be stored.
type Report struct {
	// Run is the run's id, the digits after "m_" in each mid.
	Run string `json:"run"`
	// Posts counts all requests: new ones, duplicates and those sent again.
	Posts uint64 `json:"posts"`
	// Items counts different messages, Acked those that were answered 200, and
	// Unacked those that never were, although they were sent again.
	Items   uint64 `json:"items"`
	Acked   uint64 `json:"acked"`
	Unacked uint64 `json:"unacked"`
	// Resent counts POSTs that were sent again because the answer was not 200,
	// DuplicatesSent POSTs that repeated another one on purpose.
	Resent         uint64 `json:"resent"`
	DuplicatesSent uint64 `json:"duplicates_sent"`
	// RatePosts and RateItems are the POSTs and items per second that were answered
	// 200, from the start to the last answer, including repeated items.
	RatePosts float64 `json:"rate_posts_s"`
	RateItems float64 `json:"rate_items_s"`
	// P50 to Max are the latencies of answers with status 200, in milliseconds.
	P50 float64 `json:"p50_ms"`
	P95 float64 `json:"p95_ms"`
	P99 float64 `json:"p99_ms"`
	Max float64 `json:"max_ms"`
	// Statuses counts answers by status; "none" is no answer.
	Statuses map[string]uint64 `json:"statuses"`
	// Stored counts different items in the stream, Lost items that were answered 200
	// and are not in it, and Duplicated items that are in it more than once.
	Stored                    uint64 `json:"stored"`
	Lost                      uint64 `json:"lost"`
	Duplicated                uint64 `json:"duplicated"`
	LostInConversations       uint64 `json:"lost_in_conversations"`
	DuplicatedInConversations uint64 `json:"duplicated_in_conversations"`
	// Misplaced counts items found under another page or contact.
	Misplaced uint64 `json:"misplaced"`
	// Forgotten counts the test pages of the run that were removed from the read models.
	Forgotten uint64 `json:"forgotten_pages"`
	// Duration is the time from the start to the last answer, AuditDuration that of
	// the audit, in seconds.
	Duration      float64 `json:"duration_s"`
	AuditDuration float64 `json:"audit_duration_s"`
}

// OK reports whether the server kept its guarantee: at least one item was
// acknowledged, and none is lost, duplicated or misplaced.
func (r Report) OK() bool {
	return r.Acked > 0 && r.Lost == 0 && r.Duplicated == 0 &&
		r.LostInConversations == 0 && r.DuplicatedInConversations == 0 && r.Misplaced == 0
}

// Run marks the pages of the run as tests, sends the traffic, sends POSTs again that were not
// answered 200, audits the result, and forgets the pages, also after an error. An error
// means that the run could not be completed: [ErrConfig] and [ErrRemote] before anything
// is sent, [ErrSecret] at the first answer that says so, [ErrSilent] if nothing was
// answered for a while when the duration was over, [ErrAPI] if the API can't be used, or
// the context's. The findings of the audit are in the report, not in the error. Several
// runs may use the same server, also at the same time.
func Run(ctx context.Context, cfg Config) (r Report, err error) {
	if err := cfg.complete(); err != nil {
		return Report{}, err
	}
	api := newAPI(cfg)
	defer api.http.CloseIdleConnections()
	before, err := api.lastSeq(ctx, startPatience)
	if err != nil {
		return Report{}, fmt.Errorf("before sending: %w", err)
	}

	run := newRunID()
	s := newSender(cfg, run)
	defer s.client.CloseIdleConnections()
	marked, err := api.mark(ctx, run, cfg.Pages)
	if marked {
		defer func() {
			left := api.forget(ctx, run, cfg.Pages, s.setPhase)
			if left == nil && err == nil {
				r.Forgotten = uint64(cfg.Pages)
			}
			err = errors.Join(err, left)
		}()
	}
	if err != nil {
		return Report{}, err
	}
	s.start()
	reporting, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { s.reportProgress(reporting) })
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
	after, err := api.lastSeq(auditCtx, patience)
	if err != nil {
		return Report{}, fmt.Errorf("after sending: %w", err)
	}
	if after < before {
		return Report{}, fmt.Errorf("the stream is shorter than it was before the run; "+
			"was the server started with another data directory? (%d, was %d)", after, before)
	}
	a := &audit{api: api, traffic: s.traffic, posts: s.next, progress: s.setPhase}
	if err := a.readStream(auditCtx, before, after); err != nil {
		return Report{}, fmt.Errorf("audit the stream: %w", err)
	}
	if err := a.readConversations(auditCtx, after); err != nil {
		return Report{}, fmt.Errorf("audit conversations: %w", err)
	}
	r = s.summary(a)
	r.AuditDuration = time.Since(started).Seconds()
	return r, nil
}

// summary compares the acknowledged messages with those that the audit found.
func (s *sender) summary(a *audit) Report {
	r := Report{
		Run: s.traffic.run, Posts: s.posts, Resent: s.resent, DuplicatesSent: s.duplicates, Statuses: s.statuses,
		Items: s.next * uint64(s.cfg.Items), Misplaced: a.misplaced,
		P50: ms(s.latency.Quantile(0.50)), P95: ms(s.latency.Quantile(0.95)),
		P99: ms(s.latency.Quantile(0.99)), Max: ms(s.latency.Max),
	}
	for post := range s.next {
		acked := s.acked.has(post)
		for item := range s.cfg.Items {
			n := s.traffic.index(post, item)
			r.Acked += count(acked)
			r.Unacked += count(!acked)
			r.Stored += count(a.stream.once.has(n))
			r.Lost += count(acked && !a.stream.once.has(n))
			r.Duplicated += count(a.stream.twice.has(n))
			r.LostInConversations += count(acked && !a.conversations.once.has(n))
			r.DuplicatedInConversations += count(a.conversations.twice.has(n))
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

// count returns 1 for true and 0 for false.
func count(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}
