package streams

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/pagestream/pagestream/domain"
)

// Defaults of [PublisherOptions]. An atomic batch costs about 3 ms whatever is
// in it, a single publish one fsync: a batch pays from about 15.
const (
	DefaultBatchThreshold = 16
	DefaultMaxBatch       = 1000 // JetStream's own limit
	DefaultQueueLimit     = 20_000
	DefaultQueueBytes     = 256 << 20
	DefaultAckTimeout     = 3 * time.Second
	DefaultRetryFor       = 15 * time.Second
)

const (
	// maxBatchBytes bounds one atomic batch, and so what the server stages.
	maxBatchBytes = 16 << 20
	// maxSingly bounds the single publishes under way, so that the last of them
	// is answered in time on a slow disk too.
	maxSingly = 128
	// batchOverhead is what the headers of a batch add to a message.
	batchOverhead = 256
	// maxHeaders is what JetStream takes of headers, in bytes.
	maxHeaders = 64<<10 - 1 - batchOverhead
)

// Pause between two tries after a lost answer, and how often nobody may answer
// at all before that counts as unavailable.
const (
	retryMin     = 25 * time.Millisecond
	retryMax     = time.Second
	noResponders = 3
)

// Headers of an atomic batch publish (ADR-50), and the answer to a batch that
// has an id JetStream knows already.
const (
	headerBatchID       = "Nats-Batch-Id"
	headerBatchSequence = "Nats-Batch-Sequence"
	headerBatchCommit   = "Nats-Batch-Commit"

	codeDuplicateInBatch jetstream.ErrorCode = 10201
)

// tooLarge are the server's words for an event that no retry makes smaller.
var tooLarge = []jetstream.ErrorCode{jetstream.JSErrCodeStreamMessageExceedsMaximum, codeHeaderExceedsMaximum}

const (
	codeHeaderExceedsMaximum jetstream.ErrorCode = 10097
	// codeDuplicateConflict says that the same id is on its way already, on a
	// replicated stream.
	codeDuplicateConflict jetstream.ErrorCode = 10158
)

// SeenIndex knows the ids of events that were stored long ago.
type SeenIndex interface {
	// Seen returns for each id the sequence of the first event that has it, 0
	// where there is none. It may lag behind the stream: what it does not know
	// yet, JetStream's window has to.
	Seen(ids []string) ([]uint64, error)
}

// Duplicate says what recognised an event that is in the stream already.
type Duplicate int

// What may have recognised it. ByWindow is JetStream's own window, or the
// publisher's memory of what it has just stored, which only saves asking.
const (
	NotDuplicate Duplicate = iota
	ByIndex
	ByWindow
)

// String returns "none", "index" or "window".
func (d Duplicate) String() string {
	switch d {
	case ByIndex:
		return "index"
	case ByWindow:
		return "window"
	}
	return "none"
}

// Receipt says where an event is in the stream. For a duplicate it is the
// sequence of the first one. An event whose first answer was lost, and which
// was found stored when it was sent again, is no duplicate.
type Receipt struct {
	Seq       uint64
	Duplicate Duplicate
}

// BatchObservation describes one publish of the committer: how many events went
// together, and how long until they were durable. Atomic is false for events
// that went singly.
type BatchObservation struct {
	Size   int
	Atomic bool
	Took   time.Duration
	Err    error
}

// PublisherOptions configure a [Publisher]. Only Stream has no default.
type PublisherOptions struct {
	// Stream is the stream's name, by default [Name].
	Stream string
	// Seen may be nil: then only JetStream's window finds duplicates.
	Seen SeenIndex
	// BatchThreshold is from how many waiting events they go as one batch.
	BatchThreshold int
	// MaxBatch is the most events in one batch, at most 1000.
	MaxBatch int
	// QueueLimit is the most events that may wait or be under way, QueueBytes
	// the most bytes of them. A call that is larger by itself is let in when
	// nothing else waits.
	QueueLimit int
	QueueBytes int64
	// AckTimeout bounds the wait for one answer of the server.
	AckTimeout time.Duration
	// RetryFor bounds how long events whose answer was lost are sent again. It
	// has to be well below the stream's dedup window, which is what makes that
	// safe.
	RetryFor time.Duration
	// Observe is called by the committer after each publish; it must be quick.
	Observe func(BatchObservation)
	Logger  *slog.Logger
}

