package fakegraph_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/messenger"
)

// events returns the events of the deliveries since the last call, by type.
func (s *stepped) events() map[domain.Type][]domain.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[domain.Type][]domain.Event{}
	for _, body := range s.bodies {
		for _, e := range messenger.Split(body, messenger.Options{}).Events {
			out[e.Type] = append(out[e.Type], e)
		}
	}
	s.bodies, s.signed = nil, nil
	return out
}

func TestLeads(t *testing.T) {
	s := newStepped(t, newFixture(t, func(o *fakegraph.Options) {
		o.Users = append(o.Users, fakegraph.User{
			ID: "10215241773831027", Name: "Leads only", Pages: []string{page1},
			Scopes: []string{"pages_messaging", "leads_retrieval"},
		})
	}), func(o *fakegraph.EngineOptions) { o.Rate = 1e-9 })
	s.SetSubscription(app, page1, "messages", "leadgen")
	s.steps(1)
	do := serveControl(t, s.Graph)
	_, out := do("submit-lead", `{"page":"`+page1+`"}`)
	require.Equal(t, true, out["ok"], out)
	id := out["result"].(map[string]any)["id"].(string)
	s.steps(1)
	delivered := s.events()[domain.LeadReceived]
	require.Len(t, delivered, 1)
	l := delivered[0].Data.Lead
	assert.Equal(t, id, l.ID)
	assert.Equal(t, domain.PageID(page1), delivered[0].Page)

	const all = "id,created_time,ad_id,campaign_id,form_id,field_data,is_organic,platform"
	got := s.call("GET", "/"+id, s.pageToken(user, page1), "fields", all)
	require.Empty(t, got.failure())
	assert.Equal(t, l.Form, got.body["form_id"])
	assert.Equal(t, l.Ad, got.body["ad_id"])
	assert.Equal(t, "full_name", got.body["field_data"].([]any)[0].(map[string]any)["name"])
	assert.Equal(t, "400 100/33", s.call("GET", "/"+id, s.pageToken(user, page2)).failure())
	assert.Equal(t, "400 100/33", s.call("GET", "/440000000000001", s.pageToken(user, page1)).failure())
	assert.Equal(t, "403 200/0", s.call("GET", "/"+id, s.pageToken(poorUser, page1)).failure())
	limited := s.pageToken("10215241773831027", page1)
	assert.Equal(t, "403 200/0", s.call("GET", "/"+id, limited, "fields", all).failure())
	assert.Empty(t, s.call("GET", "/"+id, limited, "fields", "id,field_data").failure())

	// Without the field the lead exists, but no webhook is sent.
	s.SetSubscription(app, page1, "messages")
	id, err := s.SubmitLead(page1)
	require.NoError(t, err)
	s.steps(1)
	assert.Empty(t, s.events())
	assert.Empty(t, s.call("GET", "/"+id, s.pageToken(user, page1), "fields", all).failure())
	_, err = s.SubmitLead("1")
	assert.ErrorIs(t, err, fakegraph.ErrUnknown)
}

func TestChangesAmongMessages(t *testing.T) {
	s := newStepped(t, newFixture(t, nil), func(o *fakegraph.EngineOptions) { o.Rate, o.Changes = 100, 20 })
	s.SetSubscription(app, page1, append([]string{"feed", "leadgen"}, messaging...)...)
	s.SetStandby(page1, true) // has no effect on changes
	s.steps(10)
	events := s.events()
	n := 0
	for _, typ := range []domain.Type{domain.CommentReceived, domain.ReactionAdded, domain.LeadReceived} {
		require.NotEmpty(t, events[typ], typ)
		n += len(events[typ])
	}
	assert.InDelta(t, 200, n, 60)
	assert.Empty(t, events[domain.ChangeReceived])
	assert.Empty(t, events[domain.DeliveryUnrecognized])
	ids := map[string]bool{}
	for _, e := range append(events[domain.CommentReceived], events[domain.LeadReceived]...) {
		assert.False(t, ids[e.ID], "%s is not unique", e.ID)
		ids[e.ID] = true
	}
	c := events[domain.CommentReceived][0].Data.Comment
	assert.NotEmpty(t, *c.Text)
	assert.Empty(t, c.Parent)
	assert.Equal(t, domain.PageID(page1), events[domain.CommentReceived][0].Page)
}
