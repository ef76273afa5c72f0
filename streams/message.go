package streams

import (
	"cmp"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
)

// Headers of an event: those of CloudEvents 1.0 in binary mode, JetStream's dedup id, and watermill's
// message id. Each has exactly one value. The CloudEvents headers follow the NATS protocol binding:
// https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/nats-protocol-binding.md
const (
	HeaderSpecVersion = "ce-specversion"
	HeaderID          = "ce-id"
	HeaderType        = "ce-type"
	HeaderSource      = "ce-source"
	HeaderSubject     = "ce-subject"
	HeaderTime        = "ce-time"
	HeaderStandby     = "ce-pagestreamstandby"
	// HeaderOriginal and HeaderOriginalID are the type and id that an event of type
	// [domain.ForeignReceived] would have had.
	HeaderOriginal    = "ce-pagestreamtype"
	HeaderOriginalID  = "ce-pagestreamid"
	HeaderContentType = "content-type"
	HeaderTraceParent = "traceparent"
	HeaderMsgID       = nats.MsgIdHdr
	HeaderWatermillID = "_watermill_message_uuid"
	// HeaderStoredAt is set on an event that was imported from another stream, and in a consumer's
	// own stream. It is the time when the event was first stored, and is used instead of the
	// message's own time.
	HeaderStoredAt = "Pagestream-Stored-At"
	// HeaderSequence is set in a consumer's own stream. It is the event's sequence in the stream of
	// all events, and is used instead of the message's own sequence.
	HeaderSequence = "Pagestream-Sequence"
)

// The committer of a [Journal] gives each event [jetstream.ExpectedLastSeqHeader], which nothing else does: an import and
// a consumer's stream don't have it. With [jetstream.ExpectedStreamHeader] too, it did not know all ids; see
// [Stored].Unique.

const (
	specVersion  = "1.0"
	contentType  = "application/json"
	typePrefix   = "pagestream."
	typeSuffix   = ".v1"
	sourcePrefix = "/pages/"
)

// Encode returns the event as the message that is stored. [ErrInvalid] is returned for an event
// that could not be read back, [domain.ErrBadData] for data that can't be encoded.
//
// An empty page is stored as [domain.NoPage]. A time outside the years 1 to 9999 and a trace context
// that is not printable ASCII are left out: they come from outside, and if the event were refused,
// Meta would send the delivery again without end.
func Encode(e domain.Event) (*nats.Msg, error) { return encode(&e) }

// encode is Encode. It leaves in e what the message has of it, but for the data.
func encode(e *domain.Event) (*nats.Msg, error) {
	if e.ID == "" || len(e.ID) > maxHeaderValue || !domain.HeaderSafe(e.ID) {
		return nil, fmt.Errorf("event id of %d bytes: %w", len(e.ID), ErrInvalid)
	}
	if !validType(e.Type) {
		return nil, fmt.Errorf("event type %q: %w", e.Type, ErrInvalid)
	}
	if foreign := e.Type == domain.ForeignReceived; foreign != (e.Original != "") || foreign != (e.OriginalID != "") ||
		foreign && (!validType(e.Original) || len(e.OriginalID) > maxHeaderValue || !domain.HeaderSafe(e.OriginalID)) {
		return nil, fmt.Errorf("event %s of type %s: original type %q: %w", e.ID, e.Type, e.Original, ErrInvalid)
	}
	if len(e.Page) > maxHeaderValue || len(e.Contact) > maxHeaderValue {
		return nil, fmt.Errorf("event %s: page of %d bytes, contact of %d: %w",
			e.ID, len(e.Page), len(e.Contact), ErrInvalid)
	}
	data, err := e.Data.Encode()
	if err != nil {
		return nil, fmt.Errorf("encode event %s: %w", e.ID, err)
	}
	e.Page = cmp.Or(e.Page, domain.NoPage)
	if e.Time = e.Time.UTC(); e.Time.Year() < 1 || e.Time.Year() > 9999 {
		e.Time = time.Time{}
	}
	if len(e.TraceParent) > maxHeaderValue || !domain.HeaderSafe(e.TraceParent) {
		e.TraceParent = ""
	}
	h := newHeaders(usualHeaders)
	h.set(HeaderSpecVersion, specVersion)
	h.set(HeaderID, e.ID)
	h.set(HeaderType, typePrefix+string(e.Type)+typeSuffix)
	h.set(HeaderSource, sourcePrefix+escape(string(e.Page)))
	h.set(HeaderContentType, contentType)
	h.set(HeaderMsgID, e.ID)
	h.set(HeaderWatermillID, e.ID)
	if e.Contact != "" {
		h.set(HeaderSubject, escape(string(e.Contact)))
	}
	if !e.Time.IsZero() {
		h.set(HeaderTime, e.Time.Format(time.RFC3339Nano))
	}
	if e.Standby {
		h.set(HeaderStandby, "true")
	}
	if e.Type == domain.ForeignReceived {
		h.set(HeaderOriginal, typePrefix+string(e.Original)+typeSuffix)
		h.set(HeaderOriginalID, e.OriginalID)
	}
	if e.TraceParent != "" {
		h.set(HeaderTraceParent, e.TraceParent)
	}
	return &nats.Msg{Subject: Subject(e.Page, e.Type), Header: h.Header, Data: data}, nil
}