// Publisher makes events durable, each id once.
//
// One committer takes whatever events wait, looks their ids up, and publishes
// the rest: singly while they are few, as one atomic batch with one sync when
// they are many. It never waits for more to come.
//
// Order: what a Publish call acknowledged is before whatever is given later,
// and the events of one call are in the order given. The second does not hold
// where the server refused one of them or its answer was lost: the others are
// stored, and that one when it is sent again.
type Publisher struct {
	js    jetstream.JetStream
	async jetstream.JetStream // forgets what was not answered in time
	nc    *nats.Conn
	opts  PublisherOptions

	mu      sync.Mutex
	queue   []*request
	waiting int   // events in queue or under way
	bytes   int64 // of them
	closed  bool
	wake    chan struct{}
	done    chan struct{}
	abandon chan struct{} // Close has waited long enough

	// The committer's alone.
	recent recent
	newest uint64 // the highest sequence that was acknowledged
}

// request is one Publish call. The committer alone changes it, and nobody reads
// it before done is closed.
type request struct {
	ctx      context.Context //nolint:containedctx // the caller's, to know whether anybody waits
	messages []*nats.Msg
	bytes    int64
	receipts []Receipt
	err      error
	open     int // events not settled
	done     chan struct{}
}

// item is one event of a request on its way.
type item struct {
	req *request
	at  int
	msg *nats.Msg
	id  string
	// retried is set when an answer was lost and the event may be stored.
	retried bool
}

// NewPublisher starts a publisher. The caller must close it; the connection
// stays the caller's.
func NewPublisher(js jetstream.JetStream, o PublisherOptions) (*Publisher, error) {
	if o.Stream == "" {
		o.Stream = Name
	}
	if o.BatchThreshold <= 0 {
		o.BatchThreshold = DefaultBatchThreshold
	}
	if o.MaxBatch <= 0 || o.MaxBatch > DefaultMaxBatch {
		o.MaxBatch = DefaultMaxBatch
	}
	if o.QueueLimit <= 0 {
		o.QueueLimit = DefaultQueueLimit
	}
	if o.QueueBytes <= 0 {
		o.QueueBytes = DefaultQueueBytes
	}
	if o.AckTimeout <= 0 {
		o.AckTimeout = DefaultAckTimeout
	}
	if o.RetryFor <= 0 {
		o.RetryFor = DefaultRetryFor
	}
	if o.Observe == nil {
		o.Observe = func(BatchObservation) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	async, err := jetstream.New(js.Conn(),
		jetstream.WithPublishAsyncTimeout(o.AckTimeout), jetstream.WithPublishAsyncMaxPending(2*maxSingly))
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	p := &Publisher{
		js: js, async: async, nc: js.Conn(), opts: o,
		wake: make(chan struct{}, 1), done: make(chan struct{}), abandon: make(chan struct{}),
	}
	go p.commit()
	return p, nil
}

// Publish stores the events and returns a receipt for each, in order. It
// returns without an error only when every one of them is durable; then each id
// is in the stream once. After an error some of them may be stored, and after
// the end of the context they may still be: calling again with the same events
// is safe. It is safe for concurrent use.
//
// Errors are [ErrUnavailable], [ErrOverloaded], [ErrTooLarge], [ErrInvalid],
// [ErrClosed], or the context's.
func (p *Publisher) Publish(ctx context.Context, events []domain.Event) ([]Receipt, error) {
	if len(events) == 0 {
		return nil, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("publish: %w", err)
	}
	r := &request{
		ctx:      ctx,
		messages: make([]*nats.Msg, len(events)),
		receipts: make([]Receipt, len(events)),
		open:     len(events),
		done:     make(chan struct{}),
	}
	for i, e := range events {
		m, err := p.encode(e)
		if err != nil {
			return nil, err
		}
		r.messages[i] = m
		r.bytes += int64(m.Size())
	}
	if err := p.enqueue(r); err != nil {
		return nil, err
	}
	select {
	case <-r.done:
		if r.err != nil {
			return nil, r.err
		}
		return r.receipts, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the stream: %w", ctx.Err())
	}
}

// encode makes the message and sees that the server will take it, alone and in
// a batch.
func (p *Publisher) encode(e domain.Event) (*nats.Msg, error) {
	m, err := Encode(e)
	if err != nil {
		return nil, err
	}
	if size, limit := int64(m.Size())+batchOverhead, p.nc.MaxPayload(); limit > 0 && size > limit {
		return nil, fmt.Errorf("event %s has %d bytes, the server takes %d: %w", e.ID, size, limit, ErrTooLarge)
	}
	if size := m.Size() - len(m.Data); size > maxHeaders {
		return nil, fmt.Errorf("event %s has %d bytes of headers, the server takes %d: %w", e.ID, size, maxHeaders, ErrTooLarge)
	}
	return m, nil
}

func (p *Publisher) enqueue(r *request) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return fmt.Errorf("publish: %w", ErrClosed)
	}
	if p.waiting > 0 && (p.waiting+len(r.messages) > p.opts.QueueLimit || p.bytes+r.bytes > p.opts.QueueBytes) {
		return fmt.Errorf("%d events of %d bytes wait: %w", p.waiting, p.bytes, ErrOverloaded)
	}
	p.waiting += len(r.messages)
	p.bytes += r.bytes
	p.queue = append(p.queue, r)
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return nil
}

