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
)

const (
	specVersion  = "1.0"
	contentType  = "application/json"
	typePrefix   = "pagestream."
	typeSuffix   = ".v1"
	sourcePrefix = "/pages/"
)

// Encode returns the event as the message that is stored.
func Encode(e domain.Event) (*nats.Msg, error) {
	data, err := e.Data.Encode()
	if err != nil {
		return nil, fmt.Errorf("encode event %s: %w", e.ID, err)
	}
	page := e.Page
	if page == "" {
		page = domain.NoPage
	}
	h := nats.Header{
		HeaderSpecVersion: {specVersion},
		HeaderID:          {e.ID},
		HeaderType:        {typePrefix + string(e.Type) + typeSuffix},
		HeaderSource:      {sourcePrefix + escape(string(page))},
		HeaderContentType: {contentType},
		HeaderMsgID:       {e.ID},
		HeaderWatermillID: {e.ID},
	}
	if e.Contact != "" {
		h[HeaderSubject] = []string{escape(string(e.Contact))}
	}
	if !e.Time.IsZero() {
		h[HeaderTime] = []string{e.Time.UTC().Format(time.RFC3339Nano)}
	}
	if e.Standby {
		h[HeaderStandby] = []string{"true"}
	}
	if e.TraceParent != "" {
		h[HeaderTraceParent] = []string{e.TraceParent}
	}
	return &nats.Msg{Subject: Subject(page, e.Type), Header: h, Data: data}, nil
}

// Decode reads a message that [Encode] made. It fails with [ErrMalformed]; the
// error has no data in it.
func Decode(subject string, h nats.Header, data []byte, seq uint64, at time.Time) (Stored, error) {
	_, t, err := ParseSubject(subject)
	if err != nil {
		return Stored{}, fmt.Errorf("sequence %d: %w", seq, err)
	}
	s := Stored{Seq: seq, At: at.UTC()}
	s.ID, s.Type = h.Get(HeaderID), t
	if s.ID == "" {
		return Stored{}, fmt.Errorf("sequence %d: no %s: %w", seq, HeaderID, ErrMalformed)
	}
	page, ok := strings.CutPrefix(h.Get(HeaderSource), sourcePrefix)
	if !ok {
		return Stored{}, fmt.Errorf("sequence %d: no %s of ours: %w", seq, HeaderSource, ErrMalformed)
	}
	if page, err = url.PathUnescape(page); err != nil {
		return Stored{}, fmt.Errorf("sequence %d: %s: %w", seq, HeaderSource, ErrMalformed)
	}
	s.Page = domain.PageID(page)
	contact, err := url.PathUnescape(h.Get(HeaderSubject))
	if err != nil {
		return Stored{}, fmt.Errorf("sequence %d: %s: %w", seq, HeaderSubject, ErrMalformed)
	}
	s.Contact = domain.ContactID(contact)
	if v := h.Get(HeaderTime); v != "" {
		if s.Time, err = time.Parse(time.RFC3339Nano, v); err != nil {
			return Stored{}, fmt.Errorf("sequence %d: %s: %w", seq, HeaderTime, ErrMalformed)
		}
		s.Time = s.Time.UTC()
	}
	s.Standby = h.Get(HeaderStandby) == "true"
	s.TraceParent = h.Get(HeaderTraceParent)
	if s.Data, err = domain.DecodeData(data); err != nil {
		return Stored{}, fmt.Errorf("sequence %d: %w: %w", seq, err, ErrMalformed)
	}
	return s, nil
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
