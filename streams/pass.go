package streams

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sort"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// passEvents and passBytes bound the messages that a pass keeps: for those of its readers that are behind the
	// others, and for those that join a moment later. The newest chunk is always kept.
	passEvents = 16 << 10
	passBytes  = 16 << 20
	// passStall is how long the others wait for a reader that does not go on. Then it is left behind.
	passStall = 10 * time.Second
)

// Errors of a member of a pass.
var (
	// errPassEnded is returned when the pass does not go on.
	errPassEnded = errors.New("the pass over the stream has ended")
	// errLeftBehind is returned when the pass no longer has the next message of a reader.
	errLeftBehind = errors.New("the pass over the stream is further")
)

// passes are those that are going on in a process. A pass reads a stream in order, and decodes each message, once for
// all its readers, which begin at about the same place and are about equally fast: such as all read models of a server
// that starts, or those that are rebuilt together. Its zero value has none.
type passes struct {
	mu      sync.Mutex
	list    map[*pass]bool
	closed  bool
	running sync.WaitGroup
	stall   time.Duration // 0 is passStall
}

// forget ends all passes: their readers go on by themselves, and then begin others.
func (ps *passes) forget() {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for p := range ps.list {
		p.stop()
	}
	ps.list = nil
}

// close ends all passes for good, and waits until they have ended.
func (ps *passes) close() {
	ps.mu.Lock()
	ps.closed = true
	ps.mu.Unlock()
	ps.forget()
	ps.running.Wait()
}

// pass reads a stream for its members, and ends with the last of them.
type pass struct {
	of         *passes
	created    time.Time // of the stream
	reconnects uint64    // how often the connection had been made again when it began
	src        *source
	stop       context.CancelFunc

	mu      sync.Mutex
	window  []*arrival // all messages after one sequence up to another, in order
	after   uint64
	last    uint64
	bytes   int
	full    bool   // there is more, for which the window has no room
	pending uint64 // how many messages followed the last one when it was read
	members map[*member]bool
	changed chan struct{} // closed and replaced when window or members change, or the pass ends
	ended   bool
}

// member is one reader of a pass. It is not safe for concurrent use.
type member struct {
	p     *pass
	at    uint64    // the last sequence that it has, of p.mu
	moved time.Time // when it got that; of p.mu
}

// join returns a member of a pass that has what follows a sequence, or begins another pass there.
func (ps *passes) join(ctx context.Context, js jetstream.JetStream, stream string, after uint64) (*member, error) {
	lookup, cancel := context.WithTimeout(ctx, openTimeoutMax)
	defer cancel()
	st, err := js.Stream(lookup, stream)
	if err != nil {
		return nil, fmt.Errorf("get stream: %w", err)
	}
	created := st.CachedInfo().Created
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.closed {
		return nil, errPassEnded
	}
	for p := range ps.list {
		if m := p.join(stream, created, after); m != nil {
			return m, nil
		}
	}
	run, stop := context.WithCancel(context.Background()) // until the last member leaves
	p := &pass{
		of: ps, created: created, reconnects: js.Conn().Stats().Reconnects, src: newSource(js, stream, []string{All}, after), stop: stop,
		after: after, last: after, members: map[*member]bool{}, changed: make(chan struct{}),
	}
	if ps.list == nil {
		ps.list = map[*pass]bool{}
	}
	ps.list[p] = true
	m := p.join(stream, created, after)
	ps.running.Go(func() { p.run(run) })
	return m, nil
}

// join returns nil if the pass does not have what follows the sequence, and will not have it soon.
func (p *pass) join(stream string, created time.Time, after uint64) *member {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended || p.src.stream != stream || !p.created.Equal(created) || p.reconnected() ||
		after < p.after || after > p.last+passEvents {
		return nil
	}
	m := &member{p: p, at: after, moved: time.Now()}
	p.members[m] = true
	return m
}

// reconnected reports whether the stream may be another one than when the pass began.
func (p *pass) reconnected() bool { return p.reconnects != p.src.js.Conn().Stats().Reconnects }

// run reads until the last member has left, or the stream may be another one: the source had to begin again, or the
// connection was made again.
func (p *pass) run(ctx context.Context) {
	defer p.src.close()
	defer p.end()
	for {
		list, err := p.src.chunk(ctx)
		if err != nil || p.src.opened > 1 || p.reconnected() {
			return
		}
		decodeOnAll(list)
		if !p.add(ctx, list) {
			return
		}
	}
}

func (p *pass) end() {
	p.of.mu.Lock()
	delete(p.of.list, p)
	p.of.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended, p.window = true, nil
	p.notify()
}

// notify wakes all who wait for a change. The caller holds p.mu.
func (p *pass) notify() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// add adds messages to the window as soon as there is room. It returns false when the context ends.
func (p *pass) add(ctx context.Context, list []*arrival) bool {
	size := 0
	for _, a := range list {
		size += a.size()
	}
	limit := cmp.Or(p.of.stall, passStall)
	stall := time.NewTimer(limit)
	defer stall.Stop()
	for {
		p.mu.Lock()
		p.trim(len(list), size, time.Now().Add(-limit))
		if len(p.window) == 0 || len(p.window)+len(list) <= passEvents && p.bytes+size <= passBytes {
			p.window = append(p.window, list...)
			p.bytes += size
			p.last, p.pending, p.full = list[len(list)-1].seq, list[len(list)-1].pending, false
			p.notify()
			p.mu.Unlock()
			return true
		}
		p.full = true
		changed := p.changed
		p.mu.Unlock()
		stall.Reset(limit)
		select {
		case <-changed:
		case <-stall.C:
		case <-ctx.Done():
			return false
		}
	}
}