// Close stops taking events, finishes those that wait, and stops the committer.
// When the context ends first, what was not stored fails. It is idempotent.
func (p *Publisher) Close(ctx context.Context) error {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		close(p.wake)
	}
	p.mu.Unlock()
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.abandon:
	default:
		close(p.abandon)
	}
	return fmt.Errorf("drain publisher: %w", ctx.Err())
}

// commit is the committer: the only goroutine that publishes, save for Append.
func (p *Publisher) commit() {
	defer close(p.done)
	for {
		_, open := <-p.wake
		for {
			p.mu.Lock()
			batch := p.queue
			p.queue = nil
			p.mu.Unlock()
			if len(batch) == 0 {
				break
			}
			p.store(batch)
			var n int
			var bytes int64
			for _, r := range batch {
				n += len(r.messages)
				bytes += r.bytes
			}
			p.mu.Lock()
			p.waiting -= n
			p.bytes -= bytes
			p.mu.Unlock()
			runtime.Gosched() // callers just answered may have more for the next drain
		}
		if !open {
			return
		}
	}
}

// store settles every request of one drain.
func (p *Publisher) store(batch []*request) {
	var items []*item
	for _, r := range batch {
		for i, m := range r.messages {
			items = append(items, &item{req: r, at: i, msg: m, id: m.Header.Get(HeaderMsgID)})
		}
	}
	fresh, followers := p.sift(items)
	for len(fresh) > 0 {
		n := p.chunk(fresh)
		if n >= p.opts.BatchThreshold {
			p.storeBatch(fresh[:n])
		} else {
			p.storeSingly(fresh[:n])
		}
		fresh = fresh[n:]
	}
	for _, f := range followers {
		if f.first.req.err != nil {
			f.item.fail(f.first.req.err)
			continue
		}
		f.item.settle(f.first.req.receipts[f.first.at].Seq, ByWindow)
	}
}

// follower is an item whose id another item of the same drain has.
type follower struct{ item, first *item }

