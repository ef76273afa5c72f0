package graph_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
)

const leadID = "442071234567890"

func TestLead(t *testing.T) {
	s := start(t, answer{200, `{"created_time":"2026-11-20T10:33:13+0000","id":"` + leadID + `","ad_id":"23842",
		"campaign_id":23843,"form_id":"3344","is_organic":false,"platform":"ig","field_data":[
		{"name":"full_name","values":["Søren \u00d8"]},{"name":"sizes","values":["40","41",42,true,null]},
		{"name":"comment"}]}`})
	got, created, err := s.client().Lead(t.Context(), page, token, leadID)
	require.NoError(t, err)
	assert.Equal(t, domain.Lead{
		ID: leadID, Form: "3344", Ad: "23842", Campaign: "23843", Platform: "ig",
		Answers: []domain.LeadAnswer{
			{Name: "full_name", Values: []string{"Søren Ø"}},
			{Name: "sizes", Values: []string{"40", "41", "42", "true", "null"}},
			{Name: "comment"},
		},
	}, got)
	assert.Equal(t, time.Date(2026, 11, 20, 10, 33, 13, 0, time.UTC), created)
	assert.Equal(t, "/v25.0/"+leadID, s.requests[0].path)
	assert.Equal(t, "id,created_time,form_id,field_data,is_organic,platform,ad_id,campaign_id",
		s.requests[0].params.Get("fields"))

	// An organic lead names no ad.
	s = start(t, answer{200, `{"id":` + leadID + `,"is_organic":true}`})
	got, created, err = s.client().Lead(t.Context(), page, token, leadID)
	require.NoError(t, err)
	assert.Equal(t, domain.Lead{ID: leadID, Organic: true}, got)
	assert.Zero(t, created)

	// A token that may read leads but not ads.
	s = start(t, answer{403, `{"error":{"code":200}}`}, answer{200, `{"id":"` + leadID + `","form_id":"3344"}`})
	got, _, err = s.client().Lead(t.Context(), page, token, leadID)
	require.NoError(t, err)
	assert.Equal(t, domain.Lead{ID: leadID, Form: "3344"}, got)
	require.Len(t, s.requests, 2)
	assert.Equal(t, "id,created_time,form_id,field_data,is_organic,platform", s.requests[1].params.Get("fields"))
}

func TestLeadErrors(t *testing.T) {
	for _, body := range []string{`{}`, `{"id":"1"}`, `{"id":"` + leadID + `","field_data":"` + text + `"}`} {
		_, _, err := start(t, answer{200, body}).client().Lead(t.Context(), page, token, leadID)
		require.ErrorIs(t, err, graph.ErrAnswer)
		assert.NotContains(t, err.Error(), text)
	}
	for body, class := range map[string]meta.Class{
		`{"error":{"code":200}}`:                          meta.Permission,
		`{"error":{"code":100,"error_subcode":33}}`:       meta.Gone,
		`{"error":{"code":190,"error_subcode":460}}`:      meta.TokenDead,
		`{"error":{"code":10,"message":"(#10) Not yet"}}`: meta.Permission,
	} {
		_, _, err := start(t, answer{400, body}).client().Lead(t.Context(), page, token, leadID)
		assert.Equal(t, class, meta.ClassOf(err), body)
	}
}