// trim makes room for some messages. It drops half of those that every member has, and leaves those members behind that have
// not moved since a time. The caller holds p.mu.
func (p *pass) trim(events, size int, since time.Time) {
	low := p.last
	for m := range p.members {
		if m.at < low && !m.moved.After(since) {
			delete(p.members, m)
			continue
		}
		low = min(low, m.at)
	}
	if len(p.window)+events <= passEvents && p.bytes+size <= passBytes {
		return
	}
	n := 0
	for ; n < len(p.window) && p.window[n].seq <= low; n++ {
		if len(p.window)-n+events <= passEvents/2 && p.bytes+size <= passBytes/2 {
			break
		}
		p.bytes -= p.window[n].size()
		p.after = p.window[n].seq
	}
	if n > 0 { // a new list, so that the old one can be collected
		p.window = append(make([]*arrival, 0, passEvents), p.window[n:]...)
	}
}

// chunk waits for the next messages and returns those that are there, which are decoded.
func (m *member) chunk(ctx context.Context) ([]*arrival, error) {
	p := m.p
	for {
		p.mu.Lock()
		switch {
		case p.ended:
			p.mu.Unlock()
			return nil, errPassEnded
		case !p.members[m]:
			p.mu.Unlock()
			return nil, errLeftBehind
		}
		i := sort.Search(len(p.window), func(i int) bool { return p.window[i].seq > m.at })
		if list := p.window[i:]; len(list) > 0 {
			n := min(len(list), sourceFetch)
			list = list[:n:n]
			m.at, m.moved = list[len(list)-1].seq, time.Now()
			p.notify()
			p.mu.Unlock()
			return list, nil
		}
		m.moved = time.Now() // it waits for the pass, and not the pass for it
		changed := p.changed
		p.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// more reports whether it is known that the pass has further messages for this member.
func (m *member) more() bool {
	m.p.mu.Lock()
	defer m.p.mu.Unlock()
	return !m.p.ended && (m.p.full || m.p.pending > 0 || m.at > m.p.last)
}

// leave ends the pass if there is no other member.
func (m *member) leave() {
	m.p.mu.Lock()
	defer m.p.mu.Unlock()
	delete(m.p.members, m)
	if len(m.p.members) == 0 {
		m.p.ended = true
		m.p.stop()
	}
	m.p.notify()
}

// decodeOnAll is decodeAll on all processors.
func decodeOnAll(list []*arrival) {
	part := len(list)/runtime.GOMAXPROCS(0) + 1
	var running sync.WaitGroup
	for len(list) > part {
		first := list[:part]
		running.Go(func() { decodeAll(first) })
		list = list[part:]
	}
	decodeAll(list)
	running.Wait()
}

// past reads what a tail does not have.
type past interface {
	feed
	// drop gives up what is only needed to read further. skip sets the last sequence that the reader has.
	drop()
	skip(to uint64)
}

func (s *source) skip(to uint64) { s.last = to }

// sharedSource is a source that reads together with others.
type sharedSource struct {
	*source // for what can't be shared; it has the position
	passes  *passes
	member  *member // nil if there is none
}

func (s *sharedSource) chunk(ctx context.Context) ([]*arrival, error) {
	if s.member == nil {
		m, err := s.passes.join(ctx, s.js, s.stream, s.last)
		if err != nil {
			return s.source.chunk(ctx) // it knows whether that is for good
		}
		s.source.drop()
		s.member = m
	}
	list, err := s.member.chunk(ctx)
	if len(list) > 0 {
		s.last = list[len(list)-1].seq
	}
	if err == nil || ctx.Err() != nil {
		return list, err
	}
	s.leave()
	return s.source.chunk(ctx) // and then with others again
}

func (s *sharedSource) leave() {
	if s.member != nil {
		s.member.leave()
		s.member = nil
	}
}

func (s *sharedSource) drop() {
	s.leave()
	s.source.drop()
}

func (s *sharedSource) close() { s.drop() }

// ReplayShared is like [Replay], but reads and decodes together with others of the process that share the tail and read
// about the same: other calls, and subscribers that have not caught up. f must not modify the events. A nil tail and
// filters are allowed; then nothing is shared.
func ReplayShared(
	ctx context.Context, js jetstream.JetStream, t *Tail, o ReadOptions, f func([]*Replayed) error,
) (uint64, error) {
	alone := func(o ReadOptions) (uint64, error) {
		return Replay(ctx, js, o, func(list []Replayed) error {
			events := make([]*Replayed, len(list))
			for i := range list {
				events[i] = &list[i]
			}
			return f(events)
		})
	}
	if t == nil || len(o.Filters) > 0 {
		return alone(o)
	}
	o, _, err := o.bounded(ctx, js)
	if err != nil || o.From > o.To {
		return o.To, err
	}
	s := &sharedSource{source: newSource(js, o.Stream, []string{All}, o.From-1), passes: &t.passes}
	defer s.close()
	for s.last < o.To {
		wait, cancel := context.WithTimeout(ctx, recheck)
		list, err := s.chunk(wait)
		cancel()
		events := make([]*Replayed, 0, len(list))
		decodeAll(list)
		for _, a := range list {
			if a.seq <= o.To {
				events = append(events, a.event)
			}
		}
		if len(events) > 0 {
			if err := f(events); err != nil {
				return events[0].Seq - 1, err
			}
		}
		if err != nil && ctx.Err() == nil && s.member != nil && s.member.more() {
			continue // it is slow
		}
		if err != nil && s.last < o.To { // what was to be read may have been deleted: Replay looks
			o.From = Following(s.last)
			s.drop()
			return alone(o)
		}
	}
	return o.To, nil
}
