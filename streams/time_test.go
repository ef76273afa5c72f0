package streams_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
)

// TestTimesOfHeaders checks that a message with a time that can't be written as JSON is not an event, so
// that no list fails because of it.
func TestTimesOfHeaders(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Time{
		"2026-01-02T03:04:05.6+01:00": time.Date(2026, 1, 2, 2, 4, 5, 6e8, time.UTC),
		"yesterday":                   {},
		"0000-01-01T00:00:00+01:00":   {},
		"9999-12-31T23:59:59-01:00":   {},
	} {
		for _, header := range []string{streams.HeaderTime, streams.HeaderStoredAt} {
			m, err := streams.Encode(domain.Event{ID: "1", Type: domain.MessageRead})
			require.NoError(t, err)
			m.Header.Set(header, value)
			s, err := streams.Decode(m.Subject, m.Header, m.Data, 1, at)
			if want.IsZero() {
				require.ErrorIs(t, err, streams.ErrMalformed, value)
				continue
			}
			require.NoError(t, err)
			if header == streams.HeaderTime {
				assert.Equal(t, want, s.Time)
				assert.Equal(t, at, s.At)
			} else {
				assert.Equal(t, want, s.At)
			}
		}
	}
	got, err := streams.StoredAt(nats.Header{}, at)
	require.NoError(t, err)
	assert.Equal(t, at, got)
	_, err = streams.StoredAt(nats.Header{streams.HeaderStoredAt: {"yesterday"}}, at)
	require.ErrorIs(t, err, streams.ErrMalformed)
}
