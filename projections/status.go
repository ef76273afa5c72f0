package projections

import (
	"errors"
	"fmt"
	"math"
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
	// StateRebuilding means that the read model was started again and has not yet
	// reached the end that the stream had at that time: it is correct as of an
	// earlier event.
	StateRebuilding State = "rebuilding"
	// StateLive means that events are applied as they arrive.
	StateLive State = "live"
	// StateFailing means that applying an event or using the store failed and is
	// retried; nothing is skipped.
	StateFailing State = "failing"
	// StateStopped is the state after Run.
	StateStopped State = "stopped"
)

// Status is the position and the health of a read model.
type Status struct {
	Name    string `json:"name"`
	Version int    `json:"version"`
	State   State  `json:"state"`
	// Seq is the last event in the read model, Head the last sequence in the stream
	// as of HeadAt, Lag the difference.
	Seq    uint64    `json:"seq"`
	Head   uint64    `json:"head"`
	HeadAt time.Time `json:"head_at,omitzero"`
	Lag    uint64    `json:"lag"`
	// LagAge is how long the oldest missing event has been known, to about a second.
	LagAge time.Duration `json:"lag_age_ns"`
	// LastError is the reason of StateFailing, without any text of messages, and
	// FailingSeq the event that failed, 0 if the failure is not about an event.
	LastError  string `json:"last_error,omitempty"`
	FailingSeq uint64 `json:"failing_seq,omitempty"`
	// Dropped counts events that were not applied because an earlier one has their
	// id, Malformed messages that are not valid events. Both are part of the read
	// model: a rebuild counts them again.
	Dropped   uint64 `json:"dropped"`
	Malformed uint64 `json:"malformed"`
	// Parked counts the events that failed and those that wait for them, Discarded
	// those that were discarded. See [DeadLetter].
	Parked    uint64 `json:"parked"`
	Discarded uint64 `json:"discarded"`
	// Commits counts transactions since the start of the process.
	Commits    uint64    `json:"commits"`
	LastCommit time.Time `json:"last_commit,omitzero"`
	// Rebuilt is why the read model was last started again in this process, empty if
	// it was not.
	Rebuilt string `json:"rebuilt,omitempty"`
	// Rebuild is the progress of a rebuild in a second file, nil if there is none.
	Rebuild *Rebuilding `json:"rebuild,omitempty"`
	// Damaged is why the read model can't be read: its file was found to be damaged, or
	// may be. It is empty again once the read model has been built again; Rebuild shows how
	// far that is.
	Damaged string `json:"damaged,omitempty"`
	// Stale is the position of the read model of another version, or of another stream
	// than there is now, while that is served until the new one is built. Seq is 0 then.
	Stale uint64 `json:"stale,omitempty"`
}

// Errors of [Runner.Healthy].
var (
	// ErrNotRunning is returned when the state is StateStarting or StateStopped.
	ErrNotRunning = errors.New("not running")
	// ErrFailing is returned when the state is StateFailing.
	ErrFailing = errors.New("failing")
	// ErrRebuilding is returned when the state is StateRebuilding.
	ErrRebuilding = errors.New("rebuilding")
	// ErrBehind is returned when an event has been missing for longer than allowed.
	ErrBehind = errors.New("behind")
	// ErrNoHead is returned when the stream's last sequence could not be requested
	// for longer than the allowed lag and three intervals.
	ErrNoHead = errors.New("the stream's last sequence is not known")
)

// maxSamples is the maximum number of heads that are kept to compute Status.LagAge.
const maxSamples = 128

// sample is a last sequence of the stream and when it was first seen.
type sample struct {
	head uint64
	at   time.Time
}

