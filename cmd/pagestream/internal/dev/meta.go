package dev

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/internal/disk"
)

// These constants are the app and the people of the fake Meta. The user has all pages; the assistant has
// not allowed the app to read messages.
const (
	appID     = "100000000000001"
	user      = "100000000000900"
	assistant = "100000000000901"
	app       = "dev"
)

// The secrets of the app are made anew by each process.
var (
	// AppSecret is the secret with which the fake Meta signs deliveries.
	AppSecret = rand.Text()
	// VerifyToken is the verify token of the webhook handshake.
	VerifyToken = rand.Text()
)

// saveEvery is how often the state of the fake Meta is written, if it has changed.
const saveEvery = time.Second

// fakeMeta serves the fake Graph API on its own listener, and keeps its state in a file.
type fakeMeta struct {
	graph  *fakegraph.Graph
	seed   uint64
	server *http.Server
	url    string
	file   string
	log    *slog.Logger

	saving sync.Mutex
	saved  []byte // what the file has

	stop context.CancelFunc // stops saving
	work sync.WaitGroup
}

// metaFile is the state of the fake Meta in its file.
type metaFile struct {
	// Seed is that of the pages' contacts. It stays the same, so that their conversations
	// continue.
	Seed  uint64          `json:"seed"`
	Graph json.RawMessage `json:"graph"`
}

// startFakeMeta starts the fake Meta with the state in dir. If there is none, it begins
// with the seed.
func startFakeMeta(dir string, seed uint64, log *slog.Logger) (_ *fakeMeta, err error) {
	m := &fakeMeta{file: filepath.Join(dir, "fake-meta.json"), seed: seed, log: log}
	var state metaFile
	m.saved, err = os.ReadFile(m.file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("read state of fake Meta: %w", err)
	default:
		if json.Unmarshal(m.saved, &state) != nil { // the decoder's error may quote a token
			return nil, fmt.Errorf("%s is damaged; remove the directory, or use another --data-dir", m.file)
		}
		m.seed = state.Seed
	}
	pages, people := content()
	m.graph, err = fakegraph.New(fakegraph.Options{
		Apps:  []fakegraph.App{{ID: appID, Secret: AppSecret, Name: "pagestream dev"}},
		Users: people, Pages: pages, Seed: m.seed, Picker: true,
	})
	if err == nil && state.Graph != nil {
		err = m.graph.Restore(state.Graph)
	}
	if err != nil {
		return nil, fmt.Errorf("make fake Graph: %w", err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for fake Graph: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/", m.graph)
	mux.Handle("/control/", m.graph.Control()) // reachable from this machine only, because the listener is
	m.server, m.url = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}, "http://"+ln.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	m.stop = stop
	m.work.Go(func() { _ = m.server.Serve(ln) }) // ends with close
	m.work.Go(func() {
		for backoff.Sleep(ctx, saveEvery) == nil {
			if err := m.save(); err != nil {
				m.log.Error("state of the fake Meta can't be kept", "err", err)
			}
		}
	})
	return m, nil
}

// save writes the state if it has changed.
func (m *fakeMeta) save() error {
	m.saving.Lock()
	defer m.saving.Unlock()
	b, err := json.Marshal(metaFile{m.seed, m.graph.Snapshot()})
	if err != nil {
		return fmt.Errorf("encode state of fake Meta: %w", err)
	}
	if bytes.Equal(b, m.saved) {
		return nil
	}
	if err := disk.Replace(m.file, b); err != nil {
		return fmt.Errorf("keep state of fake Meta: %w", err)
	}
	m.saved = b
	return nil
}

// tokens returns the tokens of pages. They are on disk before they are handed out, so that
// they are valid after a restart.
func (m *fakeMeta) tokens(shops []Shop) (map[string]string, error) {
	out := map[string]string{}
	for _, s := range shops {
		token, err := m.graph.PageToken(appID, s.admin(), s.ID)
		if err != nil {
			return nil, fmt.Errorf("get page token: %w", err)
		}
		out[s.ID] = token
	}
	return out, m.save()
}

// close stops the fake Meta and writes its state.
func (m *fakeMeta) close() error {
	err := m.server.Close()
	m.stop()
	m.work.Wait()
	return errors.Join(err, m.save())
}
