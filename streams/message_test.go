package streams_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// anyEvent generates events with arbitrary ids, including invalid UTF-8 and control characters.
func anyEvent() *rapid.Generator[domain.Event] {
	return rapid.Custom(func(t *rapid.T) domain.Event {
		anyID := rapid.OneOf(
			rapid.StringMatching(`[0-9]{1,20}`),
			rapid.StringMatching(`[ -~]{0,40}`),
			rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 40), func(b []byte) string { return string(b) }),
			rapid.String(),
		)
		page := anyID.Filter(func(s string) bool { return s != "" }).Draw(t, "page")
		e := domain.Event{
			ID:          domain.DedupID("page", domain.PageID(page), "msg", anyID.Draw(t, "key")),
			Page:        domain.PageID(page),
			Type:        rapid.SampledFrom(domain.Types()).Draw(t, "type"),
			Contact:     domain.ContactID(anyID.Draw(t, "contact")),
			Standby:     rapid.Bool().Draw(t, "standby"),
			TraceParent: rapid.StringMatching(`(00-[0-9a-f]{32}-[0-9a-f]{16}-01)?`).Draw(t, "trace"),
			Data:        domain.Data{Object: "page", Kind: "message", Raw: []byte(`{"text": "<ä>\u2028"}`)},
		}
		if e.Type == domain.ForeignReceived {
			e.Original, e.OriginalID = domain.MessageReceived, e.ID
			e.ID = domain.ForeignID("900", e.ID)
		}
		if rapid.Bool().Draw(t, "timed") {
			e.Time = time.Unix(0, rapid.Int64().Draw(t, "time")).UTC()
		}
		return e
	})
}

// TestEventIsUnchangedByTheStream checks that an event is read from the stream as it was encoded, and that every
// header has one printable value.
func TestEventIsUnchangedByTheStream(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	ctx, cancel := context.WithTimeout(context.Background(), streamstest.Limit)
	defer cancel()
	rapid.Check(t, func(t *rapid.T) {
		e := anyEvent().Draw(t, "event")
		m, err := streams.Encode(e)
		require.NoError(t, err)
		n := strings.Count(m.Subject, ".")
		require.Equal(t, 3, n, "subject %q", m.Subject)
		require.False(t, strings.ContainsAny(m.Subject, " *>\r\n\t"), "subject %q", m.Subject)
		for k, v := range m.Header {
			require.Len(t, v, 1, "header %s", k)
			require.False(t, strings.ContainsFunc(v[0], func(r rune) bool { return r <= ' ' || r > '~' }),
				"header %s", k)
		}
		m.Header.Del(streams.HeaderMsgID) // when rapid shrinks, it generates the same id many times
		ack, err := s.JS.PublishMsg(ctx, m)
		require.NoError(t, err)
		got, err := streams.Get(ctx, s.JS, streams.Name, ack.Sequence)
		require.NoError(t, err)
		require.Empty(t, cmp.Diff(streams.Stored{Event: e, Seq: ack.Sequence, At: got.At}, got))
	})
}

// TestEncodeWritesTheHeadersOfTheContract has the contract's header names and values as literals.
func TestEncodeWritesTheHeadersOfTheContract(t *testing.T) {
	t.Parallel()
	e := domain.Event{
		ID: "page:100:msg:m_1", Type: domain.MessageReceived, Page: "100", Contact: "900", Standby: true,
		Time: time.Date(2026, 9, 1, 12, 0, 0, 5e6, time.FixedZone("", 3600)), TraceParent: "00-0-0-01",
		Data: domain.Data{App: "main", Raw: []byte(`{ "a":1}`)},
	}
	m, err := streams.Encode(e)
	require.NoError(t, err)
	want := nats.Header{
		"ce-specversion": {"1.0"}, "ce-id": {"page:100:msg:m_1"}, "ce-type": {"pagestream.message.received.v1"},
		"ce-source": {"/pages/100"}, "ce-subject": {"900"}, "ce-time": {"2026-09-01T11:00:00.005Z"},
		"ce-pagestreamstandby": {"true"}, "content-type": {"application/json"}, "traceparent": {"00-0-0-01"},
		"Nats-Msg-Id": {"page:100:msg:m_1"}, "_watermill_message_uuid": {"page:100:msg:m_1"},
	}
	require.Empty(t, cmp.Diff(want, m.Header))
	require.Equal(t, "pagestream.100.message.received", m.Subject)
	require.Equal(t, `{"app":"main","raw":{ "a":1}}`, string(m.Data))

	e.Standby, e.Contact, e.Time, e.TraceParent, e.Page = false, "", time.Time{}, "", ""
	m, err = streams.Encode(e)
	require.NoError(t, err)
	for _, k := range []string{"ce-subject", "ce-time", "ce-pagestreamstandby", "traceparent"} {
		_, has := m.Header[k]
		require.False(t, has, "%s is set without a value", k)
	}
	require.Equal(t, "pagestream.0.message.received", m.Subject, "no page")
	require.Equal(t, "/pages/0", m.Header.Get("ce-source"), "no page")
}