// sift settles what is known already and returns what has to be published, and
// what has to wait for an item that is.
func (p *Publisher) sift(items []*item) (fresh []*item, followers []follower) {
	first := make(map[string]*item, len(items))
	ids := make([]string, 0, len(items))
	for _, it := range items {
		if f, again := first[it.id]; again {
			followers = append(followers, follower{it, f})
			continue
		}
		first[it.id] = it
		if seq, ok := p.recent.get(it.id); ok {
			it.settle(seq, ByWindow)
			continue
		}
		fresh = append(fresh, it)
		ids = append(ids, it.id)
	}
	if p.opts.Seen == nil || len(fresh) == 0 {
		return fresh, followers
	}
	seqs, err := p.opts.Seen.Seen(ids)
	if err == nil && len(seqs) != len(ids) {
		err = fmt.Errorf("%d answers for %d ids", len(seqs), len(ids))
	}
	if err != nil {
		// Without the index an old duplicate would get in; better not now.
		for _, it := range fresh {
			it.fail(fmt.Errorf("%w: look ids up: %w", ErrUnavailable, err))
		}
		return nil, followers
	}
	rest := fresh[:0]
	for i, it := range fresh {
		if seqs[i] > 0 {
			it.settle(seqs[i], ByIndex)
			continue
		}
		rest = append(rest, it)
	}
	return rest, followers
}

// chunk returns how many items from the front go together.
func (p *Publisher) chunk(items []*item) int {
	bytes := 0
	for i, it := range items {
		bytes += it.msg.Size()
		if i > 0 && (i >= p.opts.MaxBatch || bytes > maxBatchBytes) {
			return i
		}
	}
	return len(items)
}

// storeBatch publishes the items as one atomic batch: one sync for all of them.
// When that fails they go singly, which tells for each what became of it: one
// id that JetStream knows is enough to reject a whole batch, and after a lost
// answer the window finds what was stored.
func (p *Publisher) storeBatch(items []*item) {
	start := time.Now()
	last, err := p.publishBatch(items)
	p.opts.Observe(BatchObservation{Size: len(items), Atomic: true, Took: time.Since(start), Err: err})
	if err == nil {
		for i, it := range items {
			p.stored(it, last-uint64(len(items)-1-i), NotDuplicate)
		}
		return
	}
	var api *jetstream.APIError
	if !errors.As(err, &api) { // else the server says that nothing was stored
		for _, it := range items {
			it.retried = true
		}
	}
	if api == nil || api.ErrorCode != codeDuplicateInBatch {
		p.opts.Logger.Warn("batch not acknowledged; its events go singly", "events", len(items), "err", err)
	}
	for _, it := range items {
		for _, h := range []string{headerBatchID, headerBatchSequence, headerBatchCommit} {
			it.msg.Header.Del(h)
		}
	}
	p.storeSingly(items)
}

// batchAck is the answer to the last message of a batch.
type batchAck struct {
	Stream string              `json:"stream"`
	Seq    uint64              `json:"seq"`
	Batch  string              `json:"batch"`
	Count  int                 `json:"count"`
	Error  *jetstream.APIError `json:"error"`
}

