package erase

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/streams"
)

// Errors of [Eraser.Erase].
var (
	// ErrRequest is returned when the request names no page or no contact.
	ErrRequest = errors.New("erasure names no page or no contact")
	// ErrBusy is returned when new events of the contact kept arriving. The events
	// found so far are erased; the caller must try again.
	ErrBusy = errors.New("new events of the contact keep arriving; try again")
	// ErrUnfinished is returned when the erasure is recorded but the deletion was not
	// done in time. It goes on in the background; what other files have of the events is
	// removed by the next call.
	ErrUnfinished = errors.New("erasure is recorded and goes on in the background; erase again to see it finished")
	// ErrLeft is returned when the events are deleted, but bytes of them may be left in
	// other files. The caller must try again.
	ErrLeft = errors.New("the events are erased, but copies of them may be left in files; erase again")
)

const (
	// partSize bounds the tombstones in one event: about 150 bytes each.
	partSize = 2000
	// rounds bounds how often Erase looks for events that arrived in the meantime.
	rounds = 5
	// poll is how often the stream is checked for the deletion of an event.
	poll = 20 * time.Millisecond
	// grace is how long Erase waits for the deletion of one event before it carries out the erasure itself. The reactor
	// may be busy with a large erasure, or may not be given the record for some minutes because a process that was given
	// the ones before was killed.
	grace = 2 * time.Second
	// deleteTimeout bounds the deletion of one part.
	deleteTimeout = 2 * time.Minute
	// maxDeliver is how often the deletion of a part is tried: for about a day.
	maxDeliver = 300
)

// Journal has events that are not in the stream yet, and copies of those that are.
type Journal interface {
	// Flush waits until all that were stored before are in the stream.
	Flush(ctx context.Context) error
	// Erase does what [streams.Erase] does, also in the journal, and makes it durable.
	Erase(ctx context.Context, seqs []uint64, match func(streams.Stored) bool) (deleted int, err error)
}

// eraseEvents deletes events from the stream, durably; j may be nil.
func eraseEvents(
	ctx context.Context, js jetstream.JetStream, j Journal, seqs []uint64, match func(streams.Stored) bool,
) (int, error) {
	if j == nil {
		return streams.Erase(ctx, js, streams.Name, seqs, match)
	}
	return j.Erase(ctx, seqs, match)
}

// Options configure an [Eraser]. JS, Connect, Publisher and Conversations are required.
type Options struct {
	JS jetstream.JetStream
	// Journal is nil if the stream has none.
	Journal Journal
	// Connect returns a connection that only the reactor uses.
	Connect       func() (*nats.Conn, error)
	Publisher     streams.Storer
	Conversations *projections.Runner
	// Recorded, if not nil, is called before an erasure is recorded in the stream. If it
	// fails, nothing is erased.
	Recorded func(meta.Erasure) error
	// Copies deletes the events that a contact.erased event lists from where they were
	// copied to. It must be idempotent.
	Copies func(ctx context.Context, e domain.Event) error
	Kept
	Logger *slog.Logger

	// part bounds the tombstones in one event. It is partSize unless a test sets it.
	part int
}

// Eraser erases contacts. Make one with [New]; it is safe for concurrent use.
type Eraser struct{ opts Options }

// New returns an eraser. Recorded erasures whose Erase has not ended are only carried out while Run runs on
// some node.
func New(o Options) *Eraser {
	o.Logger, o.part = cmp.Or(o.Logger, slog.New(slog.DiscardHandler)), cmp.Or(o.part, partSize)
	return &Eraser{o}
}

// Result is the result of an erasure.
type Result struct {
	// Events is the number of events deleted from the stream.
	Events int `json:"events"`
	// Seq is the sequence of the last event that records the erasure, 0 if there was
	// nothing to erase.
	Seq uint64 `json:"seq"`
	// Kinds has the number of deleted events by what they are: message, reaction, comment.
	Kinds map[string]int `json:"kinds,omitempty"`
	// DeadLetters is the number of dead letters of read models, reactors and webhooks
	// that were removed, Copies that of events that waited for consumers.
	DeadLetters int `json:"dead_letters,omitempty"`
	Copies      int `json:"copies,omitempty"`
	// Consumers and Hooks are the names of the consumers and webhook endpoints that
	// may have received events of the contact.
	Consumers []string `json:"consumers,omitempty"`
	Hooks     []string `json:"hooks,omitempty"`
}

