// Package history keeps on record what operators do: who, from where, which verb, on
// what, and with which outcome. The entries are events of the noun operator in a stream of
// their own. They have no text of a message and no token, and a contact's hash in place of
// its id, so that an erasure need not touch them.
package history

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
)

// Stream is the name of the stream.
const Stream = "PAGESTREAM_HISTORY"

// Bounds of the stream. The entries of one subject can't push out those of another, so
// that a flood of one verb, or of refused requests, does not remove the rest.
const (
	maxAge        = 400 * 24 * time.Hour
	maxBytes      = 256 << 20
	minBytes      = 4 << 20
	maxPerSubject = 50_000
)

const (
	subjectPrefix = "pagestream_history.operator."
	// denied takes the place of the verb in the subject of a request that the token does
	// not permit.
	denied = "denied"

	maxQueue     = 1024
	maxDelay     = time.Second
	writeTimeout = 5 * time.Second

	// A longer name is not recorded: it may be a secret in the wrong place.
	maxName = 40
	maxText = 300
)

// ErrFull is returned when too many entries wait to be written.
var ErrFull = errors.New("too many entries wait to be written")

// Outcome is how a verb ended.
type Outcome string

// The outcomes.
const (
	OK Outcome = "ok"
	// Refused means that the request was not permitted, not valid or not possible.
	Refused Outcome = "refused"
	// Failed means that something that the verb needs did not work.
	Failed Outcome = "failed"
)

// Entry is one verb that somebody carried out, or tried to.
type Entry struct {
	// Seq is the entry's sequence in the stream.
	Seq uint64 `json:"seq,omitempty"`
	// ID is also the id of the request.
	ID string `json:"id"`
	// Type is operator.<verb>.
	Type string    `json:"type"`
	Time time.Time `json:"time"`
	// Who is the name of the token, also that of a console session; Scope is its scope.
	Who   string `json:"who"`
	Scope string `json:"scope"`
	// From is the network address that the request came from.
	From string `json:"from"`
	Verb string `json:"verb"`
	// On is what the verb was about, by kind: page, contact (its hash), consumer, …
	On      map[string]string `json:"on,omitempty"`
	Outcome Outcome           `json:"outcome"`
	// Status is the HTTP status, Code Graph's error code if Graph refused.
	Status int `json:"status,omitempty"`
	Code   int `json:"code,omitempty"`
	// Result is what came of a rebuild, a verification or an audit, in a sentence.
	// Wrong is set if that is not as it should be, although the verb itself worked.
	Result string `json:"result,omitempty"`
	Wrong  bool   `json:"wrong,omitempty"`
	// Millis is how long it took.
	Millis int64 `json:"took_ms"`
}

func (e Entry) ended() time.Time { return e.Time.Add(time.Duration(e.Millis) * time.Millisecond) }

// Options configure a [History]. JS is required.
type Options struct {
	JS jetstream.JetStream
	// Replicas of the stream when it is made; see [streams.EnsureBeside].
	Replicas int
	Logger   *slog.Logger
}

// History writes and reads the entries. Make one with [New] and end it with Close. A nil
// *History records nothing.
type History struct {
	opts  Options
	queue chan queued
	lost  atomic.Uint64

	mu     sync.RWMutex // held for reading while an entry is put into the queue
	closed bool
	done   chan struct{}
}

// queued is an entry that waits. written is closed when it was written or has failed.
type queued struct {
	Entry
	subject string
	written chan struct{}
}

// New returns a History and starts to write.
func New(o Options) *History {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	h := &History{opts: o, queue: make(chan queued, maxQueue), done: make(chan struct{})}
	go h.write()
	return h
}

// Close writes the entries that wait, and returns when they are written or ctx ends.
func (h *History) Close(ctx context.Context) error {
	h.mu.Lock()
	if !h.closed {
		h.closed = true
		close(h.queue)
	}
	h.mu.Unlock()
	select {
	case <-h.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("write history: %w", ctx.Err())
	}
}

// Lost returns the number of entries that could not be written since the start.
func (h *History) Lost() uint64 { return h.lost.Load() }

// Action is a verb that is being carried out. Its methods are safe for concurrent use, and
// do nothing on a nil *Action.
type Action struct {
	h     *History
	mu    sync.Mutex
	entry Entry
	deny  bool
	ended bool
	// forked is set if another action is put on record in place of this one.
	forked bool
}

