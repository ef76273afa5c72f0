package graph

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
)

// leadFields are the requested fields of a lead, adFields those that need a permission
// for ads as well.
const (
	leadFields = "id,created_time,form_id,field_data,is_organic,platform"
	adFields   = "ad_id,campaign_id"
)

// Lead reads a lead of the page with its answers, and when the person submitted it; the
// time is zero if Graph gives none. The page's token needs leads_retrieval; ad and
// campaign are empty if it lacks ads_management. An error of class [meta.Gone] means
// that there is no such lead any more, as after 90 days, or that the admin who granted
// the token has no access to the page's leads.
// https://developers.facebook.com/docs/marketing-api/guides/lead-ads/retrieving
func (c *Client) Lead(ctx context.Context, page, token, lead string) (domain.Lead, time.Time, error) {
	if !isID(page) {
		return domain.Lead{}, time.Time{}, ErrPageID
	}
	var out struct {
		ID       id     `json:"id"`
		Created  string `json:"created_time"`
		Ad       id     `json:"ad_id"`
		Campaign id     `json:"campaign_id"`
		Form     id     `json:"form_id"`
		Platform string `json:"platform"`
		Organic  flag   `json:"is_organic"`
		Answers  []struct {
			Name   string  `json:"name"`
			Values []value `json:"values"`
		} `json:"field_data"`
	}
	k := call{method: http.MethodGet, path: path(lead, ""), edge: "lead", page: page, token: token}
	get := func(fields string) error {
		k.params = url.Values{"fields": {fields}}
		return c.do(ctx, k, &out)
	}
	err := get(leadFields + "," + adFields)
	if notGranted(err) {
		err = get(leadFields)
	}
	if err != nil {
		return domain.Lead{}, time.Time{}, err
	}
	if string(out.ID) != lead {
		return domain.Lead{}, time.Time{}, fmt.Errorf("GET %s: %w: it is not this lead", k.path, ErrAnswer)
	}
	l := domain.Lead{
		ID: lead, Form: string(out.Form), Ad: string(out.Ad), Campaign: string(out.Campaign),
		Platform: out.Platform, Organic: bool(out.Organic),
	}
	for _, a := range out.Answers {
		answer := domain.LeadAnswer{Name: a.Name}
		for _, v := range a.Values {
			answer.Values = append(answer.Values, string(v))
		}
		l.Answers = append(l.Answers, answer)
	}
	created, _ := parseTime(out.Created) // zero after an error
	return l, created, nil
}

// value is the value of an answer: a text, or the JSON text of anything else.
type value string

func (v *value) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, (*string)(v))
	}
	*v = value(b)
	return nil
}

// Lead calls [Client.Lead] for a page. [meta.ErrNotConnected] is returned if the page's
// app has no client.
func (a *Apps) Lead(ctx context.Context, access meta.Access, lead string) (domain.Lead, time.Time, error) {
	c, err := a.clientOf(access)
	if err != nil {
		return domain.Lead{}, time.Time{}, err
	}
	return c.Lead(ctx, string(access.Page), access.Token, lead)
}
