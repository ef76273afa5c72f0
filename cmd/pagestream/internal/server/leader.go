package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/streams"
)

// Bounds of asking the servers who leads the stream.
const (
	// leaderEvery is the interval of questions while the answers are good and publishes are answered, leaderSoon
	// the one otherwise.
	leaderEvery = time.Second
	leaderSoon  = 200 * time.Millisecond
	// leaderLimit is how long a question may be without an answer until deliveries are refused.
	leaderLimit = 1500 * time.Millisecond
	// outOfTouch is how long a leader has not heard of a copy that is not counted as one any more. Each copy answers
	// it every second.
	outOfTouch = 3 * time.Second
	// moveAfter is how long a server does not answer at all, or is out of the leader's touch, until connections are moved
	// to another one. electing is the same for one that answers pings, but not the questions: another leader may be being
	// elected, which takes 4 to 9 s.
	moveAfter = 3 * time.Second
	electing  = 6 * time.Second
	// trialEvery is the interval of the deliveries that are tried while publishes fail.
	trialEvery = 250 * time.Millisecond
)

// errNoLeader is returned while no server of an external NATS answers that it leads the stream and is in touch with
// most of the copies.
var errNoLeader = errors.New("no NATS server can store events")

var errSilent = errors.New("none answers that it leads the stream")

// leader knows whether a server of an external NATS leads the stream. It asks every second, so that readiness is
// right without deliveries too. A publish that is not answered tells the same, but only later. It is not used with the
// embedded server.
//
// A leader that has lost the others answers for some 10 s as if it still led, so what it says of the copies counts.
// A server that has lost the others keeps its clients. So connections to it are moved to another server.
type leader struct {
	p       *Program
	subject string
	inbox   string

	err   atomic.Pointer[error] // pointer to nil: it can store events; nil: not known yet
	trial atomic.Int64          // when a delivery was last tried while publishes failed, in Unix nanoseconds

	mu    sync.Mutex
	asked time.Time // the first question since the last answer, zero if all were answered
	good  time.Time // the last answer that the stream can be written to
	alive time.Time // the last answer to a ping
	moved time.Time
	led   string // who led the stream since when
	why   error  // of the last answer, if it was not good

	pinging atomic.Bool
}

// leading is the part of a stream's info that is used.
type leading struct {
	Error   *jetstream.APIError `json:"error"`
	Cluster *struct {
		Leader   string    `json:"leader"`
		Since    time.Time `json:"leader_since"`
		Replicas []struct {
			Name    string        `json:"name"`
			Current bool          `json:"current"`
			Offline bool          `json:"offline"`
			Active  time.Duration `json:"active"` // since it was last heard of, 0 also if it never was
		} `json:"replicas"`
	} `json:"cluster"`
}

// watch asks once before it returns, and then until the context ends.
func (l *leader) watch(ctx context.Context, background *sync.WaitGroup) error {
	if l.p.server != nil {
		return nil
	}
	prefix := jetstream.DefaultAPIPrefix
	if domain := l.p.cfg.NATS.Domain; domain != "" {
		prefix = "$JS." + domain + ".API."
	}
	l.subject, l.inbox, l.good = prefix+"STREAM.INFO."+streams.Name, l.p.conn.NewInbox(), time.Now()
	l.alive, l.why = l.good, errSilent
	answers, err := l.p.conn.Subscribe(l.inbox, func(m *nats.Msg) { l.hear(m.Data) })
	if err != nil {
		return fmt.Errorf("subscribe to answers: %w", err)
	}
	if m, err := l.p.conn.Request(l.subject, nil, leaderLimit); err == nil {
		l.hear(m.Data)
	}
	background.Go(func() {
		defer answers.Unsubscribe() //nolint:errcheck // the connection is closed soon
		var last time.Time
		for {
			if time.Since(last) >= l.interval() {
				last = time.Now()
				l.ask()
			}
			l.judge()
			if backoff.Sleep(ctx, leaderSoon/2) != nil {
				return
			}
		}
	})
	return nil
}

// interval returns the time between two questions.
func (l *leader) interval() time.Duration {
	if l.refusal() != nil || l.p.health.publishError() != nil || l.p.publisher.Delay("", "") > leaderSoon {
		return leaderSoon
	}
	return leaderEvery
}

