package operate

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/erase"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/export"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/person"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/comments"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/streams"
)

// personBatch is how many rows are read at once.
const personBatch = 500

// PersonProgress is the progress of [Operator.ExportPerson]: the events written.
type PersonProgress struct {
	Events int `json:"events"`
}

// ExportPerson writes everything that is held on a contact to a new directory on the
// server's machine: what an erasure would remove. See [person.Write].
func (o *Operator) ExportPerson(ctx context.Context, page domain.PageID, contact domain.ContactID, dir string,
	progress func(PersonProgress),
) (person.Report, error) {
	r := person.Report{Page: page, Contact: contact, Hash: domain.ContactHash(contact), Created: time.Now().UTC()}
	if page == "" || contact == "" || dir == "" {
		return r, ErrRequest
	}
	head, err := streams.Last(ctx, o.JS, o.Stream)
	if err != nil {
		return r, err
	}
	for _, m := range o.Models {
		if err := m.WaitFor(ctx, head); err != nil {
			return r, err
		}
	}
	if err := o.describe(&r); err != nil {
		return r, err
	}
	if r.Receivers, err = o.receivers(ctx, page); err != nil {
		return r, err
	}
	n := 0
	return person.Write(person.Options{
		Dir: dir, Encode: export.Event, Kind: erase.KindOf,
		Events: func(f func(streams.Stored) error) error {
			return erase.Find(ctx, o.JS, o.Models.Conversations(), page, contact, func(e streams.Stored) error {
				if n++; n%personBatch == 0 {
					progress(PersonProgress{n})
				}
				return f(e)
			})
		},
		Complete: func(r *person.Report, seqs map[uint64]bool) (err error) {
			r.DeadLetters, err = o.deadLettersOf(seqs)
			return err
		},
	}, r)
}

// describe adds to a report what the read models have of the contact.
func (o *Operator) describe(r *person.Report) (err error) {
	if p, err := pages.Get(o.Models.Pages(), r.Page); err == nil {
		r.PageName = p.Name // only for reading
	}
	model := o.Models.Conversations()
	c, err := conversations.Get(model, r.Page, r.Contact)
	switch {
	case err == nil:
		r.Conversation = &c
	case !errors.Is(err, conversations.ErrNotFound) && !errors.Is(err, conversations.ErrErased):
		return err
	}
	if r.ErasedAt, _, err = conversations.ErasedAt(model, r.Page, r.Contact); err != nil {
		return err
	}
	for cursor, more := "", true; more; more = cursor != "" {
		var list []conversations.Message
		list, cursor, err = conversations.Messages(model, r.Page, r.Contact, cursor, personBatch, false)
		if err != nil {
			return err
		}
		r.Messages = append(r.Messages, list...)
	}
	for cursor, more := "", true; more; more = cursor != "" {
		var list []comments.Comment
		list, cursor, err = comments.List(o.Models.Comments(), r.Page, comments.Query{Contact: r.Contact},
			comments.Page{Cursor: cursor, Limit: personBatch})
		if err != nil {
			return err
		}
		r.Comments = append(r.Comments, list...)
	}
	return nil
}

// deadLettersOf returns the dead letters of read models, reactors and webhooks that are
// about the events.
func (o *Operator) deadLettersOf(seqs map[uint64]bool) (out []person.DeadLetter, err error) {
	for after := (projections.DeadLetter{}); ; {
		list, err := o.DeadLetters("", after, personBatch)
		if err != nil {
			return nil, err
		}
		if len(list) == 0 {
			break
		}
		for _, d := range list {
			if seqs[d.Seq] {
				out = append(out, person.DeadLetter{Part: d.Projection, Seq: d.Seq})
			}
		}
		after = list[len(list)-1]
	}
	if o.Hooks == nil {
		return out, nil
	}
	for _, s := range o.Hooks.Status() {
		for after := uint64(0); ; {
			list, err := o.Hooks.DeadLetters(s.Name, after, personBatch)
			if err != nil {
				return nil, err
			}
			if len(list) == 0 {
				break
			}
			for _, d := range list {
				if seqs[d.Seq] {
					out = append(out, person.DeadLetter{Part: s.Name, Seq: d.Seq})
				}
			}
			after = list[len(list)-1].Seq
		}
	}
	return out, nil
}

// consumersOf returns the names of the consumers that get events of a page.
func (o *Operator) consumersOf(ctx context.Context, page domain.PageID) (names []string, err error) {
	list, err := o.Consumers.List(ctx)
	for _, c := range list {
		if c.All || slices.Contains(c.Pages, page) || slices.Contains(c.Known, page) {
			names = append(names, c.Name)
		}
	}
	return names, err
}

// receivers returns the names of the consumers and webhooks that get events of a page.
func (o *Operator) receivers(ctx context.Context, page domain.PageID) ([]string, error) {
	names, err := o.consumersOf(ctx, page)
	if err != nil || o.Hooks == nil {
		return names, err
	}
	more, err := o.Hooks.Receivers(page)
	return append(names, more...), err
}