// TestEncodeLeavesOutInvalidHeaders checks that a value from outside that is not valid in a header is left out, and
// does not make Encode fail.
func TestEncodeLeavesOutInvalidHeaders(t *testing.T) {
	t.Parallel()
	e := messages("100", 1)[0]
	e.Time, e.TraceParent = time.Unix(1e17, 0), "00-\r\nNats-Rollup: all"
	m, err := streams.Encode(e)
	require.NoError(t, err)
	require.Empty(t, m.Header.Get(streams.HeaderTime))
	require.Empty(t, m.Header.Get(streams.HeaderTraceParent))
}

func TestEncodeRefusesInvalidEvents(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*domain.Event){
		"no id":           func(e *domain.Event) { e.ID = "" },
		"id with newline": func(e *domain.Event) { e.ID = "a\r\nNats-Rollup: all" },
		"long id":         func(e *domain.Event) { e.ID = strings.Repeat("x", 5000) },
		"no type":         func(e *domain.Event) { e.Type = "" },
		"one token":       func(e *domain.Event) { e.Type = "message" },
		"three tokens":    func(e *domain.Event) { e.Type = "message.received.now" },
		"wildcard":        func(e *domain.Event) { e.Type = "message.>" },
		"long contact":    func(e *domain.Event) { e.Contact = domain.ContactID(strings.Repeat("9", 5000)) },
	} {
		e := messages("100", 1)[0]
		change(&e)
		_, err := streams.Encode(e)
		require.ErrorIs(t, err, streams.ErrInvalid, name)
	}
	e := messages("100", 1)[0]
	e.Data.Raw = []byte(`{`)
	_, err := streams.Encode(e)
	require.ErrorIs(t, err, domain.ErrBadData, "raw that is not JSON")
}

func TestDecodeRefusesMalformedMessages(t *testing.T) {
	t.Parallel()
	good, err := streams.Encode(messages("100", 1)[0])
	require.NoError(t, err)
	secret := "do not quote me"
	for name, change := range map[string]func(*nats.Msg){
		"foreign subject":  func(m *nats.Msg) { m.Subject = "orders.1" },
		"short subject":    func(m *nats.Msg) { m.Subject = "pagestream.100.message" },
		"no headers":       func(m *nats.Msg) { m.Header = nil },
		"no id":            func(m *nats.Msg) { m.Header.Del("ce-id") },
		"no source":        func(m *nats.Msg) { m.Header.Del("ce-source") },
		"foreign source":   func(m *nats.Msg) { m.Header.Set("ce-source", "/orders/1") },
		"another's source": func(m *nats.Msg) { m.Header.Set("ce-source", "/pages/200") },
		"broken source":    func(m *nats.Msg) { m.Header.Set("ce-source", "/pages/%zz") },
		"broken contact":   func(m *nats.Msg) { m.Header.Set("ce-subject", "%zz") },
		"broken time":      func(m *nats.Msg) { m.Header.Set("ce-time", "yesterday") },
		"broken data":      func(m *nats.Msg) { m.Data = []byte(secret) },
		"no data":          func(m *nats.Msg) { m.Data = nil },
	} {
		m := nats.NewMsg(good.Subject)
		m.Data = good.Data
		for k, v := range good.Header {
			m.Header[k] = slices.Clone(v)
		}
		change(m)
		_, err := streams.Decode(m.Subject, m.Header, m.Data, 1, time.Time{})
		require.ErrorIs(t, err, streams.ErrMalformed, name)
		require.NotContains(t, err.Error(), secret, name)
	}
	// An unknown type of a newer version is accepted.
	m := nats.NewMsg("pagestream.100.message.pinned")
	m.Header, m.Data = good.Header, []byte(`{"new":1}`)
	s, err := streams.Decode(m.Subject, m.Header, m.Data, 1, time.Time{})
	require.NoError(t, err)
	require.Equal(t, domain.Type("message.pinned"), s.Type, "a newer type")
}

// TestFilterMatchesSubjects checks that filters match the subjects of events and don't overlap.
func TestFilterMatchesSubjects(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		page  domain.PageID
		types []domain.Type
		want  []string
	}{
		{"", nil, []string{"pagestream.*.>"}},
		{"100", nil, []string{"pagestream.100.>"}},
		{
			"100",
			[]domain.Type{domain.MessageRead, domain.MessageEdited, domain.MessageRead},
			[]string{"pagestream.100.message.edited", "pagestream.100.message.read"},
		},
		{"", []domain.Type{domain.PageConnected}, []string{"pagestream.*.page.connected"}},
		{"a b", nil, []string{"pagestream." + domain.PageID("a b").Token() + ".>"}},
	} {
		require.Equal(t, c.want, streams.Filter(c.page, c.types...), "Filter(%q, %v)", c.page, c.types)
	}
}
