package pages

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/internal/flatjson"
	"github.com/pagestream/pagestream/projections/store"
)

// trafficRow is what a transaction keeps of a page's traffic: many events of one transaction are of the same page.
type trafficRow = store.InPlace[traffic, *traffic]

// traffic is the stored row. It is JSON, and nearly always written and read without encoding/json.
type traffic struct {
	Page   domain.PageID `json:"page"`
	Object string        `json:"object,omitempty"`
	Traffic
}

// AppendBinary appends the row as JSON: the bytes are those of [store.AppendJSON].
func (t *traffic) AppendBinary(b []byte) ([]byte, error) {
	w := flatjson.Writer{B: b}
	t.fields(fields{w: &w})
	if w.Odd {
		return store.AppendJSON(b, t)
	}
	return w.B, nil
}

// UnmarshalBinary reads the JSON of a row.
func (t *traffic) UnmarshalBinary(b []byte) error {
	r := flatjson.Read(b)
	t.fields(fields{r: &r})
	if !r.End() {
		*t = traffic{}
		return json.Unmarshal(b, t) //nolint:wrapcheck // the store adds the context
	}
	return nil
}

// fields writes or reads all fields, in the order in which encoding/json writes them.
func (t *traffic) fields(f fields) {
	f.raw(`{"page":`)
	f.text((*string)(&t.Page))
	f.optionalText(`,"object":`, &t.Object)
	f.optionalTime(`,"first_at":`, &t.FirstAt)
	f.optionalTime(`,"last_at":`, &t.LastAt)
	f.optionalNumber(`,"last_seq":`, &t.LastSeq)
	f.optionalTime(`,"first_time":`, &t.FirstTime)
	f.optionalTime(`,"last_time":`, &t.LastTime)
	f.optionalText(`,"last_type":`, (*string)(&t.LastType))
	f.optionalTime(`,"first_inbound_at":`, &t.FirstInboundAt)
	f.optionalTime(`,"last_inbound_at":`, &t.LastInboundAt)
	f.optionalTime(`,"last_message":`, &t.LastMessage)
	f.raw(`,"events":`)
	f.number(&t.Events)
	f.optionalTypes(`,"types":`, &t.Types)
	f.optionalNumber(`,"standby":`, &t.Standby)
	f.optionalNumber(`,"standby_run":`, &t.StandbyRun)
	f.optionalTime(`,"foreign_at":`, &t.ForeignAt)
	f.optionalText(`,"foreign_app":`, &t.ForeignApp)
	f.optionalNumber(`,"tests":`, &t.Tests)
	f.raw("}")
}

// fields writes fields, or reads them if w is nil. An optional field is left out if it is empty.
type fields struct {
	w *flatjson.Writer
	r *flatjson.Reader
}

func (f fields) raw(json string) {
	if f.w == nil {
		f.r.Want(json)
		return
	}
	f.w.Raw(json)
}

func (f fields) text(s *string) {
	if f.w == nil {
		*s = word(f.r.Text())
		return
	}
	f.w.Text(*s)
}

func (f fields) number(n *uint64) {
	if f.w == nil {
		*n = f.r.Uint()
		return
	}
	f.w.Uint(*n)
}

// has reports whether an optional field with that name is to be written or read, and writes or skips the name.
func (f fields) has(name string, empty bool) bool {
	if f.w == nil {
		return f.r.Skip(name)
	}
	if !empty {
		f.w.Raw(name)
	}
	return !empty
}

func (f fields) optionalText(name string, s *string) {
	if f.has(name, *s == "") {
		f.text(s)
	}
}

func (f fields) optionalNumber(name string, n *uint64) {
	if f.has(name, *n == 0) {
		f.number(n)
	}
}

func (f fields) optionalTime(name string, t *time.Time) {
	switch {
	case !f.has(name, t.IsZero()):
	case f.w == nil:
		*t = f.r.Time()
	default:
		f.w.Time(*t)
	}
}

func (f fields) optionalTypes(name string, types *map[domain.Type]uint64) {
	switch {
	case !f.has(name, len(*types) == 0):
	case f.w == nil:
		*types = f.readTypes()
	default:
		f.writeTypes(*types)
	}
}

func (f fields) readTypes() map[domain.Type]uint64 {
	types := map[domain.Type]uint64{}
	f.r.Want("{")
	for more := true; more; more = f.r.Skip(",") {
		kind := domain.Type(word(f.r.Text()))
		f.r.Want(":")
		types[kind] = f.r.Uint()
	}
	f.r.Want("}")
	return types
}

func (f fields) writeTypes(types map[domain.Type]uint64) {
	var room [16]domain.Type // most pages have fewer
	kinds := room[:0]
	for kind := range types {
		kinds = append(kinds, kind)
	}
	slices.Sort(kinds)
	f.w.Raw("{")
	for i, kind := range kinds {
		if i > 0 {
			f.w.Raw(",")
		}
		f.w.Text(string(kind))
		f.w.Raw(":")
		f.w.Uint(types[kind])
	}
	f.w.Raw("}")
}

// words are the texts that nearly all rows have.
var words = func() map[string]string {
	m := map[string]string{"page": "page", "instagram": "instagram"}
	for _, t := range domain.Types() {
		m[string(t)] = string(t)
	}
	return m
}()

// word returns a text, without a copy of it if it is one of [words].
func word(b []byte) string {
	if s, ok := words[string(b)]; ok {
		return s
	}
	return string(b)
}