// progress has a runner's status, and a channel that wakes those who wait for a
// position. It is safe for concurrent use.
type progress struct {
	now      func() time.Time
	interval time.Duration // between two requests for the head

	mu      sync.Mutex
	s       Status
	changed chan struct{} // closed at each change of Seq
	target  uint64        // the last event of a rebuild
	samples []sample      // heads beyond Seq, oldest first
	headErr error
	since   time.Time // when the runner was created

	checking string   // why the file is being checked; empty if it is not
	damage   *damaged // nil if the read model does not replace a damaged one
	began    time.Time
	from     uint64 // the position when the rebuild of a damaged one began
}

// checkBegan makes the read model unreadable until it was checked.
func (p *progress) checkBegan(why string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.checking = why
}

// checkEnded is called after a check: the read model can be read again, unless it replaces a damaged one.
func (p *progress) checkEnded() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.checking = ""
}

// damaged makes the read model unreadable until it has reached the end of the stream.
func (p *progress) damaged(d damaged) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.damage, p.checking, p.began, p.from = &d, "", p.now(), math.MaxUint64
}

// unreadable returns a [*DamagedError] if the read model can't be read. partial means that
// it may be one that is being built.
func (p *progress) unreadable(partial bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.checking != "":
		return &DamagedError{Name: p.s.Name, Why: p.checking, Checking: true}
	case p.damage != nil && !partial:
		return &DamagedError{Name: p.s.Name, Why: p.damage.Why, Left: p.repair().ETA}
	}
	return nil
}

// repair returns the progress of the rebuild of a damaged read model.
func (p *progress) repair() *Rebuilding {
	at := &Rebuilding{
		Phase: PhaseReplay, Seq: p.s.Seq, Target: max(p.damage.Target, p.s.Head), Started: p.began, Why: p.damage.Why,
	}
	at.estimate(p.now(), min(p.from, p.s.Seq))
	return at
}

func newProgress(s Status, now func() time.Time, interval time.Duration) *progress {
	return &progress{now: now, interval: interval, s: s, changed: make(chan struct{}), since: now()}
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
	switch {
	case p.checking != "":
		s.Damaged = p.checking
	case p.damage != nil:
		s.Damaged = p.damage.Why
		if s.Rebuild == nil {
			s.Rebuild = p.repair()
		}
	}
	return s
}

// committed sets the position after a commit and wakes those who wait for it.
func (p *progress) committed(m store.Meta) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.setMeta(m)
	p.s.Commits++
	p.s.LastCommit = p.now()
	p.s.Head = max(p.s.Head, m.Seq)
	for len(p.samples) > 0 && p.samples[0].head <= m.Seq {
		p.samples = p.samples[1:]
	}
	p.clearFailure()
	close(p.changed)
	p.changed = make(chan struct{})
}

// rebuilding sets the progress of a rebuild, nil when it is over.
func (p *progress) rebuilding(at *Rebuilding) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.s.Rebuild = at
}

// setStale sets the position of another version that is served, 0 for none.
func (p *progress) setStale(seq uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.s.Stale = seq
}

// swapped sets the position after another file has replaced the live one.
func (p *progress) swapped(m store.Meta) {
	p.setStale(0)
	p.committed(m)
}

// setMeta sets the position and the counts of the read model.
func (p *progress) setMeta(m store.Meta) {
	p.s.Seq, p.s.Dropped, p.s.Malformed = m.Seq, m.Dropped, m.Malformed
	p.s.Parked, p.s.Discarded = m.Parked, m.Discarded
	p.from = min(p.from, m.Seq)
	// What the new file lacks then is as little as a running read model lacks.
	if p.damage != nil && m.Seq >= max(p.damage.Target, p.s.Head) {
		p.damage = nil
	}
}

// clearFailure removes a failure from the status, and ends StateRebuilding if the
// rebuild has reached its target.
func (p *progress) clearFailure() {
	p.s.LastError, p.s.FailingSeq = "", 0
	p.s.State = StateLive
	if p.s.Seq < p.target || p.s.Stale > 0 {
		p.s.State = StateRebuilding
	}
}