// publishBatch returns the sequence of the batch's last event; the others are
// the ones right before it. It leaves the batch's headers on the messages.
func (p *Publisher) publishBatch(items []*item) (uint64, error) {
	if err := p.connected(); err != nil {
		return 0, err
	}
	batch := nuid.Next()
	ctx, cancel := context.WithTimeout(context.Background(), p.opts.AckTimeout)
	defer cancel()
	stream, id := []string{p.opts.Stream}, []string{batch}
	for i, it := range items {
		m := it.msg
		m.Header[jetstream.ExpectedStreamHeader], m.Header[headerBatchID] = stream, id
		m.Header.Set(headerBatchSequence, strconv.Itoa(i+1))
		if i < len(items)-1 {
			if err := p.nc.PublishMsg(m); err != nil {
				return 0, fmt.Errorf("publish batch: %w", err)
			}
			continue
		}
		m.Header.Set(headerBatchCommit, "1")
		resp, err := p.nc.RequestMsgWithContext(ctx, m)
		if err != nil {
			return 0, fmt.Errorf("commit batch: %w", err)
		}
		var ack batchAck
		if err := json.Unmarshal(resp.Data, &ack); err != nil {
			return 0, fmt.Errorf("read batch answer: %w", err)
		}
		switch {
		case ack.Error != nil:
			return 0, fmt.Errorf("commit batch: %w", ack.Error)
		case ack.Batch != batch || ack.Count != len(items) || ack.Seq < uint64(len(items)):
			return 0, fmt.Errorf("commit batch: the answer is for %d events, not %d", ack.Count, len(items))
		}
		return ack.Seq, nil
	}
	return 0, nil
}

// storeSingly publishes the items one by one, several on their way at once, and
// sends again those whose answer was lost: the window makes that safe. It gives
// up on them when nobody waits for them any more, or after RetryFor.
func (p *Publisher) storeSingly(items []*item) {
	for len(items) > maxSingly {
		p.storeSingly(items[:maxSingly])
		items = items[maxSingly:]
	}
	floor := p.newest // what is found stored above it may be of our own first try
	deadline := time.Now().Add(p.opts.RetryFor)
	pause, silent := retryMin, 0
	for {
		start := time.Now()
		n := len(items)
		var err error
		items, err = p.publishSingly(items, floor)
		p.opts.Observe(BatchObservation{Size: n, Took: time.Since(start), Err: err})
		if len(items) == 0 {
			return
		}
		if errors.Is(err, jetstream.ErrNoStreamResponse) {
			silent++
		}
		if silent >= noResponders || errors.Is(err, nats.ErrConnectionClosed) || !time.Now().Before(deadline) || !awaited(items) || !p.rest(pause) {
			for _, it := range items {
				it.fail(fmt.Errorf("%w: %w", ErrUnavailable, err))
			}
			return
		}
		pause = min(2*pause, retryMax)
	}
}

// awaited reports whether any of the items still has a caller.
func awaited(items []*item) bool {
	for _, it := range items {
		if it.req.ctx.Err() == nil {
			return true
		}
	}
	return false
}

// rest pauses, and reports whether there is time to go on.
func (p *Publisher) rest(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-p.abandon:
		return false
	}
}

// publishSingly sends each item once. It returns those whose fate is unknown,
// in order, and the last error that it met.
func (p *Publisher) publishSingly(items []*item, floor uint64) (unknown []*item, failed error) {
	if err := p.connected(); err != nil {
		return items, err
	}
	acks := make([]jetstream.PubAckFuture, len(items))
	errs := make([]error, len(items))
	for i, it := range items {
		// A retry inside the client would change the order.
		acks[i], errs[i] = p.async.PublishMsgAsync(&nats.Msg{Subject: it.msg.Subject, Data: it.msg.Data, Header: it.msg.Header},
			jetstream.WithStallWait(p.opts.AckTimeout), jetstream.WithExpectStream(p.opts.Stream), jetstream.WithRetryAttempts(0))
	}
	for i, it := range items {
		err := errs[i]
		if err == nil {
			select { // bounded: the client ends each after AckTimeout
			case ack := <-acks[i].Ok():
				d := NotDuplicate
				if ack.Duplicate && !(it.retried && ack.Sequence > floor) {
					d = ByWindow
				}
				p.stored(it, ack.Sequence, d)
				continue
			case err = <-acks[i].Err():
			}
		}
		failed = err
		var api *jetstream.APIError
		if !errors.As(err, &api) || api.ErrorCode == codeDuplicateConflict {
			it.retried = true
			unknown = append(unknown, it)
			continue
		}
		if slices.Contains(tooLarge, api.ErrorCode) {
			it.fail(fmt.Errorf("%w: %w", ErrTooLarge, err))
			continue
		}
		it.fail(fmt.Errorf("%w: %w", ErrUnavailable, err))
	}
	return unknown, failed
}

