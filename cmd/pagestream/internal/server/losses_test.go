package server_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// TestLostBlocksAreSaidAndKept deletes a block of the stream of a stopped server. The start says which events
// are lost, doctor and status as well; nothing is rebuilt, also not because of another version; recover lists
// what is held, and after the loss was accepted, on record, read models can be rebuilt.
func TestLostBlocksAreSaidAndKept(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	r := start(t, cfg)
	text := strings.Repeat("long ", 24_000)
	const n, erased, once = 144, 12, "3912345678"
	contact := func(i int) string { // each event that is erased makes the server write a block again
		switch {
		case i%(n/erased) == 0:
			return "30"
		case i == 40: // it is in the second block
			return once
		}
		return fmt.Sprint(31 + i%2)
	}
	for i := range n {
		require.Equal(t, 200, post(t, r.PublicAddr(), message("700", contact(i), fmt.Sprintf("m_%d", i), text, 1790000000000)))
	}
	code, _, stderr := r.command(t, "erase", "700", "30", "--yes")
	require.Equal(t, cli.ExitOK, code, stderr)
	get[any](t, r, "/api/v1/pages/700/conversations")
	require.Nil(t, status(t, r).Stream.Lost, "what was erased is not lost")
	all := func() int { // the messages that the conversations have
		get[any](t, r, "/api/v1/pages/700/conversations")
		list, err := conversations.Between(r.Model(conversations.Name), 1, 1000, 1000)
		require.NoError(t, err)
		return len(list)
	}
	messages := all()
	require.Equal(t, n-erased, messages)
	r.stop(t)
	dir := filepath.Join(cfg.Data.Dir, "nats", "jetstream", "$G", "streams", streams.Name, "msgs")
	blocks, err := filepath.Glob(filepath.Join(dir, "*.blk"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(blocks), 4)
	require.NoError(t, os.Remove(filepath.Join(dir, "2.blk")))

	r = start(t, cfg)
	require.Contains(t, r.log.String(), "level=ERROR msg=\"the stream has lost events")
	lost := status(t, r).Stream.Lost
	require.NotNil(t, lost)
	require.NotZero(t, lost.Events)
	require.Len(t, lost.Ranges, 1)
	require.Contains(t, r.log.String(), lost.String())
	_, stdout, _ := r.command(t, "status")
	require.Contains(t, stdout, "LOST: "+lost.String())
	report, code := r.runDoctor(t)
	require.Equal(t, cli.ExitFailed, code)
	require.Equal(t, []meta.State{meta.StateEventsLost}, causesOf(report, ""))
	require.Equal(t, meta.Wrong, report.Install[0].Severity)
	require.Contains(t, report.Install[0].Evidence, lost.String())
	require.Contains(t, report.Install[0].Do, "pagestream recover")

	require.Equal(t, messages, all(), "nothing is thrown away")
	code, _, stderr = r.command(t, "projections", "rebuild", "conversations")
	require.Equal(t, cli.ExitFailed, code)
	require.Contains(t, stderr, "pagestream recover")
	require.Equal(t, 200, post(t, r.PublicAddr(), message("700", "31", "m_new", "x", 1790000000000)), "ingest goes on")
	require.Equal(t, 200, post(t, r.PublicAddr(), message("700", contact(91), "m_91", text, 1790000000000)), "a duplicate")

	code, stdout, stderr = r.command(t, "--json", "recover")
	require.Equal(t, cli.ExitFailed, code, stderr)
	var held operate.Loss
	require.NoError(t, json.Unmarshal([]byte(stdout), &held))
	require.Equal(t, lost.Ranges, held.Ranges)
	require.Len(t, held.Messages, int(lost.Events), "each is still held")
	for _, m := range held.Messages {
		require.True(t, lost.Ranges[0].Has(m.Seq))
		require.NotEmpty(t, m.MID)
		require.Equal(t, text, m.Text)
	}
	code, stdout, _ = r.command(t, "recover")
	require.Equal(t, cli.ExitFailed, code)
	require.Contains(t, stdout, lost.Ranges[0].String())

	require.NotEmpty(t, filesWith(t, cfg.Data.Dir, once))
	code, stdout, stderr = r.command(t, "erase", "700", once, "--yes")
	require.Equal(t, cli.ExitOK, code, stderr)
	require.Contains(t, stdout, "the stream had lost the events, and the read models have nothing of them any more")
	require.Empty(t, filesWith(t, cfg.Data.Dir, once))
	require.Equal(t, messages, all(), "with m_new, and without that of the contact")
	code, stdout, _ = r.command(t, "erase", "700", once, "--yes")
	require.Equal(t, cli.ExitOK, code)
	require.Contains(t, stdout, "there is nothing to erase")

	r.stop(t)
	r = start(t, cfg) // it is said at each start
	require.Contains(t, r.log.String(), lost.String())
	code, stdout, stderr = r.command(t, "recover", "--accept-loss")
	require.Equal(t, cli.ExitOK, code, stderr)
	require.Contains(t, stdout, lost.String())
	code, stdout, _ = r.command(t, "history")
	require.Equal(t, cli.ExitOK, code)
	require.Contains(t, stdout, "losses_accept")
	require.Contains(t, stdout, lost.Ranges[0].String())
	require.Nil(t, status(t, r).Stream.Lost)
	report, _ = r.runDoctor(t) // the page is not connected
	require.Empty(t, report.Install)
	for _, m := range r.Models() {
		_, err := m.Rebuild(t.Context(), nil)
		require.NoError(t, err)
	}
	left := messages + 1 - int(lost.Events)
	require.Equal(t, left, all())
	var out operate.Loss
	require.NoError(t, r.do(t.Context(), http.MethodGet, "/api/v1/losses", nil, nil, &out))
	require.Equal(t, lost.Events, out.Accepted)
	code, stdout, stderr = r.command(t, "audit")
	require.Equal(t, cli.ExitOK, code, stdout+stderr)
	var i int
	_, err = fmt.Sscanf(held.Messages[0].MID, "m_%d", &i)
	require.NoError(t, err)
	again := message("700", contact(i), held.Messages[0].MID, text, 1790000000000)
	require.Equal(t, 200, post(t, r.PublicAddr(), again), "Meta sends it again, and it is stored")
	r.stop(t)
	r = start(t, cfg)
	require.NotContains(t, r.log.String(), "level=ERROR msg=\"the stream has lost")
	require.Equal(t, left+1, all())
}

// TestADamagedBlockIsSaid changes a byte in a block of a stopped server, which may have lost its index of blocks too. The
// server goes on without what can't be read, says what is lost, and keeps it in the read models.
func TestADamagedBlockIsSaid(t *testing.T) {
	t.Parallel()
	for name, indexed := range map[string]bool{"with index": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(t.TempDir())
			r := start(t, cfg)
			const n = 170
			for i := range n {
				text := strings.Repeat(fmt.Sprintf("long %d ", i), 14_000)
				require.Equal(t, 200, post(t, r.PublicAddr(), message("700", "31", fmt.Sprintf("m_%d", i), text, 1790000000000)))
			}
			require.NoError(t, r.Model("conversations").WaitFor(t.Context(), n))
			dir := filepath.Join(cfg.Data.Dir, "nats", "jetstream", "$G", "streams", streams.Name, "msgs")
			block := filepath.Join(dir, "2.blk")
			var b []byte
			streamstest.Eventually(t, streamstest.Limit, func() (err error) {
				if b, err = os.ReadFile(block); err == nil && !bytes.HasPrefix(b, []byte("cmp")) {
					err = errors.New("the block is not compressed")
				}
				return err
			})
			r.stop(t)
			b[len(b)/2] ^= 0x55
			require.NoError(t, os.WriteFile(block, b, 0o600))
			if !indexed {
				require.NoError(t, os.Remove(filepath.Join(dir, "index.db")))
			}

			r = start(t, cfg)
			code, _, stderr := r.command(t, "projections", "verify", "conversations")
			require.Equal(t, cli.ExitFailed, code)
			require.Contains(t, stderr, "the stream has lost events")
			require.Contains(t, r.log.String(), "files of the stream were damaged")
			lost := status(t, r).Stream.Lost
			require.NotNil(t, lost)
			require.Less(t, lost.Events, uint64(20), "a chunk of the block")
			code, stdout, _ := r.command(t, "--json", "recover")
			require.Equal(t, cli.ExitFailed, code)
			var held operate.Loss
			require.NoError(t, json.Unmarshal([]byte(stdout), &held))
			require.Len(t, held.Messages, int(lost.Events), "each is still held")
			code, _, stderr = r.command(t, "projections", "rebuild", "conversations")
			require.Equal(t, cli.ExitFailed, code)
			require.Contains(t, stderr, "pagestream recover")
			require.Equal(t, 200, post(t, r.PublicAddr(), message("700", "31", "m_new", "x", 1790000000000)), "ingest goes on")
			code, _, stderr = r.command(t, "recover", "--accept-loss", "--yes")
			require.Equal(t, cli.ExitOK, code, stderr)
			code, _, stderr = r.command(t, "projections", "rebuild", "conversations")
			require.Equal(t, cli.ExitOK, code, stderr)
			require.Equal(t, uint64(n+1), status(t, r).Stream.LastSeq)
		})
	}
}

