package streams

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pagestream/pagestream/domain"
)

// Headers of an event: CloudEvents 1.0 in binary mode, JetStream's dedup id,
// and watermill's message id. Each has one value.
// https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/nats-protocol-binding.md
const (
	HeaderSpecVersion = "ce-specversion"
	HeaderID          = "ce-id"
	HeaderType        = "ce-type"
	HeaderSource      = "ce-source"
	HeaderSubject     = "ce-subject"
	HeaderTime        = "ce-time"
	HeaderStandby     = "ce-pagestreamstandby"
	HeaderContentType = "content-type"
	HeaderTraceParent = "traceparent"
	HeaderMsgID       = nats.MsgIdHdr
	HeaderWatermillID = "_watermill_message_uuid"
	// HeaderStoredAt is when an event was first stored, on one that was imported
	// from another stream; it counts for more than the message's own time.
	HeaderStoredAt = "Pagestream-Stored-At"
)

const (
	specVersion  = "1.0"
	contentType  = "application/json"
	typePrefix   = "pagestream."
	typeSuffix   = ".v1"
	sourcePrefix = "/pages/"
)

// Encode returns the event as the message that is stored. It fails with
// [ErrInvalid] for an event that could not be read back, and with
// [domain.ErrBadData].
//
// An empty page is stored as [domain.NoPage]. What comes from outside and does
// not fit its header is left out rather than refused, for a refused delivery
// would come again for ever: a time outside the years 1 to 9999, and a trace
// context that is not printable ASCII.
func Encode(e domain.Event) (*nats.Msg, error) {
	if e.ID == "" || len(e.ID) > maxHeaderValue || !plain(e.ID) {
		return nil, fmt.Errorf("event id of %d bytes: %w", len(e.ID), ErrInvalid)
	}
	if !validType(e.Type) {
		return nil, fmt.Errorf("event type %q: %w", e.Type, ErrInvalid)
	}
	if len(e.Page) > maxHeaderValue || len(e.Contact) > maxHeaderValue {
		return nil, fmt.Errorf("event %s: page of %d bytes, contact of %d: %w", e.ID, len(e.Page), len(e.Contact), ErrInvalid)
	}
	data, err := e.Data.Encode()
	if err != nil {
		return nil, fmt.Errorf("encode event %s: %w", e.ID, err)
	}
	page := e.Page
	if page == "" {
		page = domain.NoPage
	}
	h := newHeaders(usualHeaders)
	h.set(HeaderSpecVersion, specVersion)
	h.set(HeaderID, e.ID)
	h.set(HeaderType, typePrefix+string(e.Type)+typeSuffix)
	h.set(HeaderSource, sourcePrefix+escape(string(page)))
	h.set(HeaderContentType, contentType)
	h.set(HeaderMsgID, e.ID)
	h.set(HeaderWatermillID, e.ID)
	if e.Contact != "" {
		h.set(HeaderSubject, escape(string(e.Contact)))
	}
	if t := e.Time.UTC(); !t.IsZero() && t.Year() >= 1 && t.Year() <= 9999 {
		h.set(HeaderTime, t.Format(time.RFC3339Nano))
	}
	if e.Standby {
		h.set(HeaderStandby, "true")
	}
	if e.TraceParent != "" && len(e.TraceParent) <= maxHeaderValue && plain(e.TraceParent) {
		h.set(HeaderTraceParent, e.TraceParent)
	}
	return &nats.Msg{Subject: Subject(page, e.Type), Header: h.Header, Data: data}, nil
}

// usualHeaders is how many headers most events have, with those of a batch. A map
// of one more takes twice the room.
const usualHeaders = 14

// headers are single values that share one array: an event has a dozen, and each
// would be an allocation.
type headers struct {
	nats.Header
	values []string
}

func newHeaders(n int) *headers {
	return &headers{make(nats.Header, n), make([]string, 0, n)}
}

func (h *headers) set(name, value string) {
	h.values = append(h.values, value)
	n := len(h.values)
	h.Header[name] = h.values[n-1 : n : n]
}

// Decode reads a message that [Encode] made. It fails with [ErrMalformed]; the
// error has no data in it.
func Decode(subject string, h nats.Header, data []byte, seq uint64, at time.Time) (Stored, error) {
	return decode(subject, h.Get, data, seq, at)
}

