package meta

import (
	"context"
	"fmt"
	"slices"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/internal/nearest"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/streams"
)

// internalNouns are the nouns of the events about pagestream's own work. They are
// selected only if their types are named.
var internalNouns = []string{"page", "subscription"}

// Selection says which events of the stream somebody gets: a consumer, an endpoint of
// webhooks, or the reader of a company's feed. Make one with [Select].
type Selection struct {
	all     bool
	pages   []domain.PageID // sorted
	company string
	types   []domain.Type
}

// Select returns a selection of the events of all pages, or of the pages that are named
// and those of a company; an empty company is none. An Instagram account is a page of
// its own: it is selected if it is named, or if the company has it. Without types, every
// type is selected but those about pagestream's own work.
func Select(all bool, ids []domain.PageID, company string, types []domain.Type) Selection {
	return Selection{all: all, pages: slices.Sorted(slices.Values(ids)), company: company, types: slices.Clone(types)}
}

// Received returns the types of the events that somebody gets who keeps what they receive and has named some types: those,
// and contact.erased, which says what must not be kept. No types are every type.
func Received(named []domain.Type) []domain.Type {
	if len(named) == 0 || slices.Contains(named, domain.ContactErased) {
		return named
	}
	return append(slices.Clip(named), domain.ContactErased)
}

// Selectable reports whether events of a type can be selected. What another app says of
// a page is nobody's event.
func Selectable(t domain.Type) bool { return t.Known() && t != domain.ForeignReceived }

// ByOwner reports whether the selection depends on who events belong to. If not, Wants
// ignores the owner.
func (s Selection) ByOwner() bool { return s.company != "" && !s.all }

// WantsType reports whether the selection has events of the type.
func (s Selection) WantsType(t domain.Type) bool {
	switch {
	case t == domain.ForeignReceived:
		return false
	case len(s.types) > 0:
		return slices.Contains(s.types, t)
	}
	return !slices.Contains(internalNouns, t.Noun())
}

// Wants reports whether the selection has the event, which belonged to owner at its
// sequence; see [pages.Owner]. It does not look at the data.
func (s Selection) Wants(e streams.Stored, owner pages.Ownership) bool {
	if !s.WantsType(e.Type) {
		return false
	}
	if s.all {
		return true
	}
	if _, named := slices.BinarySearch(s.pages, e.Page); named {
		return true
	}
	return s.company != "" && owner.Company == s.company
}

// PagesModel is the read model of pages, which knows who an event belongs to.
type PagesModel interface {
	projections.Viewer
	WaitFor(ctx context.Context, seq uint64) error
}

// Owners returns who each of the messages belongs to, in their order, for [Selection.Wants]. It is empty for those
// that the selection does not have in any case. If the selection depends on owners, it waits until the read
// model has applied the last of the messages, so that the answers are final.
func (s Selection) Owners(ctx context.Context, model PagesModel, list []streams.Message) ([]pages.Ownership, error) {
	out := make([]pages.Ownership, len(list))
	if !s.ByOwner() || len(list) == 0 {
		return out, nil
	}
	if err := model.WaitFor(ctx, list[len(list)-1].Seq); err != nil {
		return nil, fmt.Errorf("wait for read model of pages: %w", err)
	}
	err := pages.Owners(model, func(owner pages.OwnerFunc) (err error) {
		for i, m := range list {
			if m.Malformed != nil || !s.WantsType(m.Type) {
				continue
			}
			if out[i], err = owner(m.Page, m.Seq); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find owners of events: %w", err)
	}
	return out, nil
}

// UnknownType says that a name is no event type, and which one is similar.
func UnknownType(t domain.Type) string {
	similar := nearest.Name(t, domain.Types())
	if similar == "" {
		similar = domain.MessageReceived
	}
	return fmt.Sprintf("%.64q is not an event type; one is %s", t, similar)
}
