package projections

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pagestream/pagestream/projections/store"
)

// State is what a [Runner] is doing.
type State string

// The states of a runner.
const (
	// StateStarting is the state before Run.
	StateStarting State = "starting"
	// StateRebuilding means that the read model was started over and does not
	// hold yet what the stream had by then: what it shows is right as of an
	// earlier event.
	StateRebuilding State = "rebuilding"
	// StateLive means that events are applied as they come.
	StateLive State = "live"
	// StateFailing means that an event or the store is tried again and again;
	// nothing is skipped.
	StateFailing State = "failing"
	// StateStopped is the state after Run.
	StateStopped State = "stopped"
)

// Status says where a read model stands.
type Status struct {
	Name    string `json:"name"`
	Version int    `json:"version"`
	State   State  `json:"state"`
	// Seq is the last event in the read model, Head the last in the stream as
	// of HeadAt, Lag the difference.
	Seq    uint64    `json:"seq"`
	Head   uint64    `json:"head"`
	HeadAt time.Time `json:"head_at,omitzero"`
	Lag    uint64    `json:"lag"`
	// LagAge is how long ago the oldest event that is missing was first known,
	// to about a second.
	LagAge time.Duration `json:"lag_age_ns"`
	// LastError is why it is failing, and FailingSeq the event it stands at,
	// 0 if it is not about one event. It has no text of messages in it.
	LastError  string `json:"last_error,omitempty"`
	FailingSeq uint64 `json:"failing_seq,omitempty"`
	// Dropped counts events left out because an earlier one has their id,
	// Malformed messages that are no events. Both are part of the read model:
	// a rebuild counts them again.
	Dropped   uint64 `json:"dropped"`
	Malformed uint64 `json:"malformed"`
	// Parked counts the dead letters and what waits behind them, Discarded those
	// that were given up. See [DeadLetter].
	Parked    uint64 `json:"parked"`
	Discarded uint64 `json:"discarded"`
	// Commits counts transactions since the start of the process.
	Commits    uint64    `json:"commits"`
	LastCommit time.Time `json:"last_commit,omitzero"`
	// Rebuilt says why the read model was last started over in this process.
	Rebuilt string `json:"rebuilt,omitempty"`
	// Rebuild is how far a rebuild beside the live read model is, nil if there is
	// none.
	Rebuild *Rebuilding `json:"rebuild,omitempty"`
	// Stale is the event that reads are as of while the read model of an older
	// version is served until the new one is built; Seq is then 0.
	Stale uint64 `json:"stale,omitempty"`
}

// Errors of [Runner.Healthy].
var (
	ErrNotRunning = errors.New("not running")
	ErrFailing    = errors.New("failing")
	ErrRebuilding = errors.New("rebuilding")
	ErrBehind     = errors.New("behind")
	ErrNoHead     = errors.New("the stream's head is not known")
)

// maxSamples bounds the heads that are remembered to tell the age of a lag.
const maxSamples = 128

// sample is a head of the stream and when it was first seen.
type sample struct {
	head uint64
	at   time.Time
}

// progress is a runner's status and what wakes those who wait for it.
type progress struct {
	now      func() time.Time
	interval time.Duration // between two looks at the head

	mu      sync.Mutex
	s       Status
	moved   chan struct{} // closed at each change of Seq
	target  uint64        // where a rebuild ends
	samples []sample      // heads beyond Seq, oldest first
	headErr error
	since   time.Time // when the runner was made
}

func newProgress(s Status, now func() time.Time, interval time.Duration) *progress {
	return &progress{now: now, interval: interval, s: s, moved: make(chan struct{}), since: now()}
}

// status returns a copy as of now.
func (p *progress) status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.statusLocked()
}

func (p *progress) statusLocked() Status {
	s := p.s
	if s.Head > s.Seq {
		s.Lag = s.Head - s.Seq
	}
	if len(p.samples) > 0 {
		s.LagAge = max(0, p.now().Sub(p.samples[0].at))
	}
	return s
}

// committed moves the position on.
func (p *progress) committed(m store.Meta) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.took(m)
	p.s.Commits++
	p.s.LastCommit = p.now()
	p.s.Head = max(p.s.Head, m.Seq)
	for len(p.samples) > 0 && p.samples[0].head <= m.Seq {
		p.samples = p.samples[1:]
	}
	p.settle()
	close(p.moved)
	p.moved = make(chan struct{})
}

