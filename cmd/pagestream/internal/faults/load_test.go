//go:build linux

package faults

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	connections = 16
	maxItems    = 10 // of a POST
	pages       = 4
	// remembered is how many acknowledged POSTs of a connection may be sent again.
	remembered = 64
	// pause is the usual time between two POSTs of a connection.
	pause = 20 * time.Millisecond
	// deliveryTimeout is how long the client waits for an answer, as Meta does.
	deliveryTimeout = 5 * time.Second
	appSecret       = "k3Jx9QpLz7WvT2nR" //nolint:gosec // of a test's app
)

func pageID(i int) string { return fmt.Sprint(880000000000001 + i) }

func contactID(connection int) string { return fmt.Sprint(7000000000000001 + connection) }

// item is one message: a connection's message of that number.
type item struct {
	mid                      string
	page, connection, number int
}

// post is one delivery, which is sent until it is acknowledged.
type post struct {
	body  []byte
	items []item
	lead  string // if it has one
	// sent is when it was sent the last time, acked when it was answered with 200.
	sent, acked time.Time
}

// ack is what the client remembers of an acknowledged message.
type ack struct {
	item

	at time.Time
}

// load sends signed deliveries on a bounded number of connections. A connection sends a new POST only when the
// one before was acknowledged; every eighth POST repeats an acknowledged one.
type load struct {
	url     string
	padding string // in each text
	fast    bool   // without pauses
	index   int    // of the load, if there are several
	// elsewhere is another node that gets the repeated POSTs, if it is set.
	elsewhere string
	withLeads bool         // in some POSTs
	owed      atomic.Int64 // POSTs that sendAgain has taken back and no connection has taken yet
	pause     time.Duration
	file      *os.File
	conns     []*connection

	mu       sync.Mutex
	acked    map[string]ack
	leads    []string // acknowledged
	tried    int      // messages
	answers  map[int]int
	stored   []time.Time // of each answer with 200
	refusals []time.Time // of each other answer
	failedAt time.Time   // the last answer that was not 200
	mark     time.Time   // of the last fault
	next     time.Time   // the first 200 to a POST that was sent after mark

	stopping chan struct{}
	giveUp   context.CancelFunc
	running  sync.WaitGroup
}

// newLoad returns a load that writes a line for each acknowledged message to a file.
func newLoad(t *testing.T, public, acks string) *load {
	t.Helper()
	f, err := os.Create(acks)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	l := &load{
		url: "http://" + public + "/webhooks", file: f, pause: pause,
		acked: map[string]ack{}, answers: map[int]int{},
	}
	began := time.Now().UnixMilli()
	for i := range connections {
		l.conns = append(l.conns, &connection{
			load: l, index: i, began: began,
			random: rand.New(rand.NewPCG(uint64(began), uint64(i))),
			client: &http.Client{Timeout: deliveryTimeout, Transport: &http.Transport{MaxConnsPerHost: 1}},
		})
	}
	return l
}

// start begins or continues sending.
func (l *load) start(t *testing.T, ctx context.Context) { //nolint:revive // t is first in tests
	if l.stopping != nil {
		return
	}
	ctx, l.giveUp = context.WithCancel(ctx)
	l.stopping = make(chan struct{})
	stopping := l.stopping
	for _, c := range l.conns {
		l.running.Go(func() { assert.NoError(t, c.run(ctx, stopping)) })
	}
}

// stop ends sending when each connection's POST is acknowledged, or after a limit. Then those POSTs are the
// first that start sends.
func (l *load) stop(limit time.Duration) {
	if l.stopping == nil {
		return
	}
	close(l.stopping)
	timer := time.AfterFunc(limit, l.giveUp)
	l.running.Wait()
	timer.Stop()
	l.giveUp()
	l.stopping = nil
}

// markFault writes down a fault, and sets the time after which the next 200 is looked for to its end.
func (l *load) markFault(f fault) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mark, l.next = f.ended, time.Time{}
	_, err := fmt.Fprintf(l.file, "%s fault began\n%s fault ended\n",
		f.began.Format(time.RFC3339Nano), f.ended.Format(time.RFC3339Nano))
	return err
}

// sinceFault returns how long after the fault the next 200 was answered; false if none was yet.
func (l *load) sinceFault() (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next.Sub(l.mark), !l.next.IsZero()
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked)
}

// lastFailure returns when the last answer came that was not 200.
func (l *load) lastFailure() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failedAt
}

// gap returns when a POST was first not answered with 200 after a time, and the end of the longest time since then
// without a 200. Both are zero if there was none.
func (l *load) gap(after time.Time) (refused, stored time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i, _ := slices.BinarySearchFunc(l.refusals, after, time.Time.Compare); i < len(l.refusals) {
		refused = l.refusals[i]
	}
	longest, before := time.Duration(0), after
	i, _ := slices.BinarySearchFunc(l.stored, after, time.Time.Compare)
	for _, at := range l.stored[i:] {
		if took := at.Sub(before); took > longest {
			longest, stored = took, at
		}
		before = at
	}
	return refused, stored
}

// forget takes back the acknowledgements of messages that a fault has taken on purpose.
func (l *load) forget(mids []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, mid := range mids {
		delete(l.acked, mid)
	}
}

