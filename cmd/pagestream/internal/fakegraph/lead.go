package fakegraph

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// LeadPrefix starts the ids of all leads, and of no page or person of the fake that has other
// digits there.
const LeadPrefix = "44"

// maxLeads is how many leads are kept; the oldest are dropped.
const maxLeads = 10_000

// lead is a lead that a person submitted to a page.
type lead struct {
	page string
	node map[string]any
}

// SubmitLead makes a person submit a lead to a page now and returns its id. Its webhook
// is delivered with the next flush, if the app is subscribed to leadgen and delivery is
// on. [ErrUnknown] is returned when there is no such page.
func (e *Engine) SubmitLead(page string) (id string, err error) {
	if e.graph.pages[page].ID == "" {
		return "", fmt.Errorf("page: %w", ErrUnknown)
	}
	i, id := e.gen.submitLead(page, e.opts.Now())
	if e.record(&i) {
		e.enqueue(i, 0)
	}
	return id, nil
}

// lead serves a lead to the page that it was submitted to.
// https://developers.facebook.com/docs/marketing-api/guides/lead-ads/retrieving
func (g *Graph) lead(q *request, t token, id string, l lead) (any, *failure) {
	if t.kind != "PAGE" || t.page != l.page {
		return nil, missing(q.method, id)
	}
	if fail := requirePageToken(l.page, t, "leads_retrieval"); fail != nil {
		return nil, fail
	}
	adFields := func(f string) bool { return f == "ad_id" || f == "campaign_id" || f == "adset_id" }
	if slices.ContainsFunc(fields(q.params["fields"]), adFields) && !slices.Contains(t.scopes, "ads_management") {
		return nil, oauth(http.StatusForbidden, 200, 0, "(#200) Requires ads_management permission to manage the object")
	}
	return selectFields("UserLeadGenInfo", q.params["fields"], l.node)
}

// change generates what people do on a page besides writing to it: comments and
// reactions on posts, and leads.
func (t *generator) change(page, psid string, now time.Time) item {
	a := t.newEvent(page, psid, now)
	post := fmt.Sprint(page, "_", 1+t.rng.IntN(9))
	c := t.graph.contacts[psid]
	value := map[string]any{
		"post_id": post, "parent_id": post, "verb": "add", "created_time": a.at / 1000,
	}
	if c.first != "" { // Meta does not name a person who does not show their profile
		value["from"] = map[string]any{"id": psid, "name": c.first + " " + c.last}
	}
	switch r := t.rng.IntN(100); {
	case r < 20:
		i, _ := a.lead()
		return i
	case r < 60:
		value["item"], value["reaction_type"] = "reaction", reactions[t.rng.IntN(2)][0]
	default:
		value["item"], value["comment_id"] = "comment", fmt.Sprint(post, "_", a.at)
		value["message"] = questions[t.rng.IntN(len(questions))]
	}
	return changeItem(page, "feed", value)
}

func (t *generator) submitLead(page string, now time.Time) (i item, id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.newEvent(page, t.graph.people[page][0], now).lead()
}

// lead stores a new lead of the person, and returns its item and id.
func (a *eventBuilder) lead() (i item, id string) {
	a.serial++
	h := a.graph.hash("lead", a.opts.RunID, a.page, fmt.Sprint(a.serial))
	number := func(prefix string, at int) string {
		return fmt.Sprintf("%s%012d", prefix, binary.BigEndian.Uint64(h[at:])%1_000_000_000_000)
	}
	id = number(LeadPrefix, 0)
	form, ad, adset := number("33", 8), number("238", 16), number("239", 24)
	c, created := a.graph.contacts[a.psid], a.at/1000
	a.graph.leads.Add(id, lead{a.page, map[string]any{
		"id": id, "form_id": form, "ad_id": ad, "adset_id": adset, "campaign_id": "23" + adset,
		"created_time": time.Unix(created, 0).UTC().Format("2006-01-02T15:04:05-0700"), "is_organic": false, "platform": "fb",
		"field_data": []any{
			map[string]any{"name": "full_name", "values": []string{c.first + " " + c.last}},
			map[string]any{"name": "email", "values": []string{"lead." + a.psid + "@example.com"}},
		},
	}})
	// Meta's samples have ids as strings and as numbers.
	return changeItem(a.page, "leadgen", map[string]any{
		"leadgen_id": json.Number(id), "form_id": form, "ad_id": ad, "adgroup_id": ad, "page_id": a.page,
		"created_time": created,
	}), id
}

// changeItem returns an item of the entry's changes.
func changeItem(page, field string, value map[string]any) item {
	return item{page: page, object: objectPage, entry: page, field: field, change: true, body: map[string]any{
		"field": field, "value": value,
	}}
}
