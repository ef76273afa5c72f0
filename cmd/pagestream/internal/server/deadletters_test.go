package server_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// flaky is a projection that can't apply messages with the text "poison" while it is failing.
type flaky struct{ failing atomic.Bool }

func (*flaky) Name() string { return "flaky" }
func (*flaky) Version() int { return 1 }

func (p *flaky) Apply(tx *store.Tx, e streams.Stored) error {
	b := tx.Bucket("texts")
	if m := e.Data.Message; m != nil && m.Text == "poison" && p.failing.Load() {
		var missing *streams.Stored
		_ = missing.Seq // panics like a programming error
	}
	return b.Put(store.Key(e.Seq), []byte(e.Page))
}

// TestDeadLettersOfReactors checks that an event that a reactor can't handle is parked, listed like
// those of read models, and handled when it is redriven.
func TestDeadLettersOfReactors(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t.TempDir()))
	var failing atomic.Bool
	failing.Store(true)
	var done atomic.Int64
	reactor := streams.NewReactor(streams.ReactorOptions{
		Connect: func() (*nats.Conn, error) { return r.Dial("flaky") }, Filter: "pagestream.*.message.received",
		Durable: "flaky", MaxDeliver: 2, Pause: time.Millisecond, Parking: r.Parking(),
		Handle: streams.OnEvent(func(_ context.Context, e streams.Stored) error {
			if failing.Load() && e.Contact == "31" {
				return errors.New("no use")
			}
			done.Add(1)
			return nil
		}),
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- reactor.Run(ctx) }()
	defer func() {
		cancel()
		assert.NoError(t, <-ended)
	}()
	for i := range 6 {
		body := message("700", fmt.Sprint("3", i%2), fmt.Sprint("m_", i), "x", 1790000000000+int64(i))
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), body))
	}
	streamstest.Eventually(t, streamstest.Limit, func() error {
		list, err := r.Parking().List(t.Context(), "flaky")
		if len(list) != 3 || done.Load() != 3 {
			return fmt.Errorf("%d parked, %d done, %w", len(list), done.Load(), err)
		}
		return nil
	})
	_, out, _ := r.command(t, "deadletters", "list", "--projection", "flaky")
	assert.Contains(t, out, "no use")
	assert.Contains(t, out, "waits behind 2")
	code, out, stderr := r.command(t, "--json", "deadletters", "list", "--limit", "2")
	assert.Equal(t, cli.ExitOK, code, stderr)
	assert.Equal(t, 2, strings.Count(out, "flaky"))
	code, out, _ = r.command(t, "deadletters", "redrive", "--page", "700", "--dry-run")
	assert.Equal(t, cli.ExitOK, code)
	assert.Contains(t, out, "redrive: 1 dead letters")
	code, out, stderr = r.command(t, "deadletters", "discard", "2", "--reason", "no use")
	assert.Equal(t, cli.ExitOK, code, stderr)
	assert.Contains(t, out, "flaky: 0 events applied, 1 discarded, 2 still parked")
	failing.Store(false)
	code, out, stderr = r.command(t, "deadletters", "redrive", "--all")
	assert.Equal(t, cli.ExitOK, code, stderr)
	assert.Contains(t, out, "flaky: 2 events applied, 0 discarded, 0 still parked")
	assert.EqualValues(t, 5, done.Load())
}

// TestDeadLetters checks dead letters of a read model on the command line, from the panic to the
// redrive.
func TestDeadLetters(t *testing.T) {
	t.Parallel()
	p := &flaky{}
	p.failing.Store(true)
	r := start(t, testConfig(t.TempDir()), p)
	for i, text := range []string{"a", "poison", "b", "c", "poison", "d"} {
		page, contact := "700", fmt.Sprint("3", i%2)
		body := message(page, contact, fmt.Sprint("m_", i), text, 1790000000000+int64(i))
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), body))
	}
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if s := r.Model("flaky").Status(); s.Seq != 6 || s.Parked != 4 {
			return fmt.Errorf("status %+v", s)
		}
		return nil
	})
	code, out, stderr := r.command(t, "deadletters", "list")
	require.Equal(t, cli.ExitOK, code, stderr)
	assert.Contains(t, out, "waits behind 2")
	assert.Contains(t, out, "nil pointer dereference")
	assert.NotContains(t, out, "poison")
	_, out, _ = r.command(t, "deadletters", "show", "4")
	assert.Contains(t, out, "message.received")
	_, out, _ = r.command(t, "projections", "list")
	assert.Contains(t, out, "PARKED")
	code, out, _ = r.command(t, "audit")
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, out, "flaky has not applied 4 events")

	for _, wrong := range [][]string{{"redrive"}, {"redrive", "2", "--all"}, {"discard", "2"}, {"redrive", "--all"}} {
		code, _, stderr = r.command(t, append([]string{"deadletters"}, wrong...)...)
		assert.Equal(t, cli.ExitUsage, code, "%v: %s", wrong, stderr)
	}
	code, out, _ = r.command(t, "deadletters", "redrive", "--page", "700", "--dry-run")
	assert.Equal(t, cli.ExitOK, code)
	assert.Contains(t, out, "redrive: 2 dead letters")
	code, _, stderr = r.command(t, "deadletters", "redrive", "99")
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, stderr, "no such dead letter")
	code, out, _ = r.command(t, "deadletters", "discard", "2", "--reason", "no use")
	assert.Equal(t, cli.ExitOK, code)
	assert.Contains(t, out, "flaky: 2 events applied, 1 discarded, 1 still parked")
	code, _, stderr = r.command(t, "deadletters", "redrive", "--all")
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, stderr, "still parked")
	code, out, _ = r.command(t, "projections", "rebuild", "flaky")
	assert.Equal(t, cli.ExitOK, code)
	assert.Contains(t, out, "the same as before")
	p.failing.Store(false)
	code, out, _ = r.command(t, "deadletters", "redrive", "5")
	assert.Equal(t, cli.ExitOK, code)
	assert.Contains(t, out, "flaky: 1 events applied, 0 discarded, 0 still parked")
	_, out, _ = r.command(t, "deadletters", "list")
	assert.Contains(t, out, "There are no dead letters.")
	code, out, stderr = r.command(t, "audit")
	assert.Equal(t, cli.ExitOK, code, out+stderr)
}
