package erase

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/conversations"
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
	// done in time. It goes on in the background.
	ErrUnfinished = errors.New("erasure is recorded and goes on in the background")
)

const (
	// partSize bounds the tombstones in one event: about 150 bytes each.
	partSize = 2000
	// rounds bounds how often Erase looks for events that arrived in the meantime.
	rounds = 5
	// poll is how often the stream is checked for the deletion of an event.
	poll = 20 * time.Millisecond
	// deleteTimeout bounds the deletion of one part.
	deleteTimeout = 2 * time.Minute
	// maxDeliver is how often the deletion of a part is tried: for about a day.
	maxDeliver = 300
)

// Options configure an [Eraser]. All but Parking, Copies and Logger are required.
type Options struct {
	JS jetstream.JetStream
	// Connect returns a connection that only the reactor uses.
	Connect func() (*nats.Conn, error)
	// Parking stores the events that the reactor gives up; if nil, they are only
	// logged.
	Parking       *streams.Parking
	Publisher     streams.Storer
	Conversations *projections.Runner
	// Copies deletes the events that a contact.erased event lists from where they were
	// copied to. It must be idempotent.
	Copies func(ctx context.Context, e domain.Event) error
	Logger *slog.Logger
}

// Eraser erases contacts. Make one with [New]; it is safe for concurrent use.
type Eraser struct{ opts Options }

// New returns an eraser. Recorded erasures are only carried out while Run runs on
// some node.
func New(o Options) *Eraser {
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	return &Eraser{o}
}

// Result is the result of an erasure.
type Result struct {
	// Events is the number of events deleted from the stream.
	Events int `json:"events"`
	// Seq is the sequence of the last event that records the erasure, 0 if there was
	// nothing to erase.
	Seq uint64 `json:"seq"`
}

// Erase removes every event of the contact on this page, and returns when they
// are deleted from the stream. It does not affect other pages, on which the person
// has another id.
//
// It is idempotent, and may be repeated after an error. Later events of the contact
// that are newer than the erasure start a new conversation. It fails with
// [ErrRequest], [ErrBusy] or [ErrUnfinished].
func (x *Eraser) Erase(ctx context.Context, page domain.PageID, contact domain.ContactID) (Result, error) {
	var out Result
	if page == "" || page == domain.NoPage || contact == "" {
		return out, ErrRequest
	}
	head, err := streams.Last(ctx, x.opts.JS, streams.Name)
	if err != nil {
		return out, err
	}
	get, err := streams.Getter(ctx, x.opts.JS, streams.Name)
	if err != nil {
		return out, err
	}
	for range rounds {
		if err := x.opts.Conversations.WaitFor(ctx, head); err != nil {
			return out, err
		}
		tombstones, err := x.tombstones(ctx, get, page, contact)
		if err != nil {
			return out, err
		}
		if len(tombstones) == 0 {
			return out, x.deleteRecorded(ctx, page, contact)
		}
		if head, err = x.record(ctx, page, contact, tombstones); err != nil {
			return out, err
		}
		out.Seq = head
		for _, h := range tombstones {
			if err := waitDeleted(ctx, get, h.Seq); err != nil {
				return out, fmt.Errorf("%w: %w", ErrUnfinished, err)
			}
			out.Events++
		}
	}
	return out, ErrBusy
}

// getter returns the event at a sequence.
type getter func(context.Context, uint64) (streams.Stored, error)

// tombstones returns the tombstones of the contact's events, which remain after the
// erasure.
func (x *Eraser) tombstones(ctx context.Context, get getter, page domain.PageID, contact domain.ContactID) (
	tombstones []domain.Tombstone, err error,
) {
	for after := uint64(0); ; {
		seqs, err := conversations.EventsOf(x.opts.Conversations, page, contact, after, partSize)
		if err != nil {
			return nil, fmt.Errorf("find events: %w", err)
		}
		if len(seqs) == 0 {
			return tombstones, nil
		}
		for _, seq := range seqs {
			e, err := get(ctx, seq)
			switch {
			case errors.Is(err, streams.ErrNotFound): // deleted manually
			case err != nil:
				return nil, fmt.Errorf("read event: %w", err)
			default:
				tombstones = append(tombstones, domain.NewTombstone(e.Event, e.Seq, e.At))
			}
			after = seq
		}
	}
}

// record stores the contact.erased events, and returns the sequence of the last one.
func (x *Eraser) record(ctx context.Context, page domain.PageID, contact domain.ContactID,
	tombstones []domain.Tombstone,
) (uint64, error) {
	now, hash := time.Now().UTC(), domain.ContactHash(contact)
	parts := slices.Collect(slices.Chunk(tombstones, partSize))
	events := make([]domain.Event, len(parts))
	for i, list := range parts {
		key := hash + ":" + strconv.FormatUint(list[0].Seq, 10) + ":" + strconv.FormatUint(list[len(list)-1].Seq, 10)
		events[i] = domain.Event{
			ID:   domain.DedupID("pagestream", page, string(domain.ContactErased), key),
			Type: domain.ContactErased, Page: page, Time: now,
			Data: domain.Data{Erasure: &domain.Erasure{Contact: hash, Part: i + 1, Parts: len(parts), Events: list}},
		}
	}
	receipts, err := x.opts.Publisher.Publish(ctx, events)
	if err != nil {
		return 0, fmt.Errorf("record erasure: %w", err)
	}
	return receipts[len(parts)-1].Seq, nil
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

// deleteRecorded carries out the recorded erasures of this contact, in case the
// reactor has given them up.
func (x *Eraser) deleteRecorded(ctx context.Context, page domain.PageID, contact domain.ContactID) error {
	_, err := streams.Read(ctx, x.opts.JS, streams.ReadOptions{
		Stream: streams.Name, Filters: streams.Filter(page, domain.ContactErased),
		Malformed: func(uint64, error) error { return nil },
	}, func(e streams.Stored) error {
		if d := e.Data.Erasure; d == nil || d.Contact != domain.ContactHash(contact) {
			return nil
		}
		return x.Handle(ctx, e)
	})
	return err
}

// Run carries out recorded erasures until the context ends, and then returns nil. If
// several nodes run it, they share the work.
func (x *Eraser) Run(ctx context.Context) error {
	return streams.NewReactor(streams.ReactorOptions{
		Connect: x.opts.Connect, Stream: streams.Name,
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
	n, err := streams.Erase(ctx, x.opts.JS, streams.Name, seqs, func(s streams.Stored) bool {
		ok := s.Page == e.Page && domain.ContactHash(s.Contact) == d.Contact
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
