package fakegraph

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// pageFields are the values of subscribed_fields in Meta's SDK for v26.0, sorted.
var pageFields = strings.Fields(`affiliation agent_messages agent_questions attire awards bio birthday business_integrity
call_permission_reply call_settings_update calls category checkins comment_poll_response company_overview conversations
culinary_team current_location description email feature_access_list feed follow founded general_info general_manager
group_feed hometown hours inbox_labels invalid_topic_placeholder leadgen leadgen_fat leadgen_update live_videos
local_delivery location marketing_message_clicks marketing_message_deliveries marketing_message_delivery_failed
marketing_message_echoes marketing_message_reads marketing_messages_subscriber_upload_status mcom_invoice_change members
mention merchant_review message_context message_deliveries message_echoes message_edits message_mention
message_reactions message_reads message_template_status_update messages messaging_account_linking
messaging_appointments messaging_checkout_updates messaging_customer_information messaging_direct_sends
messaging_fblogin_account_linking messaging_feedback messaging_game_plays messaging_handovers
messaging_in_thread_lead_form_submit messaging_integrity messaging_optins messaging_optouts messaging_payments
messaging_policy_enforcement messaging_postbacks messaging_pre_checkouts messaging_referrals mission name page_about_story
page_change_proposal page_upcoming_change parking payment_options payment_request_update personal_info personal_interests
phone picture price_range product_review products public_transit publisher_subscriptions ratings registration
response_feedback send_cart standby story_poll_response story_share user_action video_text_question_responses videos
website`)

// isMessaging reports whether a field needs pages_messaging.
func isMessaging(field string) bool {
	return field == "messages" || field == "standby" || field == "response_feedback" || field == "send_cart" ||
		strings.HasPrefix(field, "message_") || strings.HasPrefix(field, "messaging_")
}

// subscribedApps serves the edge of a page that says which apps get its webhooks.
// https://developers.facebook.com/docs/graph-api/reference/page/subscribed_apps
func (g *Graph) subscribedApps(q *request, t token, page string, me bool) (any, *failure) {
	if t.kind != "APP" || q.method != http.MethodDelete { // the one thing an app token may do
		if fail := cmp.Or(notOf(page, t, "pages_manage_metadata"), g.lacksTask(t, page)); fail != nil {
			return nil, fail
		}
	}
	switch q.method {
	case http.MethodGet:
		return g.listSubscribed(page), nil
	case http.MethodPost:
		return g.subscribe(q, t, page, me)
	case http.MethodDelete:
		g.SetSubscription(t.app, page)
		return map[string]any{"success": true}, nil
	}
	return nil, missing(q.method, page)
}

func (g *Graph) listSubscribed(page string) any {
	g.mu.Lock()
	defer g.mu.Unlock()
	data := []any{}
	for _, a := range g.opts.Apps {
		if fields, ok := g.subs[[2]string{a.ID, page}]; ok {
			data = append(data, map[string]any{
				"category": "Business", "link": "https://example.com/" + a.ID, "name": a.Name, "id": a.ID, "subscribed_fields": fields,
			})
		}
	}
	return map[string]any{"data": data}
}

// listed reads a list in JSON, or with separators; what is empty is not in it.
func listed(param, separators string) []string {
	var out []string
	if json.Unmarshal([]byte(param), &out) != nil {
		out = strings.FieldsFunc(param, func(r rune) bool { return strings.ContainsRune(separators, r) })
	}
	return slices.DeleteFunc(out, func(s string) bool { return s == "" })
}

// subscribe replaces the list, or changes nothing.
func (g *Graph) subscribe(q *request, t token, page string, me bool) (any, *failure) {
	wanted := listed(q.params["subscribed_fields"], ",")
	if len(wanted) == 0 {
		return nil, oauth(http.StatusBadRequest, 100, 0, "(#100) The parameter subscribed_fields is required.")
	}
	for i, f := range wanted {
		wanted[i] = strings.TrimSpace(f)
		if !slices.Contains(pageFields, wanted[i]) {
			return nil, oauth(http.StatusBadRequest, 100, 0, fmt.Sprintf(
				"(#100) Param subscribed_fields[%d] must be one of {%s} - got %q.", i, strings.Join(pageFields, ", "), wanted[i]))
		}
	}
	for _, f := range wanted {
		if isMessaging(f) && !slices.Contains(t.scopes, "pages_messaging") {
			return nil, oauth(http.StatusForbidden, 200, 0,
				"(#200) To subscribe to the "+f+" field, one of these permissions is needed: pages_messaging")
		}
	}
	if me && g.opts.MeOverwrites {
		for _, other := range g.subscribedPages(t.app) {
			g.SetSubscription(t.app, other)
		}
	}
	g.SetSubscription(t.app, page, wanted...)
	return map[string]any{"success": true}, nil
}
