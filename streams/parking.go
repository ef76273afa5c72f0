package streams

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
)

// Parked is an event that a [Reactor] gave up on, or a later event of the same conversation that
// waits behind it.
type Parked struct {
	// Reactor is the reactor's durable name; Seq, Page, Contact and Type are the event's.
	Reactor string           `json:"reactor"`
	Seq     uint64           `json:"seq"`
	Page    domain.PageID    `json:"page"`
	Contact domain.ContactID `json:"contact,omitempty"`
	Type    domain.Type      `json:"type"`
	// Behind is the sequence of the event that this one waits for. It is 0 if this event failed
	// itself; then Error is the reason, and Attempts the number of attempts.
	Behind   uint64 `json:"behind,omitempty"`
	Error    string `json:"error,omitempty"`
	Attempts int    `json:"attempts,omitempty"`
	// At is when it was parked, or last failed again.
	At time.Time `json:"at"`
	// owner is the hash of the contact, empty if there is none.
	owner string
}

// parkedRow is how a parked event is stored. It has the hash of the contact and not its id: what is
// removed from the stream of parked events stays in its file for some time, also after the contact was
// erased.
type parkedRow struct {
	Parked
	Owner string `json:"owner,omitempty"`
}

// row returns the event as it is stored. The text of the error may have come from Graph, which names the
// person in some errors.
func (p Parked) row() parkedRow {
	out := parkedRow{p, p.owner}
	if p.Contact != "" {
		out.Error = domain.HideContact(p.Error, p.Contact)
	}
	out.Error, out.Contact = out.Error[:min(len(out.Error), maxParkedError)], ""
	return out
}

// parked returns the event without its contact, unless an earlier version has stored that.
func (r parkedRow) parked() Parked {
	out := r.Parked
	out.owner = cmp.Or(r.Owner, ownerOf(out.Contact))
	return out
}

// ownerOf returns the hash of a contact, or an empty string for none.
func ownerOf(c domain.ContactID) string {
	if c == "" {
		return ""
	}
	return domain.ContactHash(c)
}

// ErrNotParked is returned when the reactor has no parked event with the given sequence.
var ErrNotParked = errors.New("no such event is parked")

// maxParkedError is the most bytes that are kept of an error's text.
const maxParkedError = 500

// Parking keeps the events that reactors gave up on. It stores them in a separate stream next to the
// stream of events, as one message per event, and deletes the message when the event was handled or
// discarded. The zero value is not usable: see [NewParking]. Its methods are safe for concurrent use.
type Parking struct {
	js     jetstream.JetStream
	stream string

	// loading is held while first is read from the stream, and while a reactor's events are removed from both.
	loading sync.Mutex
	loaded  bool

	mu       sync.Mutex
	reactors map[string]*Reactor
	// first is the sequence of the first parked event of each conversation and reactor.
	first map[parkedConversation]uint64
}

type parkedConversation struct {
	reactor string
	page    domain.PageID
	owner   string
}

func (p Parked) conversation() parkedConversation {
	return parkedConversation{p.Reactor, p.Page, p.owner}
}

// ParkedOf returns the name of the stream of parked events that belongs to a stream of events.
func ParkedOf(stream string) string { return stream + "_PARKED" }

// NewParking returns the parking of a stream of events. The stream of parked events is created only
// when the first event is parked.
func NewParking(js jetstream.JetStream, stream string) *Parking {
	return &Parking{js: js, stream: stream, reactors: map[string]*Reactor{}, first: map[parkedConversation]uint64{}}
}

func (k *Parking) subject(reactor string, seq uint64) string {
	return k.subjects(reactor) + strconv.FormatUint(seq, 10)
}

// subjects returns what the subjects of a reactor's parked events begin with.
func (k *Parking) subjects(reactor string) string {
	return "pagestream-parked." + k.stream + "." + reactor + "."
}

// List returns the parked events of one reactor, or of all reactors if the name is empty. They are
// ordered by reactor and sequence. An event that is no longer in the stream has no contact.
func (k *Parking) List(ctx context.Context, reactor string) ([]Parked, error) {
	out, err := k.list(ctx, reactor)
	if err != nil || len(out) == 0 {
		return out, err
	}
	get, err := Getter(ctx, k.js, k.stream)
	if err != nil {
		return nil, err
	}
	for i, p := range out {
		if p.owner == "" || p.Contact != "" {
			continue
		}
		e, err := get(ctx, p.Seq)
		if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrMalformed) {
			return nil, err
		}
		if ownerOf(e.Contact) == p.owner {
			out[i].Contact = e.Contact
		}
	}
	return out, nil
}

