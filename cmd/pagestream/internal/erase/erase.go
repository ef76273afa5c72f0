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
	// ErrRequest says that it names no page or no contact.
	ErrRequest = errors.New("erasure names no page or no contact")
	// ErrBusy says that events of the contact kept coming. What was there is
	// erased; try again.
	ErrBusy = errors.New("new events of the contact keep coming; try again")
	// ErrUnfinished says that the erasure is on record and goes on by itself,
	// but was not done in time.
	ErrUnfinished = errors.New("erasure is recorded and goes on in the background")
)

const (
	// partSize bounds the tombstones in one event: some 150 bytes each.
	partSize = 2000
	// rounds bounds how often events that came meanwhile are erased as well.
	rounds = 5
	// poll is how often the stream is asked whether an event is gone.
	poll = 20 * time.Millisecond
	// deleteTimeout bounds the deletion of one part.
	deleteTimeout = 2 * time.Minute
	// maxDeliver is how often a part is tried: for about a day.
	maxDeliver = 300
)

// Options configure an [Eraser]. All but Parking and Logger are required.
type Options struct {
	JS jetstream.JetStream
	// Connect returns a connection for the reactor alone.
	Connect func() (*nats.Conn, error)
	// Parking keeps what is given up; nil only logs it.
	Parking       *streams.Parking
	Publisher     streams.Storer
	Conversations *projections.Runner
	Logger        *slog.Logger
}

// Eraser erases contacts. Make one with [New]; it is safe for concurrent use.
type Eraser struct{ opts Options }

// New returns an eraser. What it records is only carried out where one is Run.
func New(o Options) *Eraser {
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	return &Eraser{o}
}

// Result is what was erased.
type Result struct {
	// Events is how many events are gone from the stream.
	Events int `json:"events"`
	// Seq is that of the last event that records it, 0 where there was nothing.
	Seq uint64 `json:"seq"`
}

// Erase removes every event of the contact on this page, and returns when they
// are gone from the stream. Other pages know the person by another id.
//
// It may be repeated, also after an error: what is done stays done. Events that
// come later, and are newer than the erasure, begin a new conversation.
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
			return out, x.finish(ctx, page, contact)
		}
		if head, err = x.record(ctx, page, contact, tombstones); err != nil {
			return out, err
		}
		out.Seq = head
		for _, h := range tombstones {
			if err := gone(ctx, get, h.Seq); err != nil {
				return out, fmt.Errorf("%w: %w", ErrUnfinished, err)
			}
			out.Events++
		}
	}
	return out, ErrBusy
}

// getter gives the event at a sequence.
type getter func(context.Context, uint64) (streams.Stored, error)

// tombstones is what will stay of the contact's events.
func (x *Eraser) tombstones(ctx context.Context, get getter, page domain.PageID, contact domain.ContactID) (tombstones []domain.Tombstone, err error) {
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
			case errors.Is(err, streams.ErrNotFound): // deleted by somebody's hand
			case err != nil:
				return nil, fmt.Errorf("read event: %w", err)
			default:
				tombstones = append(tombstones, domain.NewTombstone(e.Event, e.Seq, e.At))
			}
			after = seq
		}
	}
}

// record stores what is erased, and returns the sequence of the last of it.
func (x *Eraser) record(ctx context.Context, page domain.PageID, contact domain.ContactID, tombstones []domain.Tombstone) (uint64, error) {
	now, hash := time.Now().UTC(), domain.ContactHash(contact)
	parts := slices.Collect(slices.Chunk(tombstones, partSize))
	events := make([]domain.Event, len(parts))
	for i, list := range parts {
		key := hash + ":" + strconv.FormatUint(list[0].Seq, 10) + ":" + strconv.FormatUint(list[len(list)-1].Seq, 10)
		events[i] = domain.Event{
			ID: domain.DedupID("pagestream", page, string(domain.ContactErased), key), Type: domain.ContactErased, Page: page, Time: now,
			Data: domain.Data{Erasure: &domain.Erasure{Contact: hash, Part: i + 1, Parts: len(parts), Events: list}},
		}
	}
	receipts, err := x.opts.Publisher.Publish(ctx, events)
	if err != nil {
		return 0, fmt.Errorf("record erasure: %w", err)
	}
	return receipts[len(parts)-1].Seq, nil
}

// gone waits until the stream has no event at seq.
func gone(ctx context.Context, get getter, seq uint64) error {
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

// finish carries out what is recorded of this contact, in case that the reactor
// has given it up.
func (x *Eraser) finish(ctx context.Context, page domain.PageID, contact domain.ContactID) error {
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

// Run carries out what is recorded, until the context ends, which is no error.
// On several nodes they share the work.
func (x *Eraser) Run(ctx context.Context) error {
	return streams.NewReactor(streams.ReactorOptions{
		Connect: x.opts.Connect, Stream: streams.Name,
		Filter: streams.Filter("", domain.ContactErased)[0], Durable: "erase",
		Handle: streams.OnEvent(x.Handle), Timeout: deleteTimeout, MaxDeliver: maxDeliver,
		Parking: x.opts.Parking,
		GaveUp: func(m *message.Message, err error) {
			x.opts.Logger.Error("erased events can't be deleted from the stream; type: pagestream erase, once more",
				"seq", m.Metadata[streams.MetaSeq], "err", err)
		},
		Logger: x.opts.Logger,
	}).Run(ctx)
}

// Handle deletes what an erasure lists. It may be repeated. An event that is not
// the contact's is never deleted, whatever is listed.
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
			x.opts.Logger.Error("erasure lists an event of somebody else; it is left alone", "seq", s.Seq, "erasure", e.Seq)
		}
		return ok
	})
	if n > 0 {
		x.opts.Logger.Info("events of an erased contact deleted", "page", e.Page, "events", n, "seq", e.Seq)
	}
	return err
}
