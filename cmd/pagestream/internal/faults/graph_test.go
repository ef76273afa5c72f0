//go:build linux

package faults

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// leadsPage is the page that is connected and sends leads.
const leadsPage = 0

// graph answers what the program asks of Graph to connect a page and to read leads.
type graph struct {
	server *httptest.Server

	mu     sync.Mutex
	fields string         // that the app is subscribed to
	read   map[string]int // how often each lead was read
}

func newGraph(t *testing.T) *graph {
	t.Helper()
	g := &graph{read: map[string]int{}}
	g.server = httptest.NewServer(http.HandlerFunc(g.serve))
	t.Cleanup(g.server.Close)
	return g
}

func (g *graph) serve(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/") // without the version
	_ = r.ParseForm()
	var out any = map[string]any{"data": []string{}}
	switch object, edge, _ := strings.Cut(path, "/"); {
	case edge == "subscribed_apps" && r.Method == http.MethodPost:
		g.fields = r.Form.Get("subscribed_fields")
		out = map[string]bool{"success": true}
	case edge == "subscribed_apps":
		out = map[string]any{"data": []any{map[string]any{"id": "1", "subscribed_fields": strings.Split(g.fields, ",")}}}
	case edge == "subscriptions":
		fields := []map[string]string{{"name": "messages"}, {"name": "leadgen"}}
		out = map[string]any{"data": []any{map[string]any{"object": "page", "active": true, "fields": fields}}}
	case object == "debug_token":
		out = map[string]any{"data": map[string]any{"app_id": "1", "type": "PAGE", "is_valid": true}}
	case strings.HasPrefix(object, leadPrefix):
		g.read[object]++
		out = map[string]any{"id": object, "field_data": []any{map[string]any{"name": "n", "values": []string{"v"}}}}
	case edge == "":
		out = map[string]any{"id": object, "name": "a name"}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out)
}

// reactorLimit is how long a lead may wait that was being read when the connection was lost: the server gives it to a
// reactor again after 230 s.
const reactorLimit = 5 * time.Minute

// leadPrefix is the beginning of the ids of leads.
const leadPrefix = "5550"

// leadChange is a change of a delivery with a lead.
func leadChange(id string) string {
	return fmt.Sprintf(`{"field":"leadgen","value":{"leadgen_id":%q,"page_id":%q,"form_id":"9",`+
		`"created_time":1790000000}}`, id, pageID(leadsPage))
}

// connectPage connects the page whose leads are read.
func (c *cluster) connectPage(t *testing.T) {
	t.Helper()
	code, out := c.nodes[0].run("pages", "connect", pageID(leadsPage), "--token", "a-page-token",
		"--fields", "messages,leadgen")
	require.Zero(t, code, out)
}

// checkLeads requires that the reactors of the nodes have read each acknowledged lead, and stored it once.
func (c *cluster) checkLeads(t *testing.T) {
	t.Helper()
	wanted := map[string]bool{}
	for _, s := range c.nodes {
		for _, id := range s.load.leads {
			wanted[id] = true
		}
	}
	var retrieved map[string]int
	err := c.nodes[0].eventually(reactorLimit, func() (err error) {
		if retrieved, err = c.nodes[0].readLeads(); err != nil {
			return err
		}
		for id := range wanted {
			if retrieved[id] == 0 {
				return fmt.Errorf("lead %s is not retrieved, of %d", id, len(wanted))
			}
		}
		return nil
	})
	if err != nil {
		c.tellReactor(t, "leads")
	}
	require.NoError(t, err)
	for id, n := range retrieved {
		assert.Equal(t, 1, n, "lead %s is stored more than once", id)
	}
	c.leads = len(wanted)
}

// tellReactor logs the state of a reactor's consumer, and its dead letters.
func (c *cluster) tellReactor(t *testing.T, name string) {
	t.Helper()
	err := c.connect(func(_ *nats.Conn, js jetstream.JetStream) error {
		consumer, err := js.PushConsumer(c.ctx, "PAGESTREAM", name)
		if err != nil {
			return err
		}
		info, err := consumer.Info(c.ctx)
		if err != nil {
			return err
		}
		b, err := json.Marshal(info)
		t.Logf("consumer %s: %s", name, b)
		return err
	})
	t.Log("consumer", name, "error", err)
	_, out := c.nodes[0].run("deadletters", "list")
	t.Log(out)
}

// readLeads counts the events of each retrieved lead.
func (s *site) readLeads() (map[string]int, error) {
	out := map[string]int{}
	for after := "0"; after != ""; {
		var page struct {
			Items []struct {
				Data struct {
					Lead struct {
						ID string `json:"id"`
					} `json:"lead"`
				} `json:"data"`
			} `json:"items"`
			Next string `json:"next"`
		}
		query := url.Values{"limit": {"1000"}, "type": {"lead.retrieved"}, "after": {after}}
		if err := s.get("/api/v1/events", query, &page); err != nil {
			return nil, err
		}
		for _, e := range page.Items {
			out[e.Data.Lead.ID]++
		}
		after = page.Next
	}
	return out, nil
}