// decode is Decode for headers of any kind.
func decode(subject string, header func(string) string, data []byte, seq uint64, at time.Time) (Stored, error) {
	s, err := envelope(subject, header, seq, at)
	if err != nil {
		return Stored{}, err
	}
	if s.Data, err = domain.DecodeData(data); err != nil {
		return Stored{}, fmt.Errorf("sequence %d: %w: %w", seq, err, ErrMalformed)
	}
	return s, nil
}

// envelope reads all of an event but its data.
func envelope(subject string, header func(string) string, seq uint64, at time.Time) (Stored, error) {
	token, t, err := ParseSubject(subject)
	if err != nil {
		return Stored{}, fmt.Errorf("sequence %d: %w", seq, err)
	}
	if v := header(HeaderStoredAt); v != "" {
		if at, err = time.Parse(time.RFC3339Nano, v); err != nil {
			return Stored{}, fmt.Errorf("sequence %d: %s: %w", seq, HeaderStoredAt, ErrMalformed)
		}
	}
	s := Stored{Seq: seq, At: at.UTC()}
	s.ID, s.Type = header(HeaderID), t
	if s.ID == "" {
		return Stored{}, fmt.Errorf("sequence %d: no %s: %w", seq, HeaderID, ErrMalformed)
	}
	if s.Page, err = pageOf(header(HeaderSource)); err != nil {
		return Stored{}, fmt.Errorf("sequence %d: %w", seq, err)
	}
	if s.Page.Token() != token {
		// Whoever may write one page's subjects must not speak for another.
		return Stored{}, fmt.Errorf("sequence %d: subject and %s are of two pages: %w", seq, HeaderSource, ErrMalformed)
	}
	contact, err := url.PathUnescape(header(HeaderSubject))
	if err != nil {
		return Stored{}, fmt.Errorf("sequence %d: %s: %w", seq, HeaderSubject, ErrMalformed)
	}
	s.Contact = domain.ContactID(contact)
	if v := header(HeaderTime); v != "" {
		if s.Time, err = time.Parse(time.RFC3339Nano, v); err != nil {
			return Stored{}, fmt.Errorf("sequence %d: %s: %w", seq, HeaderTime, ErrMalformed)
		}
		s.Time = s.Time.UTC()
	}
	s.Standby = header(HeaderStandby) == "true"
	s.TraceParent = header(HeaderTraceParent)
	return s, nil
}

// maxHeaderValue bounds one value from outside; all headers together have to
// stay below the 64 KiB that JetStream takes.
const maxHeaderValue = 4096

// plain reports whether s survives as a header value: printable ASCII without
// spaces, which parsers trim.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// validType reports whether t makes two subject tokens. It need not be one of
// [domain.Types]: a newer version may have more.
func validType(t domain.Type) bool {
	noun, verb, ok := strings.Cut(string(t), ".")
	return ok && token(noun) && token(verb)
}

func token(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_") == ""
}

// escape keeps an id from outside within a header value. Real ids are digits
// and pass unchanged.
func escape(s string) string {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '_', c == '-', c == '.':
		default:
			return url.PathEscape(s)
		}
	}
	return s
}

// SubjectOf returns the subject that an event with these headers has.
func SubjectOf(h nats.Header) (string, error) {
	t, begins := strings.CutPrefix(h.Get(HeaderType), typePrefix)
	t, ends := strings.CutSuffix(t, typeSuffix)
	if !begins || !ends || !validType(domain.Type(t)) {
		return "", fmt.Errorf("%s is none of ours: %w", HeaderType, ErrMalformed)
	}
	page, err := pageOf(h.Get(HeaderSource))
	if err != nil {
		return "", err
	}
	return Subject(page, domain.Type(t)), nil
}

// pageOf reads the page from a source.
func pageOf(source string) (domain.PageID, error) {
	page, ok := strings.CutPrefix(source, sourcePrefix)
	if !ok {
		return "", fmt.Errorf("no %s of ours: %w", HeaderSource, ErrMalformed)
	}
	page, err := url.PathUnescape(page)
	if err != nil {
		return "", fmt.Errorf("%s: %w", HeaderSource, ErrMalformed)
	}
	return domain.PageID(page), nil
}
