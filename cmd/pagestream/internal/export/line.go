package export

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
)

// ErrLine is returned when a line is not a line of an export.
var ErrLine = errors.New("not a line of an export")

// rawType is the type of a line that contains a stream message that is not an event, or
// has headers that a line does not have. Such messages are exported so that an import restores every sequence.
const rawType = "pagestream.raw"

// line is one event as a CloudEvent in JSON. Data is in its outgoing form, see
// [domain.Data.EncodeLine]. Sequence is CloudEvents' extension of that name; the others
// are pagestream's own.
// https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md
type line struct {
	SpecVersion     string    `json:"specversion"`
	ID              string    `json:"id"`
	Type            string    `json:"type"`
	Source          string    `json:"source"`
	Subject         string    `json:"subject,omitempty"`
	Time            string    `json:"time,omitempty"`
	DataContentType string    `json:"datacontenttype,omitempty"`
	Standby         string    `json:"pagestreamstandby,omitempty"`
	Original        string    `json:"pagestreamtype,omitempty"`
	OriginalID      string    `json:"pagestreamid,omitempty"`
	TraceParent     string    `json:"traceparent,omitempty"`
	Sequence        string    `json:"sequence"`
	StoredAt        time.Time `json:"storedat"`
	// Stored has the message's bytes if Data does not restore them exactly, which is so
	// for data that another program wrote in its own way.
	Stored []byte          `json:"pagestreamdata,omitempty"`
	Data   json.RawMessage `json:"data,omitempty"`
}

// rawMessage is the data of a line of rawType.
type rawMessage struct {
	Subject string      `json:"subject"`
	Header  nats.Header `json:"header,omitempty"`
	Data    []byte      `json:"data,omitempty"`
}

// encode returns the line of a message, with a newline at its end.
func encode(m streams.Raw) ([]byte, error) {
	l, ok := eventLine(m)
	if !ok {
		var err error
		if l, err = rawLine(m); err != nil {
			return nil, fmt.Errorf("encode message %d: %w", m.Seq, err)
		}
	}
	b, err := l.encode()
	if err != nil {
		return nil, fmt.Errorf("encode event %d: %w", m.Seq, err)
	}
	return b, nil
}

// eventLine returns the line of an event. It returns false if the message is not an
// event, or has headers that a line does not have.
func eventLine(m streams.Raw) (line, bool) {
	s, err := streams.Decode(m.Subject, m.Header, m.Data, m.Seq, m.At)
	if err != nil {
		return line{}, false
	}
	l := line{
		SpecVersion:     m.Header.Get(streams.HeaderSpecVersion),
		ID:              m.Header.Get(streams.HeaderID),
		Type:            m.Header.Get(streams.HeaderType),
		Source:          m.Header.Get(streams.HeaderSource),
		Subject:         m.Header.Get(streams.HeaderSubject),
		Time:            m.Header.Get(streams.HeaderTime),
		DataContentType: m.Header.Get(streams.HeaderContentType),
		Standby:         m.Header.Get(streams.HeaderStandby),
		Original:        m.Header.Get(streams.HeaderOriginal),
		OriginalID:      m.Header.Get(streams.HeaderOriginalID),
		TraceParent:     m.Header.Get(streams.HeaderTraceParent),
		Sequence:        strconv.FormatUint(m.Seq, 10),
		StoredAt:        s.At,
	}
	if l.Data, err = domain.Line(m.Data); err != nil {
		return line{}, false
	}
	back, err := l.message()
	if err != nil || back.Subject != m.Subject || !sameHeaders(m.Header, back.Header) {
		return line{}, false
	}
	if !bytes.Equal(back.Data, m.Data) {
		l.Stored = m.Data
	}
	return l, true
}

// sameHeaders reports whether a message has the headers of the message that was
// restored from its line.
func sameHeaders(have, restored nats.Header) bool {
	for k, v := range have {
		if aboutStoring(k) {
			continue
		}
		if len(v) != 1 || restored.Get(k) != v[0] {
			return false
		}
	}
	return true
}

// aboutStoring reports whether a header is about the storing of a message in one stream.
func aboutStoring(header string) bool {
	return header == streams.HeaderStoredAt || strings.HasPrefix(header, "Nats-")
}

