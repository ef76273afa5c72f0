package dev

import (
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
)

// These constants are the app and the user of the fake Meta.
const (
	appID = "100000000000001"
	user  = "100000000000900"
	app   = "dev"
)

// The secrets of the app are made anew by each process.
var (
	// AppSecret is the secret with which the fake Meta signs deliveries.
	AppSecret = rand.Text()
	// VerifyToken is the verify token of the webhook handshake.
	VerifyToken = rand.Text()
)

// connected is the number of fakePages that are connected at the start. The others can be
// connected by trying the login.
const connected = 2

var fakePages = []fakegraph.Page{
	{ID: "100000000000101", Name: "Corner Bakery", Category: "Bakery"},
	{ID: "100000000000102", Name: "Harbour Bikes", Category: "Bicycle shop"},
	{ID: "100000000000103", Name: "Old Mill Books", Category: "Book shop"},
	{ID: "100000000000104", Name: "Fern & Moss", Category: "Florist"},
}

// fakeMeta serves the fake Graph API on its own listener.
type fakeMeta struct {
	graph  *fakegraph.Graph
	server *http.Server
	url    string
	done   chan struct{}
}

func startFakeMeta(seed uint64) (*fakeMeta, error) {
	user := fakegraph.User{ID: user, Name: "Dev Operator"}
	for _, p := range fakePages {
		user.Pages = append(user.Pages, p.ID)
	}
	g, err := fakegraph.New(fakegraph.Options{
		Apps:  []fakegraph.App{{ID: appID, Secret: AppSecret, Name: "pagestream dev"}},
		Users: []fakegraph.User{user}, Pages: fakePages, Seed: seed, Picker: true,
	})
	if err != nil {
		return nil, fmt.Errorf("make fake Graph: %w", err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for fake Graph: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/", g)
	mux.Handle("/control/", g.Control()) // reachable from this machine only, because the listener is
	m := &fakeMeta{
		graph: g, server: &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second},
		url: "http://" + ln.Addr().String(), done: make(chan struct{}),
	}
	go func() {
		defer close(m.done)
		_ = m.server.Serve(ln) // ends with close
	}()
	return m, nil
}

func (m *fakeMeta) close() error {
	err := m.server.Close()
	<-m.done
	return err
}
