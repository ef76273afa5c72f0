package server_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/server"
	"github.com/pagestream/pagestream/domain/messenger"
	"github.com/pagestream/pagestream/streams"
)

// TestBenchInterrupted checks that an interrupted bench ends soon and leaves no files.
func TestBenchInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	dir := t.TempDir()
	began := time.Now()
	code, _, stderr := run(t, ctx, "bench", "--dir", dir, "--only", "ingest")
	took := time.Since(began)
	require.Equal(t, cli.ExitFailed, code)
	require.Contains(t, stderr, "context deadline exceeded")
	require.LessOrEqual(t, took, time.Minute)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left, "files left")
}

// connections is the number of clients of the ingest benchmark.
const connections = 64

// BenchmarkIngest measures durable ingest of single-item deliveries over HTTP, with every
// projection running, and single synced publishes of the same kind of events to another stream of the same server.
// It reports both rates and their ratio.
func BenchmarkIngest(b *testing.B) {
	http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = connections
	cfg := testConfig(b.TempDir())
	p := server.New(server.Options{Config: cfg})
	require.NoError(b, p.Run(b.Context()))
	defer func() { _ = p.Close(context.Background()) }()
	_, err := p.JS().CreateStream(b.Context(), jetstream.StreamConfig{Name: "SINGLE", Subjects: []string{"single"}})
	require.NoError(b, err)
	run := int64(0)
	body := func(i int64) []byte {
		return message("700", fmt.Sprint(30+i%500), fmt.Sprintf("m_%d_%d", run, i),
			"a message of an ordinary length, as people write them", 1790000000000+i)
	}
	for b.Loop() {
		run++
		const n = 20_000
		ingest := measureRate(n, func(i int64) error {
			if got, err := tryPost(p.PublicAddr(), body(i)); err != nil || got != http.StatusOK {
				return fmt.Errorf("answered %d: %w", got, err)
			}
			return nil
		})
		run++
		single := measureRate(n/4, func(i int64) error {
			m, err := streams.Encode(messenger.Split(body(i), messenger.Options{App: "main"}).Events[0])
			if err != nil {
				return err
			}
			m.Subject = "single"
			_, err = p.JS().PublishMsg(context.Background(), m, jetstream.WithExpectStream("SINGLE"))
			return err
		})
		if ingest.err != nil || single.err != nil {
			b.Fatal(ingest.err, single.err)
		}
		b.ReportMetric(ingest.rate, "ingest/s")
		b.ReportMetric(single.rate, "single/s")
		b.ReportMetric(ingest.rate/single.rate, "ratio")
	}
}

type rate struct {
	rate float64
	err  error
}

// measureRate calls do with 1 to n from as many goroutines as there are connections, and returns
// the calls per second.
func measureRate(n int64, do func(int64) error) rate {
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	start := time.Now()
	for range connections {
		wg.Go(func() {
			for i := next.Add(1); i <= n; i = next.Add(1) {
				if err := do(i); err != nil {
					failed.Store(&err)
					return
				}
			}
		})
	}
	wg.Wait()
	r := rate{rate: float64(n) / time.Since(start).Seconds()}
	if err := failed.Load(); err != nil {
		r.err = *err
	}
	return r
}
