package messenger_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/messenger"
)

// corpus returns the folder of payloads next to the repository. The test is
// skipped if there is none.
func corpus(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(".")
	require.NoError(t, err)
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		require.NotEqual(t, dir, filepath.Dir(dir), "no go.mod above the package")
		dir = filepath.Dir(dir)
	}
	dir = filepath.Join(dir, "..", "shared", "corpus")
	if _, err := os.Stat(dir); err != nil {
		t.Skip("there is no corpus next to the repository")
	}
	return dir
}

// corpusTypes lists payloads by the type of their first event.
var corpusTypes = map[domain.Type]string{
	domain.MessageReceived: `bottender/text_message bottender/like_sticker_message bottender/location_message
		bottender/quick_reply_message bottender/fallback_message bottender/connector_batch_request
		chatwoot/fb_incoming_fb_text_message chatwoot/instagram_message_create_event chatwoot/instagram_test_text_event
		chatwoot/instagram_message_standby_event chatwoot/instagram_story_reply_event
		facebook-messenger-gem/message fbmessenger-py/numeric_ids_message laravel-fb-messenger/Message
		messenger4j/HandleTextMessageEventWithPriorMessage messenger4j/ThrowExceptionIfObjectTypeIsNotPage
		meta-docs/page_message_referral_ads meta-docs/page_message_sticker_transition meta-docs/ig_message_unsupported`,
	domain.MessageEchoed: `bottender/echo_message bottender/connector_echo_request
		chatwoot/instagram_story_mention_event_with_echo facebook-messenger-gem/message_echo
		laravel-fb-messenger/MessageEcho messenger4j/HandleTemplateEchoMessageEvent messenger4j/HandleTextEchoMessageEvent
		meta-docs/ig_echo meta-docs/page_echo_page_inbox meta-docs/page_echo_standby_media_numeric_attachment_id
		meta-docs/page_message_fallback_null_payload_echo`,
	domain.MessageDeleted: `chatwoot/instagram_message_unsend_event meta-docs/ig_message_deleted`,
	domain.MessageEdited:  `meta-docs/page_message_edit`,
	domain.MessageDelivered: `bottender/delivery chatwoot/fb_message_deliveries facebook-messenger-gem/delivery
		messenger4j/HandleMessageDeliveredEventWithMids messenger4j/HandleMessageDeliveredEventWithoutMids
		meta-docs/page_delivery_no_timestamp meta-docs/page_delivery_watermark_only`,
	domain.MessageRead: `bottender/read chatwoot/fb_message_reads chatwoot/messaging_seen_event
		fbmessenger-py/numeric_ids_read meta-docs/ig_seen meta-docs/page_read_watermark`,
	domain.MessageReacted: `bottender/reaction_react bottender/reaction_unreact facebook-messenger-gem/message_reaction
		laravel-fb-messenger/MessageReaction meta-docs/ig_reaction meta-docs/page_reaction_unreact`,
	domain.PostbackReceived: `bottender/postback bottender/postback_referral messenger4j/HandlePostbackEvent
		fbmessenger-py/numeric_ids_postback meta-docs/ig_postback_icebreaker meta-docs/page_postback_standby_no_payload
		meta-docs/page_postback_changes_form_user_ref`,
	domain.ReferralReceived: `bottender/link_referral messenger4j/HandleAdReferralEvent
		messenger4j/HandleDiscoverTabReferralEvent meta-docs/ig_referral_igme meta-docs/page_referral_ads`,
	domain.OptinReceived: `bottender/optin fbmessenger-py/numeric_ids_optin messenger4j/HandleOptInEventWithUserRef
		meta-docs/page_optin_marketing_message meta-docs/page_optin_one_time_notif meta-docs/page_optin_stop_notifications`,
	domain.AccountLinked: `bottender/account_linking_linked facebook-messenger-gem/account_linking`,
	domain.AccountUnlinked: `bottender/account_linking_unlinked
		messenger4j/HandleAccountLinkingEventWithStatusUnlinked`,
	domain.ThreadPassed: `bottender/pass_thread_control laravel-fb-messenger/MessageHandover
		meta-docs/page_pass_thread_control_idle`,
	domain.ThreadTaken: `bottender/take_thread_control laravel-fb-messenger/MessageHandover_1
		meta-docs/page_take_thread_control`,
	domain.ThreadRequested: `bottender/request_thread_control_from_inbox laravel-fb-messenger/MessageHandover_2
		meta-docs/page_request_thread_control`,
	domain.ThreadRolesChanged: `bottender/app_roles laravel-fb-messenger/MessageHandover_3
		meta-docs/page_app_roles_no_sender`,
	domain.PolicyEnforced: `bottender/policy_enforcement facebook-messenger-gem/policy_enforcement
		meta-docs/page_policy_enforcement_no_sender`,
	domain.PostPublished:    `facebook-messenger-gem/feed`,
	domain.LeadReceived:     `facebook-messenger-gem/leadgen`,
	domain.LabelAdded:       `meta-docs/page_inbox_labels_changes`,
	domain.FeedbackReceived: `meta-docs/page_messaging_feedback meta-docs/page_response_feedback`,
	domain.OrderReceived:    `meta-docs/page_send_cart_order`,
	domain.ChangeReceived:   `bottender/connector_webhook_test_request chatwoot/instagram_test_event`,
	domain.DeliveryUnrecognized: `bottender/branded_camera bottender/checkout_update bottender/connector_standby_request
		bottender/game_play bottender/payment bottender/pre_checkout facebook-messenger-gem/message_request
		laravel-fb-messenger/Standby messenger4j/HandleEventTypeThatIsUnsupported messenger4j/HandleInstantGameEvent
		meta-docs/page_test_curl_message_is_string`,
}

// TestCorpus splits every payload of the corpus.
func TestCorpus(t *testing.T) {
	root := corpus(t)
	files, err := filepath.Glob(filepath.Join(root, "*", "*.json"))
	require.NoError(t, err)
	want := map[string]domain.Type{}
	for typ, names := range corpusTypes {
		for _, name := range strings.Fields(names) {
			want[name] = typ
		}
	}
	for _, file := range files {
		name, err := filepath.Rel(root, strings.TrimSuffix(file, ".json"))
		require.NoError(t, err)
		name = filepath.ToSlash(name)
		if strings.HasPrefix(name, "graph-responses/") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			body, err := os.ReadFile(file)
			require.NoError(t, err)
			if v, ok := parse(body); ok {
				if top, ok := v.(tree); ok && len(top.all("entry")) == 0 { // one item
					body = delivery("messaging", "1790000000000", string(body))
				}
			}
			r := messenger.Split(body, messenger.Options{})
			items := wantEvents(body)
			require.Len(t, r.Events, items)
			require.Equal(t, items, r.Items)
			seen := map[string]bool{}
			for _, e := range r.Events {
				checkEvent(t, body, e)
				require.NotEqual(t, domain.DeliveryUnreadable, e.Type)
				require.False(t, seen[e.ID], "two events have id %s", e.ID)
				seen[e.ID] = true
				// In some samples sender and recipient are both the page.
				if string(e.Contact) == string(e.Page) {
					require.Equal(t, e.Data.Recipient, e.Data.Sender, "the contact of %s is the page", e.Type)
				}
				if e.Time.IsZero() {
					require.Contains(t, name, "curl", "%s has no time", e.Type)
				}
			}
			if typ, ok := want[name]; ok {
				require.Equal(t, typ, r.Events[0].Type)
			}
			delete(want, name)
		})
	}
	require.Empty(t, want, "these are not in the corpus")
}
