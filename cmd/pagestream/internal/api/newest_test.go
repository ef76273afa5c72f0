package api

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// TestStoredRangeBoundsTheRead checks that of a stream only the part of the asked time is read.
func TestStoredRangeBoundsTheRead(t *testing.T) {
	s := streamstest.Run(t)
	s.Stream(t, streams.Spec{})
	day := func(i int) time.Time { return time.Date(2026, 1, i, 0, 0, 0, 0, time.UTC) }
	for i := 1; i <= 20; i++ {
		m, err := streams.Encode(domain.Event{ID: fmt.Sprint("e", i), Type: domain.MessageRead, Page: "100"})
		require.NoError(t, err)
		m.Header.Set(streams.HeaderStoredAt, day(i).Format(time.RFC3339Nano))
		_, err = s.JS.PublishMsg(t.Context(), m)
		require.NoError(t, err)
	}
	for _, c := range []struct {
		stored         storedRange
		from, to       uint64
		wantFrom, want uint64
		none           bool
	}{
		{storedRange{}, 1, 0, 1, 0, false},
		{storedRange{until: day(5)}, 1, 0, 1, 5, false}, // an hour to spare
		{storedRange{until: day(5)}, 1, 3, 1, 3, false},
		{storedRange{since: day(5)}, 1, 0, 5, 0, false},
		{storedRange{since: day(5)}, 9, 12, 9, 12, false},
		{storedRange{since: day(5), until: day(7)}, 1, 20, 5, 7, false},
		{storedRange{since: day(5), until: day(7)}, 9, 0, 9, 7, true},
		{storedRange{until: day(0)}, 1, 0, 1, 0, true},
	} {
		o := streams.ReadOptions{Stream: streams.Name, From: c.from, To: c.to}
		none, err := c.stored.bound(t.Context(), s.JS, &o)
		require.NoError(t, err)
		assert.Equal(t, []uint64{c.wantFrom, c.want}, []uint64{o.From, o.To}, "%+v", c)
		assert.Equal(t, c.none, none, "%+v", c)
	}
}
