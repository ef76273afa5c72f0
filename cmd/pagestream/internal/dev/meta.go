package dev

import (
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
)

// The app and the person of the fake Meta.
const (
	appID     = "100000000000001"
	AppSecret = "dev-app-secret-that-signs-nothing-real" //nolint:gosec // the fake's own
	Verify    = "dev-verify-token"
	user      = "100000000000900"
	app       = "dev"
)

// connected is how many of fakePages are connected at the start; the others wait for
// somebody who tries the login.
const connected = 2

var fakePages = []fakegraph.Page{
	{ID: "100000000000101", Name: "Corner Bakery", Category: "Bakery"},
	{ID: "100000000000102", Name: "Harbour Bikes", Category: "Bicycle shop"},
	{ID: "100000000000103", Name: "Old Mill Books", Category: "Book shop"},
	{ID: "100000000000104", Name: "Fern & Moss", Category: "Florist"},
}

// fakeMeta is the fake Graph API on a listener of its own.
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
	mux.Handle("/control/", g.Control()) // answers this machine only, as the listener does
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
