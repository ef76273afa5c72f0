package server_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/server"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// TestAVanishedStreamIsMadeOnRequestOnly checks that a stream that vanishes, while the program runs or before a start,
// is made again only by a command that confirms it, which is on record, and that read models keep what they have until
// then.
func TestAVanishedStreamIsMadeOnRequestOnly(t *testing.T) {
	t.Parallel()
	nats := streamstest.RunCluster(t, 1)
	path := written(t, t.TempDir(), fmt.Sprintf("url: %q, accept_loss: true", nats.URL()))
	cfg := loaded(t, path)
	r := start(t, cfg)
	require.Equal(t, 200, post(t, r.PublicAddr(), message("700", "31", "m_1", "x", 1790000000000)))
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if n := status(t, r).Stream.Events; n != 1 {
			return fmt.Errorf("%d events", n)
		}
		return nil
	})
	missing := func() {
		t.Helper()
		_, err := nats.JS.Stream(t.Context(), streams.Name)
		require.ErrorIs(t, err, jetstream.ErrStreamNotFound)
	}
	conversation := func() string {
		t.Helper()
		_, stdout, stderr := r.command(t, "conversations", "show", "700", "31")
		return stdout + stderr
	}
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if text := conversation(); !strings.Contains(text, "x") {
			return fmt.Errorf("the conversation is %q", text)
		}
		return nil
	})

	require.NoError(t, nats.JS.DeleteStream(t.Context(), streams.Name))
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if why := r.notReady(t); !strings.Contains(why, "recover --new-stream") {
			return fmt.Errorf("readyz says: %q", why)
		}
		return nil
	})
	require.Equal(t, 503, post(t, r.PublicAddr(), message("700", "31", "m_2", "y", 1790000000001)))
	missing()
	require.Contains(t, conversation(), "x", "the read model keeps its messages")
	r.stop(t)

	err := server.New(server.Options{Config: cfg}).Run(t.Context())
	require.ErrorContains(t, err, "recover --new-stream")
	missing()
	code, _, stderr := run(t, t.Context(), "-c", path, "projections", "rebuild", "pages", "--offline")
	require.Equal(t, cli.ExitFailed, code)
	require.Contains(t, stderr, "recover --new-stream")
	missing()

	code, _, stderr = run(t, t.Context(), "-c", path, "recover", "--new-stream")
	require.Equal(t, cli.ExitUsage, code)
	require.Contains(t, stderr, "add --yes")
	missing()
	code, stdout, stderr := run(t, t.Context(), "-c", path, "recover", "--new-stream", "--yes")
	require.Equal(t, cli.ExitOK, code, stderr)
	require.Contains(t, stdout, "a new, empty stream was made")
	code, _, stderr = run(t, t.Context(), "-c", path, "recover", "--new-stream", "--yes")
	require.Equal(t, cli.ExitFailed, code)
	require.Contains(t, stderr, "nothing was made")

	r = start(t, cfg)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if got := post(t, r.PublicAddr(), message("700", "31", "m_1", "x", 1790000000000)); got != 200 {
			return fmt.Errorf("answered %d: %s", got, r.notReady(t))
		}
		return nil
	})
	code, stdout, stderr = r.command(t, "history")
	require.Equal(t, cli.ExitOK, code, stderr)
	assert.Contains(t, stdout, "stream_new")
}
