package server_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/outbound"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/profile"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/streams"
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
	t.Parallel()
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

	// How long an event waits that was given to a reactor as its connection was lost.
	waits := map[string]time.Duration{}
	for _, name := range []string{streams.Name, profile.Queue} {
		st, err := r.JS().Stream(t.Context(), name)
		require.NoError(t, err)
		list := st.ListConsumers(t.Context())
		for info := range list.Info() {
			waits[info.Name] = info.Config.AckWait.Round(time.Minute)
		}
		require.NoError(t, list.Err())
	}
	for name, minutes := range map[string]int{"profiles": 4, "leads": 4, "resubscribe": 6, "erase": 10} {
		assert.Equal(t, time.Duration(minutes)*time.Minute, waits[name], "%s of %v", name, waits)
	}
}

// TestSentMessageAndEchoAreOneEvent checks that a sent message and its echo are one event and one row,
// in whichever order Graph's answer and the echo arrive.
func TestSentMessageAndEchoAreOneEvent(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
	var addr string
	g, cfg := newFakeMeta(t, 2, func(o *fakegraph.Options) {
		addr = streamstest.FreeAddr(t)
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

// leadAnswers returns the stored answers of a page's leads, by lead.
func (r *running) leadAnswers(t *testing.T, page string) map[string][]domain.LeadAnswer {
	t.Helper()
	out := map[string][]domain.LeadAnswer{}
	o := streams.ReadOptions{Filters: streams.Filter(domain.PageID(page), domain.LeadRetrieved)}
	_, err := streams.Read(t.Context(), r.JS(), o, func(e streams.Stored) error {
		assert.NotContains(t, out, e.Data.Lead.ID, "a lead is stored twice")
		out[e.Data.Lead.ID] = e.Data.Lead.Answers
		return nil
	})
	require.NoError(t, err)
	return out
}

// awaitLeads waits until the page has n retrieved leads and parked ones are parked.
func (r *running) awaitLeads(t *testing.T, page string, n, parked int) {
	t.Helper()
	streamstest.Eventually(t, streamstest.Limit, func() error {
		list, err := r.Parking().List(t.Context(), "leads")
		if got := len(r.leadAnswers(t, page)); err != nil || got != n || len(list) != parked {
			return fmt.Errorf("%d leads, parked %v, %w", got, list, err)
		}
		return nil
	})
}

// connectLeads connects a page with the field leadgen as a user.
func (r *running) connectLeads(t *testing.T, g *fakegraph.Graph, user, page string) {
	t.Helper()
	token, err := g.PageToken(testAppID, user, page)
	require.NoError(t, err)
	in := api.ConnectRequest{Page: domain.PageID(page), Token: token, Fields: []string{"messages", "leadgen"}}
	require.NoError(t, r.do(t.Context(), http.MethodPost, "/api/v1/pages", nil, in, nil))
}

// TestLeadsAreRetrievedOnce checks that the answers of a lead are read from Graph after its webhook and
// stored once: after redeliveries, a restart and a rate limit.
func TestLeadsAreRetrievedOnce(t *testing.T) {
	t.Parallel()
	g, cfg := newFakeMeta(t, 1)
	cfg.HTTP.Public = streamstest.FreeAddr(t) // the same after the restart
	r := start(t, cfg)
	r.connectLeads(t, g, testUser, "7000")
	e := r.newEngine(t, g, 0)
	submit := func() string {
		t.Helper()
		id, err := e.SubmitLead("7000")
		require.NoError(t, err)
		require.NoError(t, e.Step(t.Context()))
		return id
	}
	first := submit()
	r.awaitLeads(t, "7000", 1, 0)
	answers := r.leadAnswers(t, "7000")[first]
	require.Len(t, answers, 2)
	assert.Equal(t, "email", answers[1].Name)
	assert.Contains(t, answers[1].Values[0], "@example.com")
	body := fmt.Sprintf(`{"object":"page","entry":[{"id":"7000","time":1790000000000,"changes":[{"field":"leadgen",`+
		`"value":{"leadgen_id":"%s","page_id":"7000","created_time":1790000000}}]}]}`, first)
	for range 2 { // the same lead with another time, which is another fact for the webhook's dedup id
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), []byte(body)))
	}
	g.Throttle("7000", 32, 1)
	second := submit()
	r.awaitLeads(t, "7000", 2, 0)
	assert.Contains(t, r.leadAnswers(t, "7000"), second)
	r.stop(t)

	r = start(t, cfg)
	third := submit()
	r.awaitLeads(t, "7000", 3, 0)
	assert.Contains(t, r.leadAnswers(t, "7000"), third)
	assert.Equal(t, 3, r.events(t, "7000")[domain.LeadRetrieved])
	for _, l := range answers {
		for _, v := range l.Values {
			assert.NotContains(t, r.log.String(), v)
		}
	}
}

// TestLeadsThatCantBeReadWait checks that leads of a page without the permission, or with a dead token, are
// parked and retrieved after the page was connected again.
func TestLeadsThatCantBeReadWait(t *testing.T) {
	t.Parallel()
	const limited = "902"
	g, cfg := newFakeMeta(t, 2, func(o *fakegraph.Options) {
		o.Users = append(o.Users, fakegraph.User{
			ID: limited, Name: "Limited", Pages: []string{"7000"}, Scopes: meta.NeededScopes(),
		})
	})
	r := start(t, cfg)
	r.connectLeads(t, g, limited, "7000")
	r.connectLeads(t, g, testUser, "7001")
	e := r.newEngine(t, g, 0)
	dead, err := g.PageToken(testAppID, testUser, "7001")
	require.NoError(t, err)
	require.NoError(t, g.KillToken(dead, 460))
	r.command(t, "pages", "check", "7001")
	ids := map[string]string{}
	for _, page := range []string{"7000", "7001"} {
		ids[page], err = e.SubmitLead(page)
		require.NoError(t, err)
		require.NoError(t, e.Step(t.Context()))
	}
	r.awaitLeads(t, "7000", 0, 2)
	code, out, _ := r.command(t, "deadletters", "list", "--projection", "leads")
	assert.Equal(t, cli.ExitOK, code)
	assert.Contains(t, out, "leads_retrieval")
	found, _ := r.runDoctor(t)
	assert.Contains(t, causesOf(found, "7000"), meta.StateLeadsUnreadable)
	assert.NotContains(t, causesOf(found, "7001"), meta.StateLeadsUnreadable)
	resp, err := r.send(t.Context(), http.MethodGet, "/metrics", nil, nil, "text/plain")
	require.NoError(t, err)
	metrics := read(t, resp)
	assert.Contains(t, metrics, `pagestream_leads_total{result="refused"} 1`)
	assert.Contains(t, metrics, `pagestream_leads_total{result="no_token"} 1`)

	r.connectLeads(t, g, testUser, "7000") // an admin who grants everything
	r.connectLeads(t, g, testUser, "7001")
	r.awaitLeads(t, "7000", 1, 0)
	for page, id := range ids {
		assert.Contains(t, r.leadAnswers(t, page), id)
	}
}