// usualHeaders is the most headers that a usual event has, including those of a batch. A map for one
// more entry would take twice the memory.
const usualHeaders = 14

// headers is a header map whose single values share one array. An event has a dozen headers, and each
// would cost an allocation otherwise.
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

// Decode decodes a message that [Encode] made, of the stream or of a consumer's own stream, which has the
// sequence and the time of the stream in headers. [ErrMalformed] is returned for any other message; the
// error never contains the message's data.
func Decode(subject string, h nats.Header, data []byte, seq uint64, at time.Time) (Stored, error) {
	return decode(subject, h.Get, data, seq, at)
}

// decode is like Decode, with a function that returns a header's value.
func decode(subject string, header func(string) string, data []byte, seq uint64, at time.Time) (Stored, error) {
	s, err := decodeEnvelope(subject, header, seq, at)
	if err != nil {
		return Stored{}, err
	}
	if s.Data, err = domain.DecodeData(data); err != nil {
		return Stored{}, fmt.Errorf("sequence %d: %w: %w", seq, err, ErrMalformed)
	}
	return s, nil
}

// decodeEnvelope decodes everything of an event except its data.
func decodeEnvelope(subject string, header func(string) string, seq uint64, at time.Time) (Stored, error) {
	token, t, err := ParseSubject(subject)
	if err != nil {
		return Stored{}, fmt.Errorf("sequence %d: %w", seq, err)
	}
	// In the stream of all events the header means nothing.
	if v := header(HeaderSequence); v != "" && strings.HasPrefix(subject, OutboxPrefix+".") {
		if seq, err = strconv.ParseUint(v, 10, 64); err != nil {
			return Stored{}, fmt.Errorf("%s: %w", HeaderSequence, ErrMalformed)
		}
	}
	if at, err = storedAt(header, at); err != nil {
		return Stored{}, fmt.Errorf("sequence %d: %w", seq, err)
	}
	s := Stored{Seq: seq, At: at, Unique: header(jetstream.ExpectedLastSeqHeader) != "" &&
		header(jetstream.ExpectedStreamHeader) == ""}
	s.ID, s.Type = header(HeaderID), t
	if s.ID == "" {
		return Stored{}, fmt.Errorf("sequence %d: no %s: %w", seq, HeaderID, ErrMalformed)
	}
	if s.Page, err = pageOf(header(HeaderSource)); err != nil {
		return Stored{}, fmt.Errorf("sequence %d: %w", seq, err)
	}
	if s.Page.Token() != token {
		// A client that may publish for one page must not be able to forge events of another.
		return Stored{}, fmt.Errorf("sequence %d: subject and %s name different pages: %w", seq, HeaderSource, ErrMalformed)
	}
	contact, err := url.PathUnescape(header(HeaderSubject))
	if err != nil {
		return Stored{}, fmt.Errorf("sequence %d: %s: %w", seq, HeaderSubject, ErrMalformed)
	}
	s.Contact = domain.ContactID(contact)
	if v := header(HeaderTime); v != "" {
		if s.Time, err = parseTime(HeaderTime, v); err != nil {
			return Stored{}, fmt.Errorf("sequence %d: %w", seq, err)
		}
	}
	if t == domain.ForeignReceived {
		if s.Original, err = typeOf(header(HeaderOriginal)); err != nil {
			return Stored{}, fmt.Errorf("sequence %d: %s: %w", seq, HeaderOriginal, err)
		}
		s.OriginalID = header(HeaderOriginalID)
	}
	s.Standby = header(HeaderStandby) == "true"
	s.TraceParent = header(HeaderTraceParent)
	return s, nil
}

