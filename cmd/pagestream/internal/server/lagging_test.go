package server_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/backup"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/embedded"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// TestReadOfALaggingCopy checks that a read is complete although it may be of a copy that is still being filled, as the
// copies of a restored stream are: a server that has nothing to send of its copy is no end of the stream.
func TestReadOfALaggingCopy(t *testing.T) {
	t.Parallel()
	events := streamstest.Volume(40_000, 8_000)
	old := streamstest.Run(t, func(o *embedded.Options) { o.Sync = embedded.SyncInterval })
	old.Stream(t, streams.Spec{})
	for i := range events {
		m, err := streams.Encode(domain.Event{
			ID: fmt.Sprint("e", i), Type: domain.MessageReceived, Page: "700", Contact: "31",
			Data: domain.Data{Message: &domain.Message{Text: strings.Repeat("text ", 100)}},
		})
		require.NoError(t, err)
		_, err = old.JS.PublishMsgAsync(m, jetstream.WithStallWait(streamstest.Limit))
		require.NoError(t, err)
	}
	<-old.JS.PublishAsyncComplete()
	dir := filepath.Join(t.TempDir(), "backup")
	_, err := backup.Take(t.Context(), backup.Options{Conn: old.Conn, Streams: []string{streams.Name}, Dir: dir})
	require.NoError(t, err)
	c := streamstest.RunCluster(t, 3)
	_, err = backup.Restore(t.Context(), backup.RestoreOptions{Conn: c.JS.Conn(), Dir: dir, Replicas: 3})
	require.NoError(t, err)
	require.Eventually(t, func() bool { // a server without the events may lead the stream for a moment
		last, err := streams.Last(t.Context(), c.JS, streams.Name)
		return err == nil && last == uint64(events)
	}, streamstest.Limit, 10*time.Millisecond)
	for i := range 10 {
		if i == 5 {
			require.NoError(t, streams.AwaitCopies(t.Context(), c.JS, streams.Name, uint64(events), nil))
		}
		n := 0
		_, err := streams.Read(t.Context(), c.JS, streams.ReadOptions{}, func(streams.Stored) error { n++; return nil })
		require.NoError(t, err)
		require.Equal(t, events, n)
	}
}