// sendAgain takes back the acknowledgements of POSTs from the first that matches on, on each connection, and sends
// them again in their order, as if they had not been answered. The load must be stopped, and must still have them:
// see remembered. It returns the number of messages.
func (l *load) sendAgain(match func(*post) bool) (messages int) {
	for _, c := range l.conns {
		first := slices.IndexFunc(c.recent, match)
		if first < 0 {
			continue
		}
		for _, p := range c.recent[first:] {
			for _, it := range p.items {
				delete(l.acked, it.mid)
			}
			if p.lead != "" {
				l.leads = slices.DeleteFunc(l.leads, func(id string) bool { return id == p.lead })
			}
			messages += len(p.items)
		}
		owed := len(c.again)
		c.again = append(slices.Clone(c.recent[first:]), c.again...)
		c.recent = c.recent[:first]
		if c.wants != nil {
			c.again, c.wants = append(c.again, c.wants), nil
		}
		l.owed.Add(int64(len(c.again) - owed))
	}
	return messages
}

// sentAgain returns an error until each POST of sendAgain was taken to be sent; stop waits for its acknowledgement.
func (l *load) sentAgain() error {
	if n := l.owed.Load(); n > 0 {
		return fmt.Errorf("%d POSTs are still to be sent again", n)
	}
	return nil
}

// connection is one connection of the client. Its messages have numbers, and its messages for one page must
// be stored in their order.
type connection struct {
	load   *load
	index  int
	began  int64
	number int // of the last message
	posts  int
	random *rand.Rand
	client *http.Client
	again  []*post // acknowledged POSTs to be sent again, first
	wants  *post   // the POST that is not yet acknowledged
	recent []*post
}

func (c *connection) run(ctx context.Context, stopping <-chan struct{}) error {
	wait := func(d time.Duration) {
		select {
		case <-ctx.Done():
		case <-time.After(d):
		}
	}
	for ctx.Err() == nil {
		if c.wants == nil {
			select {
			case <-stopping:
				return nil
			default:
			}
			c.wants = c.take()
		}
		c.wants.sent = time.Now()
		status := c.send(ctx, c.load.url, c.wants)
		if status != http.StatusOK {
			c.load.refused(status)
			wait(2 * pause)
			continue
		}
		if err := c.load.accepted(c.wants); err != nil {
			return err
		}
		c.recent = append(c.recent, c.wants)
		c.recent = c.recent[max(0, len(c.recent)-remembered):]
		c.wants = nil
		if c.posts++; c.posts%8 == 0 { // a redelivery
			// Whatever the answer is.
			c.send(ctx, cmp.Or(c.load.elsewhere, c.load.url), c.recent[c.random.IntN(len(c.recent))])
		}
		if !c.load.fast {
			wait(c.load.pause)
		}
	}
	return nil
}

// take returns the next POST: one to be sent again, or a new one.
func (c *connection) take() *post {
	if len(c.again) > 0 {
		p := c.again[0]
		c.again = c.again[1:]
		c.load.owed.Add(-1)
		return p
	}
	p := &post{}
	entries := map[int][]string{}
	var order []int
	for range 1 + c.random.IntN(maxItems) {
		c.number++
		it := item{
			mid: fmt.Sprintf("m_%d%d_%d_%d", c.began, c.load.index, c.index, c.number), page: c.random.IntN(pages),
			connection: c.index, number: c.number,
		}
		if entries[it.page] == nil {
			order = append(order, it.page)
		}
		entries[it.page] = append(entries[it.page], fmt.Sprintf(
			`{"sender":{"id":%q},"recipient":{"id":%q},"timestamp":%d,"message":{"mid":%q,"text":"no. %d %s"}}`,
			contactID(c.index), pageID(it.page), c.began+int64(c.number), it.mid, c.number, c.load.padding))
		p.items = append(p.items, it)
	}
	var body []string
	for _, page := range order {
		body = append(body, fmt.Sprintf(`{"id":%q,"time":%d,"messaging":[%s]}`,
			pageID(page), c.began+int64(c.number), strings.Join(entries[page], ",")))
	}
	if c.load.withLeads && c.random.IntN(40) == 0 {
		p.lead = fmt.Sprintf("%s%d%02d%06d", leadPrefix, c.load.index, c.index, c.number)
		body = append(body, fmt.Sprintf(`{"id":%q,"time":%d,"changes":[%s]}`,
			pageID(leadsPage), c.began+int64(c.number), leadChange(p.lead)))
	}
	p.body = []byte(`{"object":"page","entry":[` + strings.Join(body, ",") + `]}`)
	c.load.mu.Lock()
	c.load.tried += len(p.items)
	c.load.mu.Unlock()
	return p
}

// send sends a POST to a URL and returns its status, or 0 without an answer.
func (c *connection) send(ctx context.Context, url string, p *post) int {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(p.body))
	if err != nil {
		return 0
	}
	mac := hmac.New(sha256.New, []byte(appSecret))
	mac.Write(p.body)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	resp, err := c.client.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)); err != nil {
		return 0
	}
	return resp.StatusCode
}

func (l *load) refused(status int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answers[status]++
	l.failedAt = time.Now()
	l.refusals = append(l.refusals, l.failedAt)
}

// accepted remembers the messages of a POST that is acknowledged now.
func (l *load) accepted(p *post) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	p.acked = time.Now()
	l.answers[http.StatusOK]++
	l.stored = append(l.stored, p.acked)
	if l.next.IsZero() && p.sent.After(l.mark) {
		l.next = p.acked
	}
	if p.lead != "" {
		l.leads = append(l.leads, p.lead)
	}
	var lines strings.Builder
	for _, it := range p.items {
		l.acked[it.mid] = ack{item: it, at: p.acked}
		fmt.Fprintf(&lines, "%s %s\n", p.acked.Format(time.RFC3339Nano), it.mid)
	}
	if _, err := l.file.WriteString(lines.String()); err != nil {
		return fmt.Errorf("write down acknowledgements: %w", err)
	}
	return nil
}
