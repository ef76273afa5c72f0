package streams_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// TestReadEndsIfTheRestIsDeleted checks that a read does not wait for messages that were deleted after
// it had begun.
func TestReadEndsIfTheRestIsDeleted(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	const n = 6000
	publish(t, s, messages("200", n))
	ctx, cancel := context.WithTimeout(t.Context(), streamstest.Limit)
	defer cancel()
	read := 0
	_, err := streams.Read(ctx, s.JS, streams.ReadOptions{}, func(streams.Stored) error {
		if read++; read > 1 {
			return nil
		}
		st, err := s.JS.Stream(ctx, streams.Name)
		require.NoError(t, err)
		return st.Purge(ctx)
	})
	require.NoError(t, err)
	require.Less(t, read, n, "the rest was deleted before it was read")
}