func (l *leader) ask() {
	if !l.p.conn.IsConnected() { // the question would wait for the connection
		return
	}
	l.mu.Lock()
	if l.asked.IsZero() {
		l.asked = time.Now()
	}
	l.mu.Unlock()
	_ = l.p.conn.PublishRequest(l.subject, l.inbox, nil) // a question that is not sent is not answered
	if l.pinging.CompareAndSwap(false, true) {
		go func() {
			defer l.pinging.Store(false)
			if l.p.conn.FlushTimeout(leaderLimit) == nil {
				l.mu.Lock()
				l.alive = time.Now()
				l.mu.Unlock()
			}
		}()
	}
}

// hear takes account of an answer.
func (l *leader) hear(data []byte) {
	var info leading
	err := nats.ErrNoResponders // has no data
	if len(data) > 0 {
		err = json.Unmarshal(data, &info)
	}
	if err == nil && info.Error != nil {
		err = info.Error
	}
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		l.set(errStreamGone)
		return
	}
	if err != nil { // of a server that does not lead: it has no leader, or is behind; another one may lead
		l.mu.Lock()
		l.why = err
		l.mu.Unlock()
		return
	}
	led := ""
	if c := info.Cluster; c != nil && c.Leader != "" {
		led = c.Leader + "@" + c.Since.String()
		var silent []string
		for _, r := range c.Replicas {
			never := r.Active == 0 && !r.Current && time.Since(c.Since) > outOfTouch
			if r.Offline || never || r.Active > outOfTouch {
				silent = append(silent, r.Name)
			}
		}
		if copies := len(c.Replicas) + 1; copies-len(silent) <= copies/2 {
			l.set(fmt.Errorf("%w: the leader, %s, has lost touch with %d of the stream's %d copies",
				errNoLeader, c.Leader, len(silent), copies))
			if c.Leader == l.p.conn.ConnectedServerName() { // the others may have elected another one
				l.move(electing, c.Leader)
			}
			return
		}
		l.move(moveAfter, silent...)
	}
	l.mu.Lock()
	l.asked, l.good, l.why = time.Time{}, time.Now(), errSilent
	other := l.led != "" && l.led != led
	l.led = led
	l.mu.Unlock()
	if other { // it does not answer what the one before was sent
		l.p.publisher.Resend()
	}
	l.set(nil)
}

// judge takes account of answers that don't come.
func (l *leader) judge() {
	if !l.p.conn.IsConnected() {
		l.set(errDisconnected)
		return
	}
	l.mu.Lock()
	why, late := l.why, !l.asked.IsZero() && time.Since(l.asked) > leaderLimit
	move := time.Since(l.alive) > moveAfter || time.Since(l.good) > electing && time.Since(l.moved) > electing
	l.mu.Unlock()
	if late {
		l.set(fmt.Errorf("%w: %w", errNoLeader, why))
	}
	if move {
		l.move(moveAfter, l.p.conn.ConnectedServerName())
	}
}

// move moves the connections to servers to others, if none was moved within a time.
func (l *leader) move(within time.Duration, servers ...string) {
	var conns []*nats.Conn
	for _, server := range servers {
		conns = append(conns, l.p.dials.to(server)...)
	}
	l.mu.Lock()
	if len(conns) == 0 || time.Since(l.moved) < within {
		l.mu.Unlock()
		return
	}
	l.moved, l.asked = time.Now(), time.Time{}
	l.mu.Unlock()
	l.p.log.Warn("connections are moved to another NATS server", "from", servers, "connections", len(conns))
	for _, c := range conns {
		go c.ForceReconnect() //nolint:errcheck // of a closed one; it writes what is buffered first, which may block
	}
}

// set changes why nothing can be stored, and logs that.
func (l *leader) set(err error) {
	l.p.health.changed(l.err.Swap(&err), err)
}

// refusal returns why nothing can be stored, or nil.
func (l *leader) refusal() error {
	if l.p.server != nil {
		return nil
	}
	err := l.err.Load()
	if err == nil {
		return errStarting
	}
	return *err
}

// try returns the error of the last publish, or nil for the deliveries that are tried meanwhile. If none of them
// arrives at the stream, they are all tried after outcomeAge.
func (l *leader) try() error {
	err := l.p.health.publishError()
	if err == nil || l.p.server != nil {
		return nil
	}
	now, last := time.Now().UnixNano(), l.trial.Load()
	if now-last > int64(trialEvery) && l.trial.CompareAndSwap(last, now) {
		return nil
	}
	return err
}
