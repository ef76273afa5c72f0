package erase

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// nouns are those of the types whose events may have no contact and yet be about a person.
// Events of other types without a contact are about the page itself, or the read models
// have a state of them that an erasure would not change.
var nouns = []string{
	"account", "change", "delivery", "feedback", "foreign", "label", "lead", "live", "mention", "optin", "order", "postback",
	"rating", "referral",
}

// Filters returns subject filters for the events of a page, and for those of no page, which may be about its contacts too.
func Filters(page domain.PageID, types ...domain.Type) []string {
	if page == domain.NoPage {
		return streams.Filter(page, types...)
	}
	return slices.Concat(streams.Filter(page, types...), streams.Filter(domain.NoPage, types...))
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
// that is searched. What is written with escapes follows once more without them.
func text(e streams.Stored) (string, bool) {
	if e.Contact != "" || e.Data.Test || !slices.Contains(nouns, e.Type.Noun()) {
		return "", false
	}
	var body []byte
	if e.Data.Unreadable != nil {
		body = e.Data.Unreadable.Body
	} else if data, err := e.Data.Encode(); err == nil {
		body = data
	} else {
		return "", false
	}
	out := e.ID + " " + e.OriginalID + " " + string(body)
	for range maxEscaped {
		plain, changed := unescape(body)
		if !changed {
			break
		}
		body, out = plain, out+" "+string(plain)
	}
	return out, true
}

// maxEscaped is how often a text may have been written with escapes: JSON within a text of JSON is, twice.
const maxEscaped = 4

// unescape replaces the escapes of JSON, such as \n and \u0037, and those of forms, such as %22, by what they stand for. In
// front of an id, an escape would be read as letters or digits of it. An escape that is none is left as it is.
func unescape(b []byte) (plain []byte, changed bool) {
	if !bytes.ContainsAny(b, `\%`) {
		return b, false
	}
	plain = make([]byte, 0, len(b))
	for len(b) > 0 {
		n := 0
		switch {
		case b[0] == '%' && len(b) > 2:
			if c, err := strconv.ParseUint(string(b[1:3]), 16, 8); err == nil {
				plain, n = append(plain, byte(c)), 3
			}
		case b[0] == '\\' && len(b) > 5 && b[1] == 'u':
			if c, err := strconv.ParseUint(string(b[2:6]), 16, 16); err == nil {
				plain, n = utf8.AppendRune(plain, rune(c)), 6
			}
		case b[0] == '\\' && len(b) > 1:
			if i := strings.IndexByte(`"\/bfnrt`, b[1]); i >= 0 {
				plain, n = append(plain, "\"\\/\b\f\n\r\t"[i]), 2
			}
		}
		if changed = changed || n > 0; n == 0 {
			plain, n = append(plain, b[0]), 1
		}
		b = b[n:]
	}
	return plain, changed
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
	// contact were searched, duplicates whether the contact's own were too.
	searched   uint64
	duplicates bool
	// missing is the last one of the contact's events that the stream does not have.
	missing uint64
}

// remains reports whether read models still have something of the contact's events that the stream does not have: it has
// lost them, and no erasure has come after them.
func (f *finder) remains() (bool, error) {
	by, err := conversations.ErasedBy(f.model, f.page, f.contact)
	if err != nil {
		return false, fmt.Errorf("look for an earlier erasure: %w", err)
	}
	return f.missing > by, nil
}

// dropped reports whether the read model has left out events because they are duplicates. It has not recorded those for
// their contacts. Those of no page have none.
func (f *finder) dropped() (bool, error) {
	if f.page == domain.NoPage {
		return false, nil
	}
	var meta store.Meta
	err := f.model.View(func(tx *store.Tx) (err error) {
		meta, _, err = store.ReadMeta(tx)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("look for duplicates: %w", err)
	}
	return meta.Dropped > 0, nil
}

// next calls use with the contact's events that are in the stream, without those that an
// earlier call has found by their text. If there are duplicates in the stream, it reads all events of the page for that,
// so that it finds those of the contact.
func (f *finder) next(ctx context.Context, use func(streams.Stored) error) error {
	duplicates, err := f.dropped()
	if err != nil {
		return err
	}
	if duplicates && !f.duplicates {
		f.searched, f.duplicates = 0, true
	}
	recorded := map[uint64]bool{} // if there are duplicates
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
			if f.duplicates {
				recorded[seq] = true
			}
			e, err := f.get(ctx, seq)
			if errors.Is(err, streams.ErrNotFound) { // lost, deleted by hand, or erased just now
				f.missing = max(f.missing, seq)
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
	filters := Filters(f.page, types...)
	if f.duplicates {
		filters = slices.Concat(streams.Filter(f.page), streams.Filter(domain.NoPage, types...))
	}
	upto, err := streams.Read(ctx, f.js, streams.ReadOptions{
		Stream: streams.Name, From: f.searched + 1,
		Filters:   filters,
		Malformed: func(uint64, error) error { return nil },
	}, func(e streams.Stored) error {
		if f.duplicates && e.Page == f.page && e.Contact == f.contact && !recorded[e.Seq] && !e.Data.Test {
			return use(e)
		}
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
