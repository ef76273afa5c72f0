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

	"github.com/pagestream/pagestream/streams"
)

// ErrLine is returned when a line is not a line of an export.
var ErrLine = errors.New("not a line of an export")

// rawType is the type of a line that contains a stream message that is not an event.
// Such messages are exported so that an import restores every sequence.
const rawType = "pagestream.raw"

// line is one event as a CloudEvent in JSON. Data is stored byte for byte. Sequence
// is CloudEvents' extension of that name; storedat and pagestreamstandby are
// pagestream's own extensions.
// https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md
type line struct {
	SpecVersion     string          `json:"specversion"`
	ID              string          `json:"id"`
	Type            string          `json:"type"`
	Source          string          `json:"source"`
	Subject         string          `json:"subject,omitempty"`
	Time            string          `json:"time,omitempty"`
	DataContentType string          `json:"datacontenttype,omitempty"`
	Standby         string          `json:"pagestreamstandby,omitempty"`
	TraceParent     string          `json:"traceparent,omitempty"`
	Sequence        string          `json:"sequence"`
	StoredAt        time.Time       `json:"storedat"`
	Data            json.RawMessage `json:"data"`
}

// rawMessage is the data of a line of rawType.
type rawMessage struct {
	Subject string      `json:"subject"`
	Header  nats.Header `json:"header,omitempty"`
	Data    []byte      `json:"data,omitempty"`
}

// encode returns the line of a message, with a newline at its end.
func encode(m streams.Raw) ([]byte, error) {
	l := line{
		SpecVersion:     m.Header.Get(streams.HeaderSpecVersion),
		ID:              m.Header.Get(streams.HeaderID),
		Type:            m.Header.Get(streams.HeaderType),
		Source:          m.Header.Get(streams.HeaderSource),
		Subject:         m.Header.Get(streams.HeaderSubject),
		Time:            m.Header.Get(streams.HeaderTime),
		DataContentType: m.Header.Get(streams.HeaderContentType),
		Standby:         m.Header.Get(streams.HeaderStandby),
		TraceParent:     m.Header.Get(streams.HeaderTraceParent),
		Sequence:        strconv.FormatUint(m.Seq, 10),
		StoredAt:        m.At,
		Data:            m.Data,
	}
	if s, err := streams.Decode(m.Subject, m.Header, m.Data, m.Seq, m.At); err == nil {
		l.StoredAt = s.At
	}
	if !lossless(l, m) {
		data, err := json.Marshal(rawMessage{m.Subject, m.Header, m.Data})
		if err != nil {
			return nil, fmt.Errorf("encode message %d: %w", m.Seq, err)
		}
		l = line{
			SpecVersion: "1.0", ID: "raw-" + l.Sequence, Type: rawType, Source: "/stream",
			Sequence: l.Sequence, StoredAt: l.StoredAt, Data: data,
		}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(l); err != nil {
		return nil, fmt.Errorf("encode event %d: %w", m.Seq, err)
	}
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

// lossless reports whether decoding the line results in the same message.
func lossless(l line, m streams.Raw) bool {
	if _, err := streams.Decode(m.Subject, m.Header, m.Data, m.Seq, m.At); err != nil {
		return false
	}
	var compact bytes.Buffer
	if json.Compact(&compact, m.Data) != nil || !bytes.Equal(compact.Bytes(), m.Data) {
		return false // the encoder would change the bytes
	}
	back, err := l.message()
	if err != nil || back.Subject != m.Subject {
		return false
	}
	for k, v := range m.Header {
		if k == streams.HeaderStoredAt || strings.HasPrefix(k, "Nats-") {
			continue // these headers are about the storing and not about the event
		}
		if len(v) != 1 || back.Header.Get(k) != v[0] {
			return false
		}
	}
	return true
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
	return &nats.Msg{Subject: subject, Header: h, Data: l.Data}, nil
}
