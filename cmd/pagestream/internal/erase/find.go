package erase

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/streams"
)

// nouns are those of the types whose events may have no contact and yet be about a person.
// Events of other types without a contact are about the page itself, or the read models
// have a state of them that an erasure would not change.
var nouns = []string{
	"change", "delivery", "feedback", "foreign", "label", "lead", "live", "mention", "optin", "order", "rating", "referral",
}

// scanned returns the types whose events are searched for a contact's id.
func scanned() (types []domain.Type) {
	for _, t := range domain.Types() {
		if slices.Contains(nouns, t.Noun()) {
			types = append(types, t)
		}
	}
	return types
}

// text returns all of an event in which an id may be, and false if the event is not one
// that is searched.
func text(e streams.Stored) (string, bool) {
	if e.Contact != "" || e.Data.Test || !slices.Contains(nouns, e.Type.Noun()) {
		return "", false
	}
	out := e.ID + " " + e.OriginalID
	if e.Data.Unreadable != nil {
		return out + " " + string(e.Data.Unreadable.Body), true
	}
	data, err := e.Data.Encode()
	return out + " " + string(data), err == nil
}

// mentions reports whether an event without a contact mentions one.
func mentions(e streams.Stored, c domain.ContactID) bool {
	s, ok := text(e)
	return ok && domain.Mentions(s, c)
}

// mentionsHash is mentions for the hash of a contact.
func mentionsHash(e streams.Stored, hash string) bool {
	s, ok := text(e)
	return ok && domain.MentionsHash(s, hash)
}

// IDs returns what may be the id of the contact that an event is of, or that it mentions:
// all that an erasure of that contact would find.
func IDs(e streams.Stored) iter.Seq[domain.ContactID] {
	return func(yield func(domain.ContactID) bool) {
		for _, id := range []domain.ContactID{
			e.Contact, domain.ContactID(e.Data.Sender), domain.ContactID(e.Data.Recipient),
		} {
			if id != "" && !yield(id) {
				return
			}
		}
		if s, ok := text(e); ok {
			domain.IDs(s)(yield)
		}
	}
}

// Find calls f with each event of a contact on a page that an erasure would remove, first
// those that have the contact and then those that mention it, both in the order of the
// stream. The read model of conversations must be at the stream's head.
func Find(ctx context.Context, js jetstream.JetStream, model projections.Viewer, page domain.PageID,
	contact domain.ContactID, f func(streams.Stored) error,
) error {
	get, err := streams.Getter(ctx, js, streams.Name)
	if err != nil {
		return err
	}
	x := finder{js: js, model: model, page: page, contact: contact, get: get}
	return x.next(ctx, f)
}

// finder finds the events of a contact.
type finder struct {
	js      jetstream.JetStream
	model   projections.Viewer
	page    domain.PageID
	contact domain.ContactID
	get     getter
	// searched is the last sequence of the stream up to which events that mention the
	// contact were searched.
	searched uint64
}

// next calls use with the contact's events that are in the stream, without those that an
// earlier call has found by their text.
func (f *finder) next(ctx context.Context, use func(streams.Stored) error) error {
	for after := uint64(0); ; {
		seqs, err := conversations.EventsOf(f.model, f.page, f.contact, after, partSize)
		if err != nil {
			return fmt.Errorf("find events: %w", err)
		}
		if len(seqs) == 0 {
			break
		}
		for _, seq := range seqs {
			after = seq
			e, err := f.get(ctx, seq)
			if errors.Is(err, streams.ErrNotFound) { // deleted manually
				continue
			}
			if err != nil {
				return fmt.Errorf("read event: %w", err)
			}
			if err := use(e); err != nil {
				return err
			}
		}
	}
	types := scanned()
	upto, err := streams.Read(ctx, f.js, streams.ReadOptions{
		Stream: streams.Name, From: f.searched + 1,
		Filters:   slices.Concat(streams.Filter(f.page, types...), streams.Filter(domain.NoPage, types...)),
		Malformed: func(uint64, error) error { return nil },
	}, func(e streams.Stored) error {
		if mentions(e, f.contact) && mentionsHash(e, domain.ContactHash(f.contact)) {
			return use(e)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("search events: %w", err)
	}
	f.searched = upto
	return nil
}
