package api

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/backfill"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/erase"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/outbound"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/person"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
)

// MessageOperator sends messages, fills gaps, erases contacts, and reads past states of
// conversations.
type MessageOperator interface {
	Send(ctx context.Context, r outbound.Request) (outbound.Sent, error)
	Backfill(ctx context.Context, r backfill.Request, progress func(backfill.Progress)) (backfill.Sum, error)
	Erase(ctx context.Context, page domain.PageID, contact domain.ContactID) (erase.Result, error)
	// Erasures lists the recorded erasures of a page, or of all.
	Erasures(ctx context.Context, page domain.PageID) ([]operate.Erasure, error)
	// ExportPerson writes what is held on a contact to a directory on the server's machine.
	ExportPerson(ctx context.Context, page domain.PageID, contact domain.ContactID, dir string,
		progress func(operate.PersonProgress)) (person.Report, error)
	// Adopt makes events of another app the page's own.
	Adopt(ctx context.Context, page domain.PageID, a operate.Adoption, progress func(operate.Adopted)) (operate.Adopted, error)
	// Past reads a conversation as it was at the event seq, or at a time if seq is 0.
	Past(ctx context.Context, page domain.PageID, contact domain.ContactID, seq uint64, at time.Time,
		read func(projections.Viewer) error) error
}

func (s *Server) messageRoutes() routes {
	return routes{
		"POST /api/v1/pages/{id}/messages": {
			serve: s.sendMessage, body: true, allow: toSenders, verb: "send", on: "page",
		},
		"POST /api/v1/pages/{id}/backfill": {serve: s.backfill, body: true, verb: "backfill", on: "page"},
		"POST /api/v1/pages/{id}/adopt":    {serve: s.adopt, body: true, verb: "events_adopt", on: "page"},
		"POST /api/v1/conversations/{page}/{contact}/erase": {
			serve: s.erase, verb: "erase", on: "page",
		},
		"POST /api/v1/conversations/{page}/{contact}/export": {
			serve: s.exportPerson, body: true, verb: "person_export", on: "page",
		},
		"GET /api/v1/erasures": {serve: s.erasures, params: params{"page"}, allow: toReaders},
	}
}

func (s *Server) sendMessage(w http.ResponseWriter, r *http.Request) error {
	var in outbound.Request
	if err := decode(w, r, &in, `{"contact": "…", "message": {"text": "…"}} as Meta's Send API has it`); err != nil {
		return err
	}
	in.Page = pageID(r)
	history.From(r.Context()).OnContact(recipient(in))
	if err := s.isOwn(r, in.Page); err != nil {
		return err
	}
	out, err := s.opts.Operator.Send(r.Context(), in)
	return writeResult(w, "send", http.StatusOK, out, err)
}

// recipient returns the contact that a message is sent to, empty if it has no id.
func recipient(in outbound.Request) domain.ContactID {
	var to struct {
		ID domain.ContactID `json:"id"`
	}
	if in.Contact == "" && json.Unmarshal(in.Recipient, &to) == nil {
		return to.ID
	}
	return in.Contact
}

func (s *Server) backfill(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Since time.Time `json:"since"`
		Until time.Time `json:"until"`
	}
	if err := decode(w, r, &in, `{"since": "2026-11-23T10:00:00Z"} and optionally until`); err != nil {
		return err
	}
	if in.Since.IsZero() {
		return problem(http.StatusBadRequest, "since is needed: when the gap began")
	}
	return run(w, r, "backfill", func(ctx context.Context, progress func(backfill.Progress)) (backfill.Sum, error) {
		return s.opts.Operator.Backfill(ctx, backfill.Request{Page: pageID(r), Since: in.Since, Until: in.Until}, progress)
	})
}

func (s *Server) adopt(w http.ResponseWriter, r *http.Request) error {
	var in operate.Adoption
	if err := decode(w, r, &in, `{"seqs": [7, 8]} or {"all": true}`); err != nil {
		return err
	}
	return run(w, r, "adopt", func(ctx context.Context, progress func(operate.Adopted)) (operate.Adopted, error) {
		return s.opts.Operator.Adopt(ctx, pageID(r), in, progress)
	})
}

func (s *Server) erase(w http.ResponseWriter, r *http.Request) error {
	extend(w)
	page, contact := conversation(r)
	out, err := s.opts.Operator.Erase(r.Context(), page, contact)
	return writeResult(w, "erase", http.StatusOK, out, err)
}

// erasures lists erasures with who has acknowledged them.
func (s *Server) erasures(w http.ResponseWriter, r *http.Request) error {
	items, err := s.opts.Operator.Erasures(r.Context(), domain.PageID(r.URL.Query().Get("page")))
	return writeList(w, "list erasures", items, "", err)
}

// exportPerson serves the export of one person. Its result has the numbers and no text.
func (s *Server) exportPerson(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Dir string `json:"dir"`
	}
	if err := decode(w, r, &in, `{"dir": "…"}: a new directory on the server's machine`); err != nil {
		return err
	}
	if in.Dir == "" {
		return problem(http.StatusBadRequest, "dir is needed: a new directory on the server's machine")
	}
	page, contact := conversation(r)
	history.From(r.Context()).OnContact(contact)
	return run(w, r, "export person", func(ctx context.Context, progress func(operate.PersonProgress)) (Person, error) {
		out, err := s.opts.Operator.ExportPerson(ctx, page, contact, in.Dir, progress)
		return Person{
			Dir: in.Dir, Events: out.Kinds, Messages: len(out.Messages), Comments: len(out.Comments),
			DeadLetters: len(out.DeadLetters), Receivers: out.Receivers,
		}, err
	})
}

// Person says what an export of a person has. The events are by what they are.
type Person struct {
	Dir         string         `json:"dir"`
	Events      map[string]int `json:"events"`
	Messages    int            `json:"messages"`
	Comments    int            `json:"comments"`
	DeadLetters int            `json:"dead_letters"`
	Receivers   []string       `json:"receivers,omitempty"`
}