// Erase removes every event of the contact on this page, and what is kept of them in
// other files. It returns when their bytes are in no file of this process any more. It
// does not affect other pages, on which the person has another id.
//
// It also removes the events without a contact that mention the id ([domain.Mentions]), of this
// page and of [domain.NoPage]. So the id may be that of a lead too.
//
// It is idempotent, and may be repeated after an error. Later events of the contact
// that are newer than the erasure start a new conversation. It fails with
// [ErrRequest], [ErrBusy], [ErrUnfinished] or [ErrLeft].
//
// With [domain.NoPage] it removes only the events of no page that mention the id.
func (x *Eraser) Erase(ctx context.Context, page domain.PageID, contact domain.ContactID) (Result, error) {
	var out Result
	if page == "" || contact == "" {
		return out, ErrRequest
	}
	head, err := x.head(ctx)
	if err != nil {
		return out, err
	}
	get, err := streams.Getter(ctx, x.opts.JS, streams.Name)
	if err != nil {
		return out, err
	}
	f := finder{js: x.opts.JS, model: x.opts.Conversations, page: page, contact: contact, get: get}
	settled := false
	for range rounds {
		if err := x.opts.Conversations.WaitFor(ctx, head); err != nil {
			return out, err
		}
		var found []erasable
		err := f.next(ctx, func(e streams.Stored) error {
			found = append(found, erasable{e.Page, domain.NewTombstone(e.Event, e.Seq, e.At)})
			return nil
		})
		if err != nil {
			return out, err
		}
		remains, err := f.remains()
		if err != nil {
			return out, err
		}
		if len(found) == 0 && !remains {
			err := x.finish(ctx, page, contact, &out)
			return out, err
		}
		if len(found) == 0 && !settled { // another call may have erased them just now
			settled = true
			if head, err = x.head(ctx); err != nil {
				return out, err
			}
			continue
		}
		if !remains {
			f.missing = 0
		}
		if x.opts.Recorded != nil {
			e := meta.Erasure{Time: time.Now().UTC(), Page: page, Contact: domain.ContactHash(contact)}
			if err := x.opts.Recorded(e); err != nil {
				return out, err
			}
		}
		if out.DeadLetters += x.parked(found); out.Kinds == nil {
			out.Kinds = map[string]int{}
		}
		recorded, err := x.record(ctx, page, contact, found, f.missing)
		if err != nil {
			return out, err
		}
		out.Seq = recorded[len(recorded)-1].Seq
		deleted, err := x.carryOut(ctx, get, recorded, found)
		for _, e := range found[:deleted] {
			out.Events++
			out.Kinds[KindOf(e.Type)]++
		}
		if err != nil {
			return out, fmt.Errorf("%w: %w", ErrUnfinished, err)
		}
		// What was stored because of the events before these were deleted is in the stream by now.
		if head, err = x.head(ctx); err != nil {
			return out, err
		}
	}
	return out, ErrBusy
}

// head returns the sequence of the last event that is stored, also if it was in the journal only.
func (x *Eraser) head(ctx context.Context) (uint64, error) {
	if x.opts.Journal != nil {
		if err := x.opts.Journal.Flush(ctx); err != nil {
			return 0, err
		}
	}
	return streams.Last(ctx, x.opts.JS, streams.Name)
}

// KindOf returns what an event of the type is for a person: the noun of the type, and for
// some types a name of their own.
func KindOf(t domain.Type) string {
	switch t {
	case domain.MessageReacted:
		return "reaction"
	case domain.MessageDelivered, domain.MessageRead:
		return "receipt"
	case domain.ContactProfiled:
		return "profile"
	}
	return t.Noun()
}

// erasable is the tombstone of an event that is to be erased, which remains after that.
type erasable struct {
	page domain.PageID
	domain.Tombstone
}

// getter returns the event at a sequence.
type getter func(context.Context, uint64) (streams.Stored, error)

