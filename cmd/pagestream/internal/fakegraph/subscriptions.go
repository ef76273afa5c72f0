package fakegraph

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// handshakeTimeout limits the GET to a callback URL.
const handshakeTimeout = 5 * time.Second

// appSubscription is an app's subscription to an object. A field is delivered only
// if the page's own subscription has it, too.
type appSubscription struct {
	fields   []string
	callback string // empty: the engine's Target
	inactive bool   // nothing is delivered
}

// appFields returns the app's fields of an object, sorted, the callback URL of the
// subscription, and whether there is one.
func (g *Graph) appFields(app, object string) (fields []string, callback string, on bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s, on := g.appSubs[[2]string{app, object}]
	return s.fields, s.callback, on
}

// SetAppFields changes the app's fields of an object ("page", "instagram"), as
// somebody may do in the dashboard. Nil removes the object's subscription.
func (g *Graph) SetAppFields(app, object string, fields []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	key := [2]string{app, object}
	if fields == nil {
		delete(g.appSubs, key)
		return
	}
	s := g.appSubs[key]
	s.fields = slices.Clone(fields)
	slices.Sort(s.fields)
	g.appSubs[key] = s
}

// SetAppCallback changes the callback URL of the app's subscription to an object, and whether Meta
// delivers it, as somebody may do in the dashboard. There is no handshake.
func (g *Graph) SetAppCallback(app, object, callback string, active bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	key := [2]string{app, object}
	if s, on := g.appSubs[key]; on {
		s.callback, s.inactive = callback, !active
		g.appSubs[key] = s
	}
}

// delivers returns the fields of an object that Meta delivers to the app.
func (g *Graph) delivers(app, object string) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s := g.appSubs[[2]string{app, object}]; !s.inactive {
		return s.fields
	}
	return nil
}

// appSubscriptions serves the app-level subscriptions. It requires the app's token.
// https://developers.facebook.com/docs/graph-api/reference/app/subscriptions
func (g *Graph) appSubscriptions(q *request, t token, app string) (any, *failure) {
	if t.kind != "APP" || t.app != app {
		return nil, oauth(http.StatusBadRequest, 15, 0, "(#15) This method must be called with an app access_token.")
	}
	object := q.params["object"]
	switch q.method {
	case http.MethodGet:
		return g.listAppSubscriptions(app), nil
	case http.MethodDelete:
		g.mu.Lock()
		defer g.mu.Unlock()
		maps.DeleteFunc(g.appSubs, func(key [2]string, _ appSubscription) bool {
			return key[0] == app && (object == "" || key[1] == object)
		})
		return map[string]any{"success": true}, nil
	case http.MethodPost:
		return g.subscribeApp(q, app, object)
	}
	return nil, missing(q.method, app)
}

func (g *Graph) listAppSubscriptions(app string) any {
	data := []any{}
	for _, object := range []string{objectInstagram, objectPage} {
		names, callback, on := g.appFields(app, object)
		if !on {
			continue
		}
		fields := []any{}
		for _, f := range names {
			fields = append(fields, map[string]any{"name": f, "version": DefaultVersion})
		}
		g.mu.Lock()
		active := !g.appSubs[[2]string{app, object}].inactive
		g.mu.Unlock()
		data = append(data, map[string]any{"object": object, "callback_url": callback, "active": active, "fields": fields})
	}
	return map[string]any{"data": data}
}

