package person

import (
	"bufio"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"os"
	"path/filepath"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/comments"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/streams"
)

// Errors of [Write].
var (
	// ErrDir is returned when the directory exists and is not empty.
	ErrDir = errors.New("the directory is not empty; name a new one")
	// ErrNothing is returned when nothing is held on the person.
	ErrNothing = errors.New("nothing is held on this contact of the page")
)

// Names of the files.
const (
	reportFile = "person.json"
	eventsFile = "events.jsonl"
	pageFile   = "index.html"
)

// Report is what is held on a person besides the events.
type Report struct {
	Page     domain.PageID    `json:"page"`
	PageName string           `json:"page_name,omitempty"`
	Contact  domain.ContactID `json:"contact"`
	// Hash is the contact's [domain.ContactHash], which remains after an erasure.
	Hash    string    `json:"contact_hash"`
	Created time.Time `json:"created"`
	// ErasedAt is when the contact was erased before.
	ErasedAt time.Time `json:"erased_at,omitzero"`
	// Kinds has the number of events by what they are. Write sets it.
	Kinds map[string]int `json:"events"`

	Conversation *conversations.Conversation `json:"conversation,omitempty"`
	Messages     []conversations.Message     `json:"messages,omitempty"`
	Comments     []comments.Comment          `json:"comments,omitempty"`
	DeadLetters  []DeadLetter                `json:"dead_letters,omitempty"`
	// Receivers are the consumers and webhooks that may have received the events.
	Receivers []string `json:"receivers,omitempty"`
}

// DeadLetter is an event that a part of the program could not process.
type DeadLetter struct {
	// Part is the name of the read model, the reactor or the webhook endpoint.
	Part string `json:"part"`
	Seq  uint64 `json:"seq"`
}

// Options configure [Write]. All are required.
type Options struct {
	// Dir is the directory to write to. It must be empty, or not exist.
	Dir string
	// Events calls its argument with each event of the person.
	Events func(func(streams.Stored) error) error
	// Encode returns an event as one line, Kind what an event of a type is.
	Encode func(streams.Stored) ([]byte, error)
	Kind   func(domain.Type) string
	// Complete adds to the report what depends on the events; it gets their sequences.
	Complete func(r *Report, seqs map[uint64]bool) error
}

// row is an event on the page.
type row struct {
	Seq     uint64
	Time    time.Time
	Type    domain.Type
	Preview string
	Data    string
}

//go:embed person.html
var pageText string

var page = template.Must(template.New("person").Funcs(template.FuncMap{
	"time": func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.UTC().Format("2006-01-02 15:04:05")
	},
}).Parse(pageText))

// Write writes the events as lines of JSON, the report, and a page with both, which only
// the owner can read. It returns the completed report. It fails with [ErrDir] or
// [ErrNothing]; after an error it leaves no file.
func Write(o Options, r Report) (_ Report, err error) {
	entries, err := os.ReadDir(o.Dir)
	if len(entries) > 0 {
		return r, fmt.Errorf("%s: %w", o.Dir, ErrDir)
	}
	made := errors.Is(err, os.ErrNotExist)
	if made {
		err = os.MkdirAll(o.Dir, 0o700)
	} else if err == nil {
		err = os.Chmod(o.Dir, 0o700) //nolint:gosec // a directory needs the right to enter it
	}
	if err != nil {
		return r, fmt.Errorf("make directory: %w", err)
	}
	defer func() {
		if err == nil {
			return
		}
		for _, name := range []string{reportFile, eventsFile, pageFile} {
			if e := os.Remove(filepath.Join(o.Dir, name)); !errors.Is(e, os.ErrNotExist) {
				err = errors.Join(err, e)
			}
		}
		if made {
			err = errors.Join(err, os.Remove(o.Dir))
		}
	}()
	rows, err := o.writeEvents(&r)
	if err != nil {
		return r, err
	}
	if len(rows) == 0 && r.Conversation == nil {
		return r, ErrNothing
	}
	err = writeFile(filepath.Join(o.Dir, reportFile), func(w *bufio.Writer) error {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	})
	if err != nil {
		return r, err
	}
	return r, writeFile(filepath.Join(o.Dir, pageFile), func(w *bufio.Writer) error {
		return page.Execute(w, struct {
			Report
			Rows []row
		}{r, rows})
	})
}

// writeEvents writes the events and completes the report.
func (o Options) writeEvents(r *Report) (rows []row, err error) {
	seqs := map[uint64]bool{}
	r.Kinds = map[string]int{}
	err = writeFile(filepath.Join(o.Dir, eventsFile), func(w *bufio.Writer) error {
		return o.Events(func(e streams.Stored) error {
			line, err := o.Encode(e)
			if err != nil {
				return err
			}
			if _, err := w.Write(append(line, '\n')); err != nil {
				return err
			}
			text := e.Data.Raw
			if e.Data.Unreadable != nil {
				text = e.Data.Unreadable.Body
			} else if len(text) == 0 {
				if text, err = e.Data.Encode(); err != nil {
					return err
				}
			}
			seqs[e.Seq] = true
			r.Kinds[o.Kind(e.Type)]++
			rows = append(rows, row{e.Seq, e.Time, e.Type, e.Preview(), string(text)})
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	return rows, o.Complete(r, seqs)
}

// writeFile writes a new file that only the owner can read, and syncs it.
func writeFile(path string, write func(*bufio.Writer) error) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write export: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriter(f)
	if err := errors.Join(write(w), w.Flush()); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return f.Sync()
}