// rebuilding says how far a rebuild is, nil when it is over.
func (p *progress) rebuilding(at *Rebuilding) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.s.Rebuild = at
}

// stale says that an older version is served as of seq.
func (p *progress) stale(seq uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.s.Stale = seq
}

// swapped says that another file took the live one's place.
func (p *progress) swapped(m store.Meta) {
	p.stale(0)
	p.committed(m)
}

// took notes where the read model stands.
func (p *progress) took(m store.Meta) {
	p.s.Seq, p.s.Dropped, p.s.Malformed, p.s.Parked, p.s.Discarded = m.Seq, m.Dropped, m.Malformed, m.Parked, m.Discarded
}

// settle leaves a failure behind and ends a rebuild that is done.
func (p *progress) settle() {
	p.s.LastError, p.s.FailingSeq = "", 0
	p.s.State = StateLive
	if p.s.Seq < p.target {
		p.s.State = StateRebuilding
	}
}

// began says that the runner starts there; why is not empty if it starts over,
// with all before head to be built.
func (p *progress) began(m store.Meta, head uint64, why string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.took(m)
	p.s.Head = head
	p.samples = nil
	if head > m.Seq {
		p.samples = append(p.samples, sample{head, p.now()})
	}
	if why != "" {
		p.s.Rebuilt, p.target = why, head
	}
	if p.s.State != StateStarting {
		p.settle()
	}
}

// running says that events are applied from here on. An event that failed is
// only settled when it has passed.
func (p *progress) running() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.s.FailingSeq == 0 {
		p.settle()
	}
}

// failing reports whether this failure is another than the last.
func (p *progress) failing(seq uint64, err error) (news bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := err.Error()
	if len(text) > maxErrorText {
		text = text[:maxErrorText] + "…"
	}
	news = p.s.State != StateFailing || p.s.LastError != text
	p.s.State, p.s.LastError, p.s.FailingSeq = StateFailing, text, seq
	return news
}

func (p *progress) stopped() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.s.State = StateStopped
	close(p.moved)
	p.moved = make(chan struct{})
}

// sawHead takes one look at the stream.
func (p *progress) sawHead(head uint64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.headErr = err; err != nil {
		return
	}
	now := p.now()
	p.s.HeadAt = now
	p.s.Head = max(head, p.s.Seq)
	if head <= p.s.Seq {
		return
	}
	switch n := len(p.samples); {
	case n > 0 && p.samples[n-1].head >= head:
	case n < maxSamples:
		p.samples = append(p.samples, sample{head, now})
	default:
		p.samples[n-1].head = head // the oldest keep their age
	}
}

// position returns Seq, the state, and what is closed when they change.
func (p *progress) position() (uint64, State, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.s.Seq, p.s.State, p.moved
}

// healthy is [Runner.Healthy].
func (p *progress) healthy(maxLag time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.statusLocked()
	looked := s.HeadAt
	if looked.IsZero() {
		looked = p.since
	}
	unseen := p.now().Sub(looked)
	switch {
	case s.State == StateStopped, s.State == StateStarting:
		return fmt.Errorf("%w: %s", ErrNotRunning, s.State)
	case s.State == StateFailing:
		return fmt.Errorf("%w at event %d: %s", ErrFailing, s.FailingSeq, s.LastError)
	case s.State == StateRebuilding:
		return fmt.Errorf("%w: at event %d of %d", ErrRebuilding, s.Seq, p.target)
	case unseen > max(maxLag, 3*p.interval):
		err := p.headErr
		if err == nil {
			err = errors.New("nobody looks")
		}
		return fmt.Errorf("%w for %s: %w", ErrNoHead, unseen.Round(time.Second), err)
	case s.LagAge > maxLag:
		still := "going on"
		if s.LastCommit.IsZero() || p.now().Sub(s.LastCommit) > maxLag {
			still = "standing still"
		}
		return fmt.Errorf("%w by %d events for %s, %s at event %d",
			ErrBehind, s.Lag, s.LagAge.Round(time.Second), still, s.Seq)
	}
	return nil
}