// Begin begins a verb of a request by the holder of a token. The caller must call
// [Action.End].
func (h *History) Begin(r *http.Request, who, scope, verb string) *Action {
	if h == nil {
		return nil
	}
	from, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		from = r.RemoteAddr
	}
	return &Action{h: h, entry: Entry{
		ID: rand.Text(), Type: "operator." + verb, Time: time.Now().UTC(), Who: who, Scope: scope, From: from, Verb: verb,
	}}
}

type actionKey struct{}

// With returns a context that has the action.
func (a *Action) With(ctx context.Context) context.Context {
	return context.WithValue(ctx, actionKey{}, a)
}

// From returns the action of a context, or nil.
func From(ctx context.Context) *Action {
	a, _ := ctx.Value(actionKey{}).(*Action)
	return a
}

// ID returns the id of the request.
func (a *Action) ID() string {
	if a == nil {
		return ""
	}
	return a.entry.ID
}

// On adds a name that the verb is about: an id, or another short name.
func (a *Action) On(kind, name string) { a.on(kind, name, maxName) }

// Result sets what came of the verb, in a sentence, and whether that is as it should be.
func (a *Action) Result(text string, good bool) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.entry.Result, a.entry.Wrong = bounded(text), !good
}

// maxResult bounds the result of an entry, in bytes.
const maxResult = 1000

func bounded(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), maxResult)], "")
}

// Fork returns an action for a verb that goes on after the request, which is put on record in place of
// this one. The caller must call its End.
func (a *Action) Fork() *Action {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.forked = true
	f := &Action{h: a.h, entry: a.entry}
	f.entry.On = maps.Clone(a.entry.On)
	return f
}

// OnText is [Action.On] for a name that may be longer: that of a company or a directory.
func (a *Action) OnText(kind, text string) { a.on(kind, text, maxText) }

// maxPages is how many of the pages of a verb are on record by their ids.
const maxPages = 20

// OnPages adds the ids of the pages that the verb is about: one as page, several as pages, of which the
// first 20 are named and the other ones counted.
func (a *Action) OnPages(ids []domain.PageID) {
	if len(ids) == 1 {
		a.On("page", string(ids[0]))
		return
	}
	names := make([]string, min(len(ids), maxPages))
	for i := range names {
		if names[i] = string(ids[i]); len(names[i]) > maxName {
			names[i] = "(long)"
		}
	}
	if len(ids) > maxPages {
		names = append(names, fmt.Sprintf("and %d more", len(ids)-maxPages))
	}
	a.on("pages", strings.Join(names, " "), (maxPages+1)*(maxName+1))
}

// OnContact adds the hash of a contact's id.
func (a *Action) OnContact(id domain.ContactID) {
	if id != "" {
		a.On("contact", domain.ContactHash(id))
	}
}

func (a *Action) on(kind, name string, longest int) {
	if a == nil || name == "" {
		return
	}
	if len(name) > longest {
		name = "(long)"
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.entry.On == nil {
		a.entry.On = map[string]string{}
	}
	a.entry.On[kind] = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(name, "\ufffd"))
}

// Denied marks a verb that the token does not permit.
func (a *Action) Denied(status int) {
	if a != nil {
		a.Ended(status, 0)
		a.deny = true
	}
}

// Ended sets the outcome by the HTTP status of the answer, and the code of Graph's error.
func (a *Action) Ended(status, code int) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = true
	a.entry.Status, a.entry.Code = status, code
	switch {
	case status < http.StatusBadRequest:
		a.entry.Outcome = OK
	case status < http.StatusInternalServerError:
		a.entry.Outcome = Refused
	default:
		a.entry.Outcome = Failed
	}
}

// Done is Ended(200, 0), unless the outcome was set.
func (a *Action) Done() {
	if a != nil && !a.ended {
		a.Ended(http.StatusOK, 0)
	}
}