// list is like List, but leaves out the contacts, which are in the stream of events.
func (k *Parking) list(ctx context.Context, reactor string) ([]Parked, error) {
	var out []Parked
	_, err := each(ctx, k.js, ReadOptions{Stream: ParkedOf(k.stream)}, func(m *arrival) error {
		var row parkedRow
		if json.Unmarshal(m.data, &row) == nil && (reactor == "" || row.Reactor == reactor) {
			out = append(out, row.parked())
		}
		return nil
	})
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read parked events: %w", err)
	}
	slices.SortFunc(out, func(a, b Parked) int {
		return cmp.Or(cmp.Compare(a.Reactor, b.Reactor), cmp.Compare(a.Seq, b.Seq))
	})
	return out, nil
}

// register adds a reactor, so that Redrive and Discard can call it.
func (k *Parking) register(ctx context.Context, r *Reactor) error {
	k.loading.Lock()
	defer k.loading.Unlock()
	var list []Parked
	var err error
	if !k.loaded {
		if list, err = k.list(ctx, ""); err != nil {
			return err
		}
		k.loaded = true
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.reactors[r.opts.Durable] = r
	for _, p := range slices.Backward(list) {
		k.first[p.conversation()] = p.Seq
	}
	return nil
}

// Stalled counts by page the conversations in which an event is parked, once for each reactor. On a
// cluster these are the ones that this node knows of.
func (k *Parking) Stalled() map[domain.PageID]int {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := map[domain.PageID]int{}
	for c := range k.first {
		out[c.page]++
	}
	return out
}

// empty reports whether nothing is parked.
func (k *Parking) empty() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.first) == 0
}

// parkIfBlocked parks an event if an earlier one of its conversation is parked, and reports whether
// it did.
func (k *Parking) parkIfBlocked(ctx context.Context, reactor string, e Stored) (bool, error) {
	p := Parked{
		Reactor: reactor, Seq: e.Seq, Page: e.Page, Contact: e.Contact, Type: e.Type, owner: ownerOf(e.Contact),
	}
	k.mu.Lock()
	p.Behind = k.first[p.conversation()]
	k.mu.Unlock()
	if p.Behind == 0 || p.Behind >= e.Seq {
		return false, nil
	}
	return true, k.put(ctx, p)
}