// rawLine returns the line of a message that is not an event. An import sets the headers
// that are about the storing anew, except a time that can't be read and makes the message
// what it is.
func rawLine(m streams.Raw) (line, error) {
	seq := strconv.FormatUint(m.Seq, 10)
	h := nats.Header{}
	for k, v := range m.Header {
		if !aboutStoring(k) {
			h[k] = v
		}
	}
	at, err := streams.StoredAt(m.Header, m.At)
	if err != nil {
		at, h[streams.HeaderStoredAt] = m.At, m.Header[streams.HeaderStoredAt]
	}
	// An import may have made the id unique, see [importer.dedupID].
	if id := strings.TrimSuffix(m.Header.Get(streams.HeaderMsgID), "#"+seq); id != "" {
		h.Set(streams.HeaderMsgID, id)
	}
	data, err := json.Marshal(rawMessage{m.Subject, h, m.Data})
	return line{
		SpecVersion: "1.0", ID: "raw-" + seq, Type: rawType, Source: "/stream",
		Sequence: seq, StoredAt: at, Data: data,
	}, err
}

// encode returns the line with a newline at its end. Data is not changed; an encoder
// would compact it.
func (l line) encode() ([]byte, error) {
	data := l.Data
	l.Data = nil
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(l); err != nil {
		return nil, err
	}
	b.Truncate(b.Len() - len("}\n"))
	b.WriteString(`,"data":`)
	b.Write(data)
	b.WriteString("}\n")
	return b.Bytes(), nil
}

// Event returns one event as a CloudEvent in JSON, without a newline. It returns the
// same bytes for the same event.
func Event(s streams.Stored) ([]byte, error) {
	m, err := streams.Encode(s.Event)
	if err != nil {
		return nil, err
	}
	b, err := encode(streams.Raw{Seq: s.Seq, At: s.At, Subject: m.Subject, Header: m.Header, Data: m.Data})
	return bytes.TrimSuffix(b, []byte("\n")), err
}

// decode parses a line. Its errors contain no text of the line.
func decode(b []byte) (line, uint64, error) {
	var l line
	if err := json.Unmarshal(b, &l); err != nil {
		return line{}, 0, fmt.Errorf("%w: it is not the JSON of an event", ErrLine)
	}
	seq, err := strconv.ParseUint(l.Sequence, 10, 64)
	if err != nil || seq == 0 {
		return line{}, 0, fmt.Errorf("%w: it has no sequence", ErrLine)
	}
	return l, seq, nil
}

// message returns the stream message that the line was encoded from.
func (l line) message() (*nats.Msg, error) {
	if l.Type == rawType {
		var r rawMessage
		if err := json.Unmarshal(l.Data, &r); err != nil || r.Subject == "" {
			return nil, fmt.Errorf("%w: no message in it", ErrLine)
		}
		return &nats.Msg{Subject: r.Subject, Header: r.Header, Data: r.Data}, nil
	}
	h := nats.Header{}
	for _, v := range []struct{ name, value string }{
		{streams.HeaderSpecVersion, l.SpecVersion},
		{streams.HeaderID, l.ID},
		{streams.HeaderType, l.Type},
		{streams.HeaderSource, l.Source},
		{streams.HeaderSubject, l.Subject},
		{streams.HeaderTime, l.Time},
		{streams.HeaderContentType, l.DataContentType},
		{streams.HeaderStandby, l.Standby},
		{streams.HeaderOriginal, l.Original},
		{streams.HeaderOriginalID, l.OriginalID},
		{streams.HeaderTraceParent, l.TraceParent},
		{streams.HeaderMsgID, l.ID},
		{streams.HeaderWatermillID, l.ID},
	} {
		if v.value != "" {
			h.Set(v.name, v.value)
		}
	}
	subject, err := streams.SubjectOf(h)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLine, err)
	}
	data := l.Stored
	if data == nil {
		if data, err = domain.Unline(l.Data); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrLine, err)
		}
	}
	return &nats.Msg{Subject: subject, Header: h, Data: data}, nil
}