// TestAChangedByteIsFoundByARebuild changes a byte of an event in the block to which the server adds: the server skips the
// event in silence. A rebuild has other rows then, so the stream is examined, and the read model is kept.
func TestAChangedByteIsFoundByARebuild(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	r := start(t, cfg)
	for i := range 5 {
		require.Equal(t, 200, post(t, r.PublicAddr(), message("700", "31", fmt.Sprintf("m_%d", i), fmt.Sprintf("text %d", i), 1790000000000)))
	}
	require.NoError(t, r.Model("conversations").WaitFor(t.Context(), 5))
	r.stop(t)
	block := filepath.Join(cfg.Data.Dir, "nats", "jetstream", "$G", "streams", streams.Name, "msgs", "1.blk")
	b, err := os.ReadFile(block)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(block, bytes.ReplaceAll(b, []byte("text 2"), []byte("texT 2")), 0o600))
	r = start(t, cfg)
	code, _, stderr := r.command(t, "projections", "rebuild", "conversations")
	require.Equal(t, cli.ExitFailed, code)
	require.Contains(t, stderr, "pagestream recover")
	lost := status(t, r).Stream.Lost
	require.NotNil(t, lost)
	require.Equal(t, []streams.Range{{From: 3, To: 3}}, lost.Ranges)
	code, stdout, _ := r.command(t, "recover")
	require.Equal(t, cli.ExitFailed, code)
	require.Contains(t, stdout, "text 2")
}