func (k *Parking) put(ctx context.Context, p Parked) error {
	p.At = time.Now().UTC()
	data, err := json.Marshal(p.row())
	if err != nil {
		return fmt.Errorf("encode parked event: %w", err)
	}
	m := &nats.Msg{Subject: k.subject(p.Reactor, p.Seq), Data: data}
	_, err = k.js.PublishMsg(ctx, m)
	if errors.Is(err, jetstream.ErrNoStreamResponse) {
		_, err = EnsureBeside(ctx, k.js, k.stream, jetstream.StreamConfig{
			Name: ParkedOf(k.stream), Description: "Events that reactors gave up.",
			Subjects: []string{"pagestream-parked." + k.stream + ".>"},
			Storage:  jetstream.FileStorage, Discard: jetstream.DiscardNew,
			MaxMsgsPerSubject: 1,
		})
		if err == nil {
			_, err = k.js.PublishMsg(ctx, m)
		}
	}
	if err != nil {
		return fmt.Errorf("park event %d of %s: %w", p.Seq, p.Reactor, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if first := k.first[p.conversation()]; first == 0 || p.Seq < first {
		k.first[p.conversation()] = p.Seq
	}
	return nil
}

// purge deletes the messages of a subject.
func (k *Parking) purge(ctx context.Context, subject string) error {
	st, err := k.js.Stream(ctx, ParkedOf(k.stream))
	if err != nil {
		return err
	}
	return st.Purge(ctx, jetstream.WithPurgeSubject(subject))
}

// remove deletes a parked event and updates which event is the first of its conversation.
func (k *Parking) remove(ctx context.Context, p Parked) error {
	if err := k.purge(ctx, k.subject(p.Reactor, p.Seq)); err != nil {
		return fmt.Errorf("remove parked event %d: %w", p.Seq, err)
	}
	list, err := k.list(ctx, p.Reactor)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.first, p.conversation())
	for _, next := range slices.Backward(list) {
		if next.conversation() == p.conversation() {
			k.first[p.conversation()] = next.Seq
		}
	}
	return nil
}

// Redrive gives a parked event to its reactor again, and then the events of the same conversation
// that wait behind it, unless the reactor is [ReactorOptions].Unordered. It stops at the first one that
// fails, which stays parked with its new error; that is not an error of Redrive. It returns how many
// events were handled. [ErrNotParked] is returned when the event is not parked; another error when the
// reactor does not run in this process.
func (k *Parking) Redrive(ctx context.Context, reactor string, seq uint64) (done int, err error) {
	return k.release(ctx, reactor, seq, false)
}

// Discard deletes a parked event without handling it, and then handles the events that wait behind it
// as Redrive does.
func (k *Parking) Discard(ctx context.Context, reactor string, seq uint64) (done int, err error) {
	return k.release(ctx, reactor, seq, true)
}

func (k *Parking) release(ctx context.Context, reactor string, seq uint64, discard bool) (done int, err error) {
	list, err := k.List(ctx, reactor)
	if err != nil {
		return 0, err
	}
	i := slices.IndexFunc(list, func(p Parked) bool { return p.Seq == seq })
	if i < 0 {
		return 0, fmt.Errorf("event %d of %s: %w", seq, reactor, ErrNotParked)
	}
	k.mu.Lock()
	r := k.reactors[reactor]
	k.mu.Unlock()
	if r == nil {
		return 0, fmt.Errorf("reactor %s does not run in this process", reactor)
	}
	if discard {
		if err := k.remove(ctx, list[i]); err != nil {
			return 0, err
		}
	}
	for _, p := range list {
		waits := p.Seq != seq && !r.opts.Unordered && p.conversation() == list[i].conversation()
		if !waits && (discard || p.Seq != seq) {
			continue
		}
		err := r.handleStored(ctx, p.Seq)
		if err != nil && ctx.Err() != nil {
			return done, err
		}
		if err != nil {
			p.Behind, p.Error, p.Attempts = 0, err.Error(), p.Attempts+1
			return done, k.put(ctx, p)
		}
		if err := k.remove(ctx, p); err != nil {
			return done, err
		}
		done++
	}
	return done, nil
}

// Forget removes the parked events with the given sequences, which were erased from the stream of events,
// and returns how many. Events that wait behind them are handled as by Redrive, if their reactor runs in
// this process.
func (k *Parking) Forget(ctx context.Context, seqs map[uint64]bool) (n int, err error) {
	list, err := k.list(ctx, "")
	if err != nil {
		return 0, err
	}
	for _, p := range list {
		if !seqs[p.Seq] {
			continue
		}
		n++
		if _, err := k.Redrive(ctx, p.Reactor, p.Seq); err == nil || errors.Is(err, ErrNotParked) {
			continue // an event that was erased is handled without its handler
		}
		if err := k.remove(ctx, p); err != nil {
			return n, err
		}
	}
	return n, nil
}

// Clear removes all parked events of a reactor that parks none any more.
func (k *Parking) Clear(ctx context.Context, reactor string) error {
	k.loading.Lock()
	defer k.loading.Unlock()
	if err := k.purge(ctx, k.subjects(reactor)+"*"); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("remove parked events: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	maps.DeleteFunc(k.first, func(c parkedConversation, _ uint64) bool { return c.reactor == reactor })
	return nil
}

// handleStored reads an event from the stream and handles it again. If the event was erased there is
// nothing left to do, which is no error.
func (r *Reactor) handleStored(ctx context.Context, seq uint64) error {
	st, err := r.opts.Parking.js.Stream(ctx, r.opts.Stream)
	if err != nil {
		return fmt.Errorf("get stream: %w", err)
	}
	raw, err := st.GetMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get sequence %d: %w", seq, err)
	}
	m, err := unmarshaler{}.Unmarshal(&nats.Msg{Subject: raw.Subject, Header: raw.Header, Data: raw.Data})
	if err != nil {
		return err
	}
	m.Metadata[MetaSeq], m.Metadata[MetaAt] = strconv.FormatUint(seq, 10), raw.Time.UTC().Format(time.RFC3339Nano)
	m.Metadata[MetaDelivered] = "1"
	ctx, cancel := context.WithTimeout(ctx, r.opts.Timeout)
	defer cancel()
	return r.try(ctx, m)
}

// park parks a message that the reactor gave up on. A message that is not an event can't be parked.
func (r *Reactor) park(m *message.Message, attempts uint64, reason error) error {
	e, err := FromMessage(m)
	if r.opts.Parking == nil || err != nil {
		return nil //nolint:nilerr // the message is skipped for good; the caller calls GaveUp
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.opts.Timeout)
	defer cancel()
	return r.opts.Parking.put(ctx, Parked{
		Reactor: r.opts.Durable, Seq: e.Seq, Page: e.Page, Contact: e.Contact, Type: e.Type,
		Error: reason.Error(), Attempts: int(attempts), owner: ownerOf(e.Contact),
	})
}

// parkIfBlocked parks a message if an earlier event of its conversation is parked, and reports whether
// it did.
func (r *Reactor) parkIfBlocked(ctx context.Context, m *message.Message) (bool, error) {
	if r.opts.Parking == nil || r.opts.Unordered || r.opts.Parking.empty() {
		return false, nil
	}
	e, err := Envelope(m)
	if err != nil {
		return false, nil //nolint:nilerr // Handle decides about a message that is not an event
	}
	return r.opts.Parking.parkIfBlocked(ctx, r.opts.Durable, e)
}