// started sets the position at which the runner starts. The reason why is not empty
// if it starts again, with all events up to head to be applied.
func (p *progress) started(m store.Meta, head uint64, why string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.setMeta(m)
	p.s.Head = head
	p.samples = nil
	if head > m.Seq {
		p.samples = append(p.samples, sample{head, p.now()})
	}
	if why != "" {
		p.s.Rebuilt, p.target = why, head
	}
	if p.s.State != StateStarting {
		p.clearFailure()
	}
}

// suspended sets that the read model at a position is served, and not updated.
func (p *progress) suspended(seq, head uint64) {
	p.started(store.Meta{}, head, "")
	p.mu.Lock()
	defer p.mu.Unlock()
	p.s.Stale, p.target = seq, head
	if p.s.State != StateStarting {
		p.clearFailure()
	}
}

// replaced sets why the suspended read model is built again from all events up to head.
func (p *progress) replaced(why string, head uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.s.Rebuilt, p.s.Head, p.target = why, head, head
}

// reinstated sets the position of the read model that was suspended, and is updated again.
func (p *progress) reinstated(m store.Meta, head uint64) {
	p.mu.Lock()
	p.s.Stale, p.target = 0, 0
	p.mu.Unlock()
	p.started(m, head, "")
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.changed)
	p.changed = make(chan struct{})
}

// running is called when a drive begins to apply events. If an event failed, the
// failure remains until the event is applied.
func (p *progress) running() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.s.FailingSeq == 0 {
		p.clearFailure()
	}
}

// failing sets StateFailing and reports whether the failure differs from the last.
func (p *progress) failing(seq uint64, err error) (changed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := err.Error()
	if len(text) > maxErrorText {
		text = text[:maxErrorText] + "…"
	}
	changed = p.s.State != StateFailing || p.s.LastError != text
	p.s.State, p.s.LastError, p.s.FailingSeq = StateFailing, text, seq
	return changed
}

func (p *progress) stopped() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.s.State = StateStopped
	close(p.changed)
	p.changed = make(chan struct{})
}

// headSeen sets the last sequence of the stream, or the error of requesting it.
func (p *progress) headSeen(head uint64, err error) {
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
		p.samples[n-1].head = head // the older samples keep their times
	}
}

// position returns Seq, the state, and a channel that is closed when they change.
func (p *progress) position() (uint64, State, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.s.Seq, p.s.State, p.changed
}

// healthy is [Runner.Healthy].
func (p *progress) healthy(maxLag time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.statusLocked()
	seen := s.HeadAt
	if seen.IsZero() {
		seen = p.since
	}
	unseen := p.now().Sub(seen)
	switch {
	case s.State == StateStopped, s.State == StateStarting:
		return fmt.Errorf("%w: %s", ErrNotRunning, s.State)
	case p.checking != "":
		return &DamagedError{Name: s.Name, Why: p.checking, Checking: true}
	case s.State == StateFailing:
		return fmt.Errorf("%w at event %d: %s", ErrFailing, s.FailingSeq, s.LastError)
	case s.State == StateRebuilding:
		if s.Rebuild != nil && s.Rebuild.ETA > 0 {
			return fmt.Errorf("%w: at event %d of %d, about %s left",
				ErrRebuilding, s.Seq, p.target, s.Rebuild.ETA.Round(time.Second))
		}
		return fmt.Errorf("%w: at event %d of %d", ErrRebuilding, s.Seq, p.target)
	case unseen > max(maxLag, 3*p.interval):
		err := p.headErr
		if err == nil {
			err = errors.New("it was not requested")
		}
		return fmt.Errorf("%w for %s: %w", ErrNoHead, unseen.Round(time.Second), err)
	case s.LagAge > maxLag:
		state := "advancing"
		if s.LastCommit.IsZero() || p.now().Sub(s.LastCommit) > maxLag {
			state = "standing still"
		}
		return fmt.Errorf("%w by %d events for %s, %s at event %d",
			ErrBehind, s.Lag, s.LagAge.Round(time.Second), state, s.Seq)
	}
	return nil
}