// StoredAt returns when a message was first stored: the time of its [HeaderStoredAt], or at, the time
// of the message itself. [ErrMalformed] is returned when the header is not a time.
func StoredAt(h nats.Header, at time.Time) (time.Time, error) { return storedAt(h.Get, at) }

func storedAt(header func(string) string, at time.Time) (time.Time, error) {
	if v := header(HeaderStoredAt); v != "" {
		return parseTime(HeaderStoredAt, v)
	}
	return at.UTC(), nil
}

// parseTime parses the time of a header. Its year has four digits in UTC too; no other can be written
// as JSON.
func parseTime(header, value string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339Nano, value)
	if t = t.UTC(); err != nil || t.Year() < 0 || t.Year() > 9999 {
		return time.Time{}, fmt.Errorf("%s: %w", header, ErrMalformed)
	}
	return t, nil
}

// maxHeaderValue bounds one header value that comes from outside, in bytes. All headers of a message
// together must stay below JetStream's limit of 64 KiB.
const maxHeaderValue = 4096

// validType reports whether t consists of two valid subject tokens. It does not have to be one of
// [domain.Types], since a newer version may have more types.
func validType(t domain.Type) bool {
	noun, verb, ok := strings.Cut(string(t), ".")
	return ok && validToken(noun) && validToken(verb)
}

func validToken(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return true
}

// escape escapes an id that comes from outside for use in a header. Real ids are digits and stay
// unchanged.
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

// SubjectOf returns the subject of an event with these headers. [ErrMalformed] is returned when they
// are not the headers of an event.
func SubjectOf(h nats.Header) (string, error) {
	t, err := typeOf(h.Get(HeaderType))
	if err != nil {
		return "", fmt.Errorf("%s: %w", HeaderType, err)
	}
	page, err := pageOf(h.Get(HeaderSource))
	if err != nil {
		return "", err
	}
	return Subject(page, t), nil
}

// typeOf returns the event type of a CloudEvents type.
func typeOf(ce string) (domain.Type, error) {
	t, begins := strings.CutPrefix(ce, typePrefix)
	t, ends := strings.CutSuffix(t, typeSuffix)
	if !begins || !ends || !validType(domain.Type(t)) {
		return "", fmt.Errorf("not a pagestream event type: %w", ErrMalformed)
	}
	return domain.Type(t), nil
}

// pageOf returns the page that a ce-source header names.
func pageOf(source string) (domain.PageID, error) {
	page, ok := strings.CutPrefix(source, sourcePrefix)
	if !ok {
		return "", fmt.Errorf("%s does not name a page: %w", HeaderSource, ErrMalformed)
	}
	page, err := url.PathUnescape(page)
	if err != nil {
		return "", fmt.Errorf("%s: %w", HeaderSource, ErrMalformed)
	}
	return domain.PageID(page), nil
}