// parked returns how many of the events are dead letters of read models. The erasure
// removes them.
func (x *Eraser) parked(found []erasable) (n int) {
	seqs := make(map[uint64]bool, len(found))
	for _, e := range found {
		seqs[e.Seq] = true
	}
	for _, m := range x.opts.Models {
		if m.Status().Parked == 0 {
			continue
		}
		for after := (projections.DeadLetter{}); ; {
			list, err := m.DeadLetters(after, partSize)
			if err != nil || len(list) == 0 {
				break // only the number is missing
			}
			for _, d := range list {
				if seqs[d.Seq] {
					n++
				}
			}
			after = list[len(list)-1]
		}
	}
	return n
}

// record stores the contact.erased events, and returns them in order. If missing is not 0, the stream has lost events of the
// contact up to that one: read models remove what they have of these by an event of the page that may list no other.
func (x *Eraser) record(
	ctx context.Context, page domain.PageID, contact domain.ContactID, found []erasable, missing uint64,
) ([]streams.Stored, error) {
	now, hash := time.Now().UTC(), domain.ContactHash(contact)
	byPage := map[domain.PageID][]domain.Tombstone{}
	if missing > 0 {
		byPage[page] = nil
	}
	for _, e := range found {
		byPage[e.page] = append(byPage[e.page], e.Tombstone)
	}
	var events []domain.Event
	for _, page := range slices.Sorted(maps.Keys(byPage)) {
		parts := slices.Collect(slices.Chunk(byPage[page], x.opts.part))
		if len(parts) == 0 {
			parts = [][]domain.Tombstone{nil}
		}
		for i, list := range parts {
			first, last := missing, missing
			if len(list) > 0 {
				first, last = list[0].Seq, list[len(list)-1].Seq
			}
			key := hash + ":" + strconv.FormatUint(first, 10) + ":" + strconv.FormatUint(last, 10)
			events = append(events, domain.Event{
				ID:   domain.DedupID("pagestream", page, string(domain.ContactErased), key),
				Type: domain.ContactErased, Page: page, Time: now,
				Data: domain.Data{Erasure: &domain.Erasure{Contact: hash, Part: i + 1, Parts: len(parts), Events: list}},
			})
		}
	}
	receipts, err := x.opts.Publisher.Publish(ctx, events)
	if err != nil {
		return nil, fmt.Errorf("record erasure: %w", err)
	}
	recorded := make([]streams.Stored, len(events))
	for i, e := range events {
		recorded[i] = streams.Stored{Event: e, Seq: receipts[i].Seq}
	}
	return recorded, nil
}

// carryOut waits until the reactor of some node has deleted the events, and carries out the records itself if that takes
// too long. It returns how many of the events are deleted for certain, from the first one on.
func (x *Eraser) carryOut(ctx context.Context, get getter, recorded []streams.Stored, found []erasable) (int, error) {
	for i, e := range found {
		patient, cancel := context.WithTimeout(ctx, grace)
		err := waitDeleted(patient, get, e.Seq)
		late := patient.Err() != nil && ctx.Err() == nil
		cancel()
		if late {
			for _, r := range recorded {
				if err := x.Handle(ctx, r); err != nil {
					return i, err
				}
			}
			recorded = nil // once is enough
			err = waitDeleted(ctx, get, e.Seq)
		}
		if err != nil {
			return i, err
		}
	}
	return len(found), nil
}