// subscribeApp replaces the app's subscription to an object after the handshake with its callback URL.
func (g *Graph) subscribeApp(q *request, app, object string) (any, *failure) {
	if object != objectPage && object != objectInstagram {
		return nil, oauth(http.StatusBadRequest, 100, 0, "(#100) Param object must be one of {page, instagram}")
	}
	callback, err := url.Parse(q.params["callback_url"])
	if err != nil || callback.Host == "" {
		return nil, oauth(http.StatusBadRequest, 100, 0, "(#100) Param callback_url must be a valid URL")
	}
	fields := parseList(q.params["fields"], ", ")
	if len(fields) == 0 {
		return nil, oauth(http.StatusBadRequest, 100, 0, "(#100) The parameter fields is required")
	}
	known := pageFields
	if object == objectInstagram {
		known = accountFields
	}
	for i, f := range fields {
		if !slices.Contains(known, f) {
			return nil, oauth(http.StatusBadRequest, 100, 0, fmt.Sprintf(
				"(#100) Param fields[%d] must be one of {%s} - got %q.", i, strings.Join(known, ", "), f))
		}
	}
	if q.params["verify_token"] == "" {
		return nil, oauth(http.StatusBadRequest, 100, 0, "(#100) The parameter verify_token is required")
	}
	if wrong := verifyCallback(q.http.Context(), callback, q.params["verify_token"]); wrong != "" {
		return nil, oauth(http.StatusBadRequest, 2200, 0,
			"(#2200) Callback verification failed with the following errors: "+wrong)
	}
	slices.Sort(fields)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.appSubs[[2]string{app, object}] = appSubscription{fields: slices.Compact(fields), callback: callback.String()}
	return map[string]any{"success": true}, nil
}

// verifyCallback asks a callback URL to echo a challenge. It returns the Graph API's
// message about what went wrong, or "".
func verifyCallback(ctx context.Context, callback *url.URL, verify string) string {
	challenge := rand.Text()
	u := *callback
	v := u.Query()
	v.Set("hub.mode", "subscribe")
	v.Set("hub.challenge", challenge)
	v.Set("hub.verify_token", verify)
	u.RawQuery = v.Encode()
	switch status, got, _ := call(ctx, handshakeTimeout, http.MethodGet, u.String(), nil); {
	case status == 0:
		return "curl_errno = 7; the URL can't be reached"
	case status != http.StatusOK || string(got) != challenge:
		return fmt.Sprintf("HTTP Status Code = %d; HTTP Message = the challenge did not come back", status)
	}
	return ""
}

// pageFields are the values of subscribed_fields in Meta's SDK for v26.0, sorted.
var pageFields = strings.Fields(`affiliation agent_messages agent_questions attire awards bio birthday
business_integrity
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
messaging_policy_enforcement messaging_postbacks messaging_pre_checkouts messaging_referrals mission name
page_about_story
page_change_proposal page_upcoming_change parking payment_options payment_request_update personal_info
personal_interests
phone picture price_range product_review products public_transit publisher_subscriptions ratings registration
response_feedback send_cart standby story_poll_response story_share user_action video_text_question_responses videos
website`)

// accountFields are the fields of the object instagram, sorted.
// https://developers.facebook.com/docs/graph-api/webhooks/reference/instagram
var accountFields = strings.Fields(`comments live_comments mentions message_edit message_reactions messages
messaging_handover messaging_optins messaging_postbacks messaging_referral messaging_seen response_feedback standby
story_insights`)

// messagingField matches the fields that require pages_messaging.
var messagingField = regexp.MustCompile(`^(messages|standby|response_feedback|send_cart)$|^messag(e|ing)_`)

// subscribedApps serves the apps that are subscribed to the webhooks of a page.
// https://developers.facebook.com/docs/graph-api/reference/page/subscribed_apps
func (g *Graph) subscribedApps(q *request, t token, page string, me bool) (any, *failure) {
	if t.kind != "APP" || q.method != http.MethodDelete { // an app token may only DELETE
		if fail := cmp.Or(requirePageToken(page, t, "pages_manage_metadata"), g.missingTask(t, page)); fail != nil {
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
				"category": "Business", "link": "https://example.com/" + a.ID, "name": a.Name, "id": a.ID,
				"subscribed_fields": fields,
			})
		}
	}
	return map[string]any{"data": data}
}

// parseList parses a list in JSON or with separators, and removes empty elements.
func parseList(param, separators string) []string {
	var out []string
	if json.Unmarshal([]byte(param), &out) != nil {
		out = strings.FieldsFunc(param, func(r rune) bool { return strings.ContainsRune(separators, r) })
	}
	return slices.DeleteFunc(out, func(s string) bool { return s == "" })
}

// subscribe replaces the page's list of fields, or changes nothing on an error.
func (g *Graph) subscribe(q *request, t token, page string, me bool) (any, *failure) {
	wanted := parseList(q.params["subscribed_fields"], ",")
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
		if messagingField.MatchString(f) && !slices.Contains(t.scopes, "pages_messaging") {
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
