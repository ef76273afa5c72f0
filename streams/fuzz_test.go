package streams_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
)

// FuzzParseSubject checks that a subject is taken apart without loss, or refused.
func FuzzParseSubject(f *testing.F) {
	for _, subject := range []string{
		streams.Subject("100", domain.MessageReceived), streams.Subject("", domain.PageConnected), "pagestream.odd", "", "...",
		"pagestream....", "other.1.message.received", "pagestream.1.message.received.more", "pagestream.*.message.>",
	} {
		f.Add(subject)
	}
	f.Fuzz(func(t *testing.T, subject string) {
		token, typ, err := streams.ParseSubject(subject)
		if err != nil {
			require.ErrorIs(t, err, streams.ErrMalformed)
			require.Empty(t, token)
			require.Empty(t, typ)
			return
		}
		require.Equal(t, subject, streams.SubjectPrefix+"."+token+"."+string(typ))
		require.NotContains(t, token, ".")
		require.Equal(t, 1, strings.Count(string(typ), "."))
	})
}

// FuzzDecode checks that a message is refused, or is an event of the page that its subject names, and
// that what Encode makes of it is the same event.
func FuzzDecode(f *testing.F) {
	for _, e := range []domain.Event{
		{ID: "page:100:msg:m_1", Type: domain.MessageReceived, Page: "100", Contact: "900", Time: time.Unix(1790000000, 0)},
		{ID: "a", Type: domain.PageConnected, Page: "a page/with. signs", Contact: "\xff\n%"},
		{ID: "b", Type: domain.ForeignReceived, Page: "100", Original: domain.MessageReceived, OriginalID: "c"},
	} {
		m, err := streams.Encode(e)
		require.NoError(f, err)
		h := m.Header
		f.Add(m.Subject, h.Get(streams.HeaderID), h.Get(streams.HeaderSource), h.Get(streams.HeaderSubject),
			h.Get(streams.HeaderTime), h.Get(streams.HeaderOriginal), h.Get(streams.HeaderOriginalID), m.Data)
	}
	f.Add("pagestream.100.message.received", "x", "/pages/101", "", "", "", "", []byte("{}"))
	f.Add("pagestream.100.message.received", "x", "/pages/%zz", "%", "yesterday", "", "", []byte("{"))
	f.Add("pagestream.100.message.received", "x", "/pages/100", "", "0000-01-01T00:00:00+23:00", "", "", []byte("{}"))
	f.Fuzz(func(t *testing.T, subject, id, source, contact, at, original, originalID string, data []byte) {
		h := nats.Header{}
		for name, value := range map[string]string{
			streams.HeaderID: id, streams.HeaderSource: source, streams.HeaderSubject: contact, streams.HeaderTime: at,
			streams.HeaderOriginal: original, streams.HeaderOriginalID: originalID,
		} {
			if value != "" {
				h.Set(name, value)
			}
		}
		stored := time.Unix(1790000000, 0).UTC()
		got, err := streams.Decode(subject, h, data, 7, stored)
		if err != nil {
			require.ErrorIs(t, err, streams.ErrMalformed)
			require.NotContains(t, err.Error(), "\n")
			return
		}
		require.Equal(t, id, got.ID)
		require.Equal(t, uint64(7), got.Seq)
		require.Equal(t, stored, got.At)
		token, typ, err := streams.ParseSubject(subject)
		require.NoError(t, err)
		require.Equal(t, typ, got.Type)
		require.Equal(t, token, got.Page.Token())
		m, err := streams.Encode(got.Event)
		if err != nil {
			return // it is of another program, whose types and ids may have other forms
		}
		back, err := streams.Decode(m.Subject, m.Header, m.Data, 7, stored)
		require.NoError(t, err)
		if got.Page == "" {
			got.Page = domain.NoPage
		}
		if got.Time.Year() < 1 {
			got.Time = time.Time{} // Encode leaves it out
		}
		require.Empty(t, cmp.Diff(got, back))
	})
}