// connected keeps events out of the client's buffer, where they would outlive
// the wait for them.
func (p *Publisher) connected() error {
	switch p.nc.Status() {
	case nats.CONNECTED:
		return nil
	case nats.CLOSED:
		return nats.ErrConnectionClosed
	default:
		return nats.ErrDisconnected
	}
}

func (p *Publisher) stored(it *item, seq uint64, d Duplicate) {
	p.newest = max(p.newest, seq)
	p.recent.put(it.id, seq)
	it.settle(seq, d)
}

func (it *item) settle(seq uint64, d Duplicate) {
	it.req.receipts[it.at] = Receipt{Seq: seq, Duplicate: d}
	it.req.settled()
}

// fail fails the whole request: its caller answers for all of it.
func (it *item) fail(err error) {
	if it.req.err == nil {
		it.req.err = err
	}
	it.req.settled()
}

// settled counts one event down; with the last the caller goes on.
func (r *request) settled() {
	if r.open--; r.open == 0 {
		close(r.done)
	}
}

// Append stores one event of our own on a page, if the page's last event of
// the same noun is still the one at expectedLast (0: there is none yet).
// Otherwise it fails with [ErrConflict]: read again, decide again. After
// [ErrUnavailable] the event may be stored; then a second try with the same
// expectation is a conflict.
//
// It does not go through the committer, so it neither waits for Publish calls
// nor asks the index of old ids.
func (p *Publisher) Append(ctx context.Context, e domain.Event, expectedLast uint64) (Receipt, error) {
	m, err := p.encode(e)
	if err != nil {
		return Receipt{}, err
	}
	ack, err := p.js.PublishMsg(ctx, m, jetstream.WithExpectStream(p.opts.Stream),
		jetstream.WithExpectLastSequenceForSubject(expectedLast, nounFilter(e.Page, e.Type)))
	if err != nil {
		var api *jetstream.APIError
		if errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
			api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant) {
			return Receipt{}, fmt.Errorf("append %s: %w", e.Type, ErrConflict)
		}
		return Receipt{}, fmt.Errorf("append %s: %w: %w", e.Type, ErrUnavailable, err)
	}
	if ack.Duplicate {
		return Receipt{Seq: ack.Sequence, Duplicate: ByWindow}, nil
	}
	return Receipt{Seq: ack.Sequence}, nil
}

// LastOf returns the sequence of the page's last event with the noun of t, 0
// where there is none: what [Publisher.Append] expects.
func (p *Publisher) LastOf(ctx context.Context, page domain.PageID, t domain.Type) (uint64, error) {
	st, err := p.js.Stream(ctx, p.opts.Stream)
	if err != nil {
		return 0, fmt.Errorf("ask stream: %w: %w", ErrUnavailable, err)
	}
	m, err := st.GetLastMsgForSubject(ctx, nounFilter(page, t))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("find last %s event: %w: %w", t.Noun(), ErrUnavailable, err)
	}
	return m.Sequence, nil
}

func nounFilter(page domain.PageID, t domain.Type) string {
	return SubjectPrefix + "." + page.Token() + "." + t.Noun() + ".*"
}

// recent remembers the last ids that were stored, so that a duplicate close
// behind does not reject a whole batch. It holds between one and two
// generations of ids.
type recent struct{ young, old map[string]uint64 }

const recentGeneration = 32 << 10

func (r *recent) get(id string) (uint64, bool) {
	if seq, ok := r.young[id]; ok {
		return seq, true
	}
	seq, ok := r.old[id]
	return seq, ok
}

func (r *recent) put(id string, seq uint64) {
	if r.young == nil || len(r.young) >= recentGeneration {
		r.old, r.young = r.young, make(map[string]uint64, recentGeneration)
	}
	r.young[id] = seq
}
