package server_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/outbound"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// newEngine returns an engine of the fake Graph that only delivers what the test sends.
func (r *running) newEngine(t *testing.T, g *fakegraph.Graph, echoDelay time.Duration) *fakegraph.Engine {
	t.Helper()
	e, err := fakegraph.NewEngine(fakegraph.EngineOptions{
		Graph: g, Target: "http://" + r.PublicAddr() + "/webhooks/main", Rate: 1e-9, EchoDelay: echoDelay, RunID: t.Name(),
	})
	require.NoError(t, err)
	require.NoError(t, e.Step(t.Context()))
	return e
}

// messages reads a conversation as of the stream's head.
func (r *running) messages(t *testing.T, page, contact string) []conversations.Message {
	t.Helper()
	require.NoError(t, r.Model("conversations").WaitFor(t.Context(), lastSeq(t, r)))
	model := r.Model("conversations")
	list, _, err := conversations.Messages(model, domain.PageID(page), domain.ContactID(contact), "", 0, false)
	require.NoError(t, err)
	return list
}

// TestProfiles checks that the name of a contact is read from Graph after a message, and stays empty
// if Graph has no profile.
func TestProfiles(t *testing.T) {
	g, cfg := newFakeMeta(t, 1)
	r := start(t, cfg)
	r.connectAll(t, g)
	e := r.newEngine(t, g, 0)
	people := g.Contacts("7000") // the last one has no profile
	for _, psid := range []string{people[11], people[0]} {
		_, err := e.Say("7000", psid, "hello")
		require.NoError(t, err)
		require.NoError(t, e.Step(t.Context()))
	}
	streamstest.Eventually(t, streamstest.Limit, func() error {
		c, err := conversations.Get(r.Model("conversations"), "7000", domain.ContactID(people[0]))
		if err == nil && c.Name == "" {
			err = fmt.Errorf("no name yet")
		}
		return err
	})
	c, err := conversations.Get(r.Model("conversations"), "7000", domain.ContactID(people[11]))
	require.NoError(t, err)
	assert.Empty(t, c.Name)
	assert.Equal(t, 1, r.events(t, "7000")[domain.ContactProfiled])
}

// TestSentMessageAndEchoAreOneEvent checks that a sent message and its echo are one event and one row,
// in whichever order Graph's answer and the echo arrive.
func TestSentMessageAndEchoAreOneEvent(t *testing.T) {
	for name, delay := range map[string]time.Duration{"echo first": -1, "answer first": 0} {
		t.Run(name, func(t *testing.T) {
			g, cfg := newFakeMeta(t, 1)
			r := start(t, cfg)
			r.connectAll(t, g)
			e := r.newEngine(t, g, delay)
			psid := g.Contacts("7000")[0]
			_, err := e.Say("7000", psid, "are you open?")
			require.NoError(t, err)
			require.NoError(t, e.Step(t.Context()))
			code, out, stderr := r.command(t, "--json", "send", "7000", psid, "--text", "until six")
			require.Equal(t, cli.ExitOK, code, stderr)
			var sent outbound.Sent
			require.NoError(t, json.Unmarshal([]byte(out), &sent))
			assert.Equal(t, psid, sent.RecipientID)
			assert.NotEmpty(t, sent.MID)
			assert.NotZero(t, sent.Seq)
			require.NoError(t, e.Step(t.Context()))
			require.NoError(t, e.Step(t.Context()))
			list := r.messages(t, "7000", psid)
			require.Len(t, list, 2)
			assert.Equal(t, sent.MID, list[1].MID)
			assert.Equal(t, conversations.Out, list[1].Direction)
			assert.Equal(t, 1, r.events(t, "7000")[domain.MessageEchoed])

			// Graph's error codes are in the error, the text of the message is not.
			g.CloseWindow(psid)
			code, _, stderr = r.command(t, "send", "7000", psid, "--text", "too late")
			assert.Equal(t, cli.ExitFailed, code)
			assert.Contains(t, stderr, "10/2018278")
			assert.NotContains(t, stderr, "too late")
			assert.Len(t, r.messages(t, "7000", psid), 2)
		})
	}
}

// TestBackfillOfAnOutage checks that backfill fills a gap that Meta never delivers from Meta's history,
// and that a second run stores nothing.
func TestBackfillOfAnOutage(t *testing.T) {
	t.Parallel()
	g, cfg := newFakeMeta(t, 2)
	r := start(t, cfg)
	r.connectAll(t, g)
	e := r.newEngine(t, g, 0)
	send := func(page string, n int, text string) {
		t.Helper()
		for i := range n {
			_, err := e.Say(page, g.Contacts(page)[i%3], fmt.Sprint(text, " ", i))
			require.NoError(t, err)
		}
		require.NoError(t, e.Step(t.Context()))
	}
	send("7000", 4, "before")
	since := time.Now()
	e.SetDelivery(false)
	send("7000", 7, "lost")
	e.SetDelivery(true)
	send("7000", 2, "after")
	assert.Equal(t, 6, r.events(t, "7000")[domain.MessageReceived])

	since = since.Add(-2 * time.Second) // Graph's times are in seconds
	args := []string{"--json", "backfill", "7000", "--since", since.UTC().Format(time.RFC3339)}
	code, out, stderr := r.command(t, args...)
	require.Equal(t, cli.ExitOK, code, stderr)
	assert.Regexp(t, `"stored": 7\b`, out)
	assert.Equal(t, 13, r.events(t, "7000")[domain.MessageReceived])
	n := 0
	for _, psid := range g.Contacts("7000")[:3] {
		for _, m := range r.messages(t, "7000", psid) {
			if n++; m.Source == "backfill" {
				assert.Contains(t, m.Text, "lost")
			}
		}
	}
	assert.Equal(t, 13, n)
	code, out, _ = r.command(t, args...)
	assert.Equal(t, cli.ExitOK, code)
	assert.Regexp(t, `"stored": 0\b`, out)
}

// TestRemovingTheAppDisconnectsPages checks the callbacks that Meta sends when a user removes the app
// from their account.
func TestRemovingTheAppDisconnectsPages(t *testing.T) {
	var addr string
	g, cfg := newFakeMeta(t, 2, func(o *fakegraph.Options) {
		addr = freePort(t)
		o.Apps[0].DeauthorizeURL = "http://" + addr + "/meta/deauthorize"
		o.Apps[0].DataDeletionURL = "http://" + addr + "/meta/data-deletion/main"
	})
	cfg.HTTP.Public = addr
	r := start(t, cfg)
	r.connectAll(t, g)
	require.NoError(t, g.RemoveApp(t.Context(), testAppID, testUser))
	require.NoError(t, r.Model("pages").WaitFor(t.Context(), lastSeq(t, r)))
	for _, page := range []string{"7000", "7001"} {
		p := get[pages.Page](t, r, "/api/v1/pages/"+page)
		assert.Equal(t, pages.Disconnected, p.State)
		assert.Equal(t, pages.TokenNone, p.Token)
	}
	status, body, err := g.RequestDataDeletion(t.Context(), testAppID, testUser)
	require.NoError(t, err)
	assert.Equal(t, http.StatusOK, status)
	assert.Contains(t, string(body), "confirmation_code")
}