// End puts the verb on record. It returns when the entry is written, or after a second: an
// entry that can't be written does not hold up the answer, but is logged and counted. A
// verb without an outcome has failed.
func (a *Action) End() {
	if a == nil {
		return
	}
	if !a.ended {
		a.Ended(http.StatusInternalServerError, 0)
	}
	a.mu.Lock()
	e, forked := a.entry, a.forked
	a.mu.Unlock()
	if forked {
		return
	}
	e.Millis = time.Since(e.Time).Milliseconds()
	verb := e.Verb
	if a.deny {
		verb = denied
	}
	q := queued{e, subjectPrefix + verb + "." + cmp.Or(e.Scope, "none"), make(chan struct{})}
	limit := time.NewTimer(maxDelay)
	defer limit.Stop()
	a.h.mu.RLock()
	defer a.h.mu.RUnlock()
	if a.h.closed {
		a.h.lose(e, ErrFull)
		return
	}
	select {
	case a.h.queue <- q:
	case <-limit.C:
		a.h.lose(e, ErrFull)
		return
	}
	select {
	case <-q.written:
	case <-limit.C:
	}
}

// process is Who and Scope of an entry that the process made by itself.
const process = "pagestream"

// Note puts on record what the process did or noticed by itself, under a verb and with what it was about. It does
// not wait: an entry that can't be written is logged and counted.
func (h *History) Note(verb string, on map[string]string) { h.NoteResult(verb, on, "", true) }

// NoteResult is [History.Note] with what [Action.Result] sets.
func (h *History) NoteResult(verb string, on map[string]string, result string, good bool) {
	if h == nil {
		return
	}
	e := Entry{
		ID: rand.Text(), Type: "operator." + verb, Time: time.Now().UTC(), Who: process, Scope: process, Verb: verb,
		On: on, Outcome: OK, Result: bounded(result), Wrong: !good,
	}
	h.mu.RLock()
	defer h.mu.RUnlock()
	if h.closed {
		h.lose(e, ErrFull)
		return
	}
	select {
	case h.queue <- queued{e, subjectPrefix + verb + "." + process, make(chan struct{})}:
	default:
		h.lose(e, ErrFull)
	}
}

// lose logs and counts an entry that is not on record.
func (h *History) lose(e Entry, err error) {
	h.lost.Add(1)
	h.opts.Logger.Error("not on record", "who", e.Who, "verb", e.Verb, "outcome", e.Outcome, "request", e.ID, "err", err)
}

// write writes the entries of the queue in order until Close.
func (h *History) write() {
	defer close(h.done)
	for q := range h.queue {
		if err := h.store(q); err != nil {
			h.lose(q.Entry, err)
		}
		close(q.written)
	}
}

// store writes one entry. The stream is created with the first one.
func (h *History) store(q queued) error {
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	data, err := json.Marshal(q.Entry)
	if err != nil {
		return fmt.Errorf("encode entry: %w", err)
	}
	m := &nats.Msg{Subject: q.subject, Data: data, Header: nats.Header{}}
	m.Header.Set(jetstream.MsgIDHeader, q.ID)
	_, err = h.opts.JS.PublishMsg(ctx, m, jetstream.WithExpectStream(Stream))
	if errors.Is(err, jetstream.ErrNoStreamResponse) {
		if err = h.create(ctx); err == nil {
			_, err = h.opts.JS.PublishMsg(ctx, m, jetstream.WithExpectStream(Stream))
		}
	}
	if err != nil {
		return fmt.Errorf("store entry: %w", err)
	}
	return nil
}

// noRoom is the server's error code where a stream's MaxBytes, which it reserves, don't fit
// into the store.
const noRoom jetstream.ErrorCode = 10047

// create creates the stream, with fewer bytes if the store is small.
func (h *History) create(ctx context.Context) error {
	for size := int64(maxBytes); ; size /= 4 {
		_, err := streams.EnsureBeside(ctx, h.opts.JS, streams.Name, jetstream.StreamConfig{
			Name: Stream, Description: "What operators did.", Subjects: []string{subjectPrefix + ">"},
			Retention: jetstream.LimitsPolicy, Storage: jetstream.FileStorage, Discard: jetstream.DiscardOld,
			MaxAge: maxAge, MaxBytes: size, MaxMsgsPerSubject: maxPerSubject, Replicas: h.opts.Replicas,
			DenyDelete: true, DenyPurge: true,
		})
		var api *jetstream.APIError
		if errors.As(err, &api) && api.ErrorCode == noRoom && size > minBytes {
			continue
		}
		if err != nil {
			return fmt.Errorf("create stream: %w", err)
		}
		return nil
	}
}