// waitDeleted waits until the stream has no event at seq.
func waitDeleted(ctx context.Context, get getter, seq uint64) error {
	for {
		_, err := get(ctx, seq)
		if errors.Is(err, streams.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := backoff.Sleep(ctx, poll); err != nil {
			return err
		}
	}
}

// finish carries out the recorded erasures of this contact, in case the reactor has given
// them up, and removes what other files have of the erased events.
func (x *Eraser) finish(ctx context.Context, page domain.PageID, contact domain.ContactID, out *Result) error {
	hash := domain.ContactHash(contact)
	found, err := x.repeat(ctx, Filters(page, domain.ContactErased), func(e streams.Stored) bool {
		return e.Data.Erasure.Contact == hash
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnfinished, err)
	}
	if found.last == 0 { // the stream knows nothing of the contact; what was damaged may have something
		if _, err := eraseEvents(ctx, x.opts.JS, x.opts.Journal, nil, nil); err != nil {
			return fmt.Errorf("%w: %w", ErrLeft, err)
		}
	}
	deadLetters, copies, err := x.opts.clean(ctx, x.opts.JS, found, page, contact)
	out.DeadLetters += deadLetters
	out.Copies += copies
	if err != nil {
		return fmt.Errorf("%w: %w", ErrLeft, err)
	}
	return nil
}

// Repeat carries out once more the recorded erasures for which match returns true, and removes what other files have of
// the events. It is called with each record. A restored installation may have what they list: the copies were made before.
func (x *Eraser) Repeat(ctx context.Context, match func(record streams.Stored) bool) error {
	found, err := x.repeat(ctx, streams.Filter("", domain.ContactErased), match)
	if err != nil || found.last == 0 {
		return err
	}
	if _, _, err := x.opts.clean(ctx, x.opts.JS, found, "", ""); err != nil {
		return fmt.Errorf("remove copies of erased events: %w", err)
	}
	return nil
}

// repeat carries out the recorded erasures that match, and returns what they list. The reactor may have given them up, or
// deleted the events and not overwritten them yet.
func (x *Eraser) repeat(ctx context.Context, filters []string, match func(streams.Stored) bool) (listed, error) {
	found := newListed()
	last, err := streams.Read(ctx, x.opts.JS, streams.ReadOptions{
		Stream: streams.Name, Filters: filters, Malformed: func(uint64, error) error { return nil },
	}, func(e streams.Stored) error {
		if e.Data.Erasure == nil || !match(e) {
			return nil
		}
		found.add(e)
		return x.Handle(ctx, e)
	})
	if err != nil {
		return found, fmt.Errorf("carry out recorded erasures: %w", err)
	}
	if found.last > 0 {
		found.last = last
	}
	return found, nil
}

// Run carries out recorded erasures until the context ends, and then returns nil. If
// several nodes run it, they share the work.
func (x *Eraser) Run(ctx context.Context) error {
	return streams.NewReactor(streams.ReactorOptions{
		Connect: x.opts.Connect, Domain: x.opts.JS.Options().Domain, Stream: streams.Name,
		Filter: streams.Filter("", domain.ContactErased)[0], Durable: "erase",
		Handle: streams.OnEvent(x.Handle), Timeout: deleteTimeout, MaxDeliver: maxDeliver,
		Parking: x.opts.Parking,
		GaveUp: func(m *message.Message, err error) {
			x.opts.Logger.Error("erased events can't be deleted from the stream; run pagestream erase again",
				"seq", m.Metadata[streams.MetaSeq], "err", err)
		},
		Logger: x.opts.Logger,
	}).Run(ctx)
}

// Handle deletes the events that an erasure lists. It is idempotent. An event of
// another contact is never deleted, even if it is listed.
func (x *Eraser) Handle(ctx context.Context, e streams.Stored) error {
	d := e.Data.Erasure
	if e.Type != domain.ContactErased || d == nil {
		return nil
	}
	seqs := make([]uint64, 0, len(d.Events))
	for _, h := range d.Events {
		if h.Seq < e.Seq {
			seqs = append(seqs, h.Seq)
		}
	}
	n, err := eraseEvents(ctx, x.opts.JS, x.opts.Journal, seqs, func(s streams.Stored) bool {
		ok := s.Page == e.Page && (domain.ContactHash(s.Contact) == d.Contact || mentionsHash(s, d.Contact))
		if !ok {
			x.opts.Logger.Error("erasure lists an event of another contact; it is not deleted", "seq", s.Seq, "erasure", e.Seq)
		}
		return ok
	})
	if n > 0 {
		x.opts.Logger.Info("events of an erased contact deleted", "page", e.Page, "events", n, "seq", e.Seq)
	}
	if x.opts.Copies != nil {
		err = errors.Join(err, x.opts.Copies(ctx, e.Event))
	}
	return err
}
