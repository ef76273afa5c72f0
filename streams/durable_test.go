package streams_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// TestReadersSeeWhatIsWritten checks that an event that a reader gets is in the files of the stream, so that it is
// still there after the process was killed. The server lets consumers read a batch before it has synced it.
func TestReadersSeeWhatIsWritten(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t)
	s.Stream(t, streams.Spec{})
	p, err := streams.NewPublisher(s.JS, streams.PublisherOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close(context.Background())) })
	const rounds, batch = 30, 500
	go func() {
		for r := range rounds {
			events := make([]domain.Event, batch)
			for i := range events {
				events[i] = domain.Event{
					ID: fmt.Sprintf("e%d-%d", r, i), Type: domain.MessageReceived, Page: "100",
					Data: domain.Data{Message: &domain.Message{MID: fmt.Sprintf("m%d-%d", r, i), Text: strings.Repeat("x", 2000)}},
				}
			}
			if _, err := p.Publish(context.Background(), events); !assert.NoError(t, err) {
				return
			}
		}
	}()
	n := 0
	done := errors.New("done")
	err = streams.FollowMessages(t.Context(), s.JS, streams.Name, 1, nil, func(list []streams.Message) error {
		n += len(list)
		files, err := filepath.Glob(filepath.Join(s.Dir, "jetstream", "$G", "streams", streams.Name, "msgs", "*.blk"))
		require.NoError(t, err)
		require.NotEmpty(t, files)
		var all []byte
		for _, f := range files[max(0, len(files)-2):] {
			b, err := os.ReadFile(f)
			require.NoError(t, err)
			all = append(all, b...)
		}
		id := list[len(list)-1].Header.Get(streams.HeaderMsgID)
		require.True(t, bytes.Contains(all, []byte(id)), "%s is in no file", id)
		if n == rounds*batch {
			return done
		}
		return nil
	})
	require.ErrorIs(t, err, done)
}
