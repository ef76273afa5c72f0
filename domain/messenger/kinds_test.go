package messenger_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/messenger"
)

// splitOne returns the event of a delivery with one item.
func splitOne(t *testing.T, body []byte) domain.Event {
	t.Helper()
	r := messenger.Split(body, messenger.Options{App: "main"})
	require.Len(t, r.Events, 1, "%s", body)
	require.Equal(t, 1, r.Items, "%s", body)
	checkEvent(t, body, r.Events[0])
	return r.Events[0]
}

// The first fields of an item that contact 9 sent to page 7, and of one that the
// page sent to the contact.
const (
	fromContact = `"sender":{"id":"9"},"recipient":{"id":"7"},"timestamp":1790000000000,`
	fromPage    = `"sender":{"id":"7"},"recipient":{"id":"9"},"timestamp":1790000000000,`
)

// TestKinds checks the event of each kind of item. A wanted id that ends in "h:"
// stands for any id of class h.
func TestKinds(t *testing.T) {
	lat, long := 52.5, 0.0
	for name, c := range map[string]struct {
		item, id string
		typ      domain.Type
		want     domain.Data
	}{
		"message": {
			fromContact + `"message":{"mid":"m","text":"\u00e4 <b>","quick_reply":{"payload":"Q"},"commands":[{"name":"c"},7,{}],"metadata":"x","nlp":{}},"prior_message":{"source":"s"}`,
			"page:7:msg:m", domain.MessageReceived,
			domain.Data{Kind: "message", Message: &domain.Message{
				MID: "m", Text: "ä <b>", QuickReply: "Q",
				Commands: []string{"c"}, Metadata: "x",
			}},
		},
		"message with attachments": {
			fromContact + `"message":{"mid":"m","attachments":[{"type":"sticker","payload":{"sticker_id":369239263222822999,"url":"u"}},{"type":"fallback","payload":null,"title":"T","url":"\/reel\/1"},{"type":"fallback","URL":"caps"},{"type":"template","payload":{"product":{"elements":[{"id":"p"}]}}},{"type":"template","payload":{"template_type":"receipt"}},{"type":"location","payload":{"coordinates":{"lat":52.5,"long":0}}},{"type":"ig_story","payload":{"story_media_url":"s"}},null,"x"]}`,
			"page:7:msg:m", domain.MessageReceived,
			domain.Data{Kind: "message", Message: &domain.Message{MID: "m", Attachments: []domain.Attachment{
				{Type: "sticker", StickerID: "369239263222822999", URL: "u"},
				{Type: "fallback", Title: "T", URL: "/reel/1"},
				{Type: "fallback", URL: "caps"},
				{Type: "template", Template: "product", Products: []domain.Product{{ID: "p"}}},
				{Type: "template", Template: "receipt"},
				{Type: "location", Lat: &lat, Long: &long},
				{Type: "ig_story", URL: "s"},
			}}},
		},
		"message in reply to a story": {
			fromContact + `"message":{"mid":"m","reply_to":{"story":{"id":17900000000000001,"url":"u"}}}`,
			"page:7:msg:m", domain.MessageReceived,
			domain.Data{Kind: "message", Message: &domain.Message{
				MID:     "m",
				ReplyTo: &domain.ReplyTo{StoryID: "17900000000000001", StoryURL: "u"},
			}},
		},
		"message and referral in one item": {
			fromContact + `"referral":{"ref":"r"},"message":{"mid":"m","referral":{"product":{"id":"p"}}}`,
			"page:7:msg:m", domain.MessageReceived,
			domain.Data{Kind: "message", Message: &domain.Message{MID: "m", Referral: &domain.Referral{Product: "p"}}},
		},
		"message without a mid": {
			fromContact + `"message":{"is_unsupported":true}`, "page:7:h:", domain.MessageReceived,
			domain.Data{Kind: "message", Message: &domain.Message{Unsupported: true}},
		},
		"message with fields of other types": {
			fromContact + `"message":{"mid":17,"text":{"a":1},"attachments":{"b":2},"commands":"c","quick_reply":[],"reply_to":"m","referral":7,"is_echo":"no","app_id":true}`,
			"page:7:msg:17", domain.MessageReceived,
			domain.Data{Kind: "message", Message: &domain.Message{MID: "17"}},
		},
		"echo": {
			fromPage + `"message":{"mid":"m","is_echo":true,"app_id":1.84719329217930e17}`, "page:7:msg:m",
			domain.MessageEchoed,
			domain.Data{Kind: "message", Message: &domain.Message{MID: "m", Echo: true, AppID: "184719329217930000"}},
		},
		"unsend of an echo": {
			fromPage + `"message":{"mid":"m","is_echo":true,"is_deleted":true}`, "page:7:del:m", domain.MessageDeleted,
			domain.Data{Kind: "message", Message: &domain.Message{MID: "m", Echo: true, Deleted: true}},
		},
		"edit": {
			fromContact + `"message_edit":{"mid":"m","text":"t","num_edit":"2"}`, "page:7:edit:m|2", domain.MessageEdited,
			domain.Data{Kind: "message_edit", Edit: &domain.Edit{MID: "m", Text: new("t"), Num: 2}},
		},
		"edit without a number": {
			fromContact + `"message_edit":{"mid":"m","text":"t"}`, "page:7:h:", domain.MessageEdited,
			domain.Data{Kind: "message_edit", Edit: &domain.Edit{MID: "m", Text: new("t")}},
		},
		"delivery": {
			fromContact + `"delivery":{"watermark":1790000000}`, "page:7:dlv:9|1790000000000|", domain.MessageDelivered,
			domain.Data{Kind: "delivery", Delivery: &domain.Delivery{Watermark: 1790000000000}},
		},
		"delivery with mids alone": {
			fromContact + `"delivery":{"mids":["a",7,{},"b"]}`, "page:7:dlv:9||e716fe840f86b299eef5ac37fbb07306",
			domain.MessageDelivered,
			domain.Data{Kind: "delivery", Delivery: &domain.Delivery{MIDs: []string{"a", "7", "b"}}},
		},
		"delivery without mids and watermark": {
			fromContact + `"delivery":{"watermark":0,"mids":[]}`, "page:7:h:", domain.MessageDelivered,
			domain.Data{Kind: "delivery", Delivery: &domain.Delivery{}},
		},
		"read": {
			fromContact + `"read":{"watermark":"1790000000000"}`, "page:7:read:9|1790000000000", domain.MessageRead,
			domain.Data{Kind: "read", Read: &domain.Read{Watermark: 1790000000000}},
		},
		"seen": {
			fromContact + `"read":{"mid":"m"}`, "page:7:read:9|m", domain.MessageRead,
			domain.Data{Kind: "read", Read: &domain.Read{MID: "m"}},
		},
		"reaction": {
			fromContact + `"reaction":{"mid":"m","action":"react","reaction":"love","emoji":"+"}`,
			"page:7:rx:m|9|react|+|1790000000000", domain.MessageReacted,
			domain.Data{Kind: "reaction", Reaction: &domain.Reaction{MID: "m", Action: "react", Reaction: "love", Emoji: "+"}},
		},
		"reaction without a mid": {
			fromContact + `"reaction":{"action":"react"}`, "page:7:h:", domain.MessageReacted,
			domain.Data{Kind: "reaction", Reaction: &domain.Reaction{Action: "react"}},
		},
		"postback": {
			fromContact + `"postback":{"mid":"m","title":"T","payload":"P","referral":{"ref":"r"}}`, "page:7:pb:m",
			domain.PostbackReceived,
			domain.Data{Kind: "postback", Postback: &domain.Postback{
				MID: "m", Title: "T", Payload: "P",
				Referral: &domain.Referral{Ref: "r"},
			}},
		},
		"postback and a null message": {
			fromContact + `"message":null,"postback":{"mid":"m"}`, "page:7:pb:m", domain.PostbackReceived,
			domain.Data{Kind: "postback", Postback: &domain.Postback{MID: "m"}},
		},
		"referral": {
			fromContact + `"referral":{"ref":"r","source":"ADS","type":"OPEN_THREAD","ad_id":120210987654321,"ads_context_data":{"ad_title":"\u00e4"}}`, "page:7:h:", domain.ReferralReceived,
			domain.Data{Kind: "referral", Referral: &domain.Referral{
				Ref: "r", Source: "ADS", Type: "OPEN_THREAD",
				AdID: "120210987654321", Ads: &domain.AdsContext{Title: "ä"},
			}},
		},
		"optin": {
			fromContact + `"optin":{"type":"notification_messages","ref":"r","payload":"P","notification_messages_token":"secret","notification_messages_status":"STOP NOTIFICATIONS","user_ref":"u"}`, "page:7:h:", domain.OptinReceived,
			domain.Data{Kind: "optin", Optin: &domain.Optin{
				Type: "notification_messages", Ref: "r", Payload: "P",
				Status: "STOP NOTIFICATIONS", UserRef: "u",
			}},
		},
		"account linked": {
			fromContact + `"account_linking":{"status":"linked","authorization_code":"secret"}`, "page:7:h:",
			domain.AccountLinked,
			domain.Data{Kind: "account_linking", AccountLink: &domain.AccountLink{Status: "linked"}},
		},
		"account unlinked": {
			fromContact + `"account_linking":{"status":"unlinked"}`, "page:7:h:", domain.AccountUnlinked,
			domain.Data{Kind: "account_linking", AccountLink: &domain.AccountLink{Status: "unlinked"}},
		},
		"account with unknown status": {
			fromContact + `"account_linking":{"status":"half"}`, "page:7:h:", domain.DeliveryUnrecognized,
			domain.Data{Kind: "account_linking"},
		},
		"thread passed": {
			fromContact + `"pass_thread_control":{"previous_owner_app_id":null,"new_owner_app_id":12,"metadata":"x"}`,
			"page:7:h:", domain.ThreadPassed,
			domain.Data{Kind: "pass_thread_control", Thread: &domain.Thread{NewOwner: "12", Metadata: "x"}},
		},
		"thread taken": {
			fromContact + `"take_thread_control":{"previous_owner_app_id":"12","new_owner_app_id":13}`, "page:7:h:",
			domain.ThreadTaken,
			domain.Data{Kind: "take_thread_control", Thread: &domain.Thread{PreviousOwner: "12", NewOwner: "13"}},
		},
		"thread requested": {
			fromContact + `"request_thread_control":{"requested_owner_app_id":12}`, "page:7:h:", domain.ThreadRequested,
			domain.Data{Kind: "request_thread_control", Thread: &domain.Thread{Requester: "12"}},
		},
		"roles": {
			fromContact + `"app_roles":{"12":["primary_receiver"],"13":"odd"}`, "page:7:h:", domain.ThreadRolesChanged,
			domain.Data{Kind: "app_roles", Thread: &domain.Thread{Roles: map[string][]string{
				"12": {"primary_receiver"},
				"13": {},
			}}},
		},
		"policy": {
			fromContact + `"policy_enforcement":{"action":"block","reason":"r"}`, "page:7:h:", domain.PolicyEnforced,
			domain.Data{Kind: "policy_enforcement", Policy: &domain.Policy{Action: "block", Reason: "r"}},
		},
		"text for a message": {
			fromContact + `"message":"TEST"`, "page:7:h:", domain.DeliveryUnrecognized,
			domain.Data{Kind: "message"},
		},
		"two messages": {
			fromContact + `"message":{"mid":"a"},"message":{"mid":"b"}`, "page:7:h:",
			domain.DeliveryUnrecognized,
			domain.Data{Kind: "message"},
		},
		"known kind without a type": {
			fromContact + `"aaa":1,"payment":{}`, "page:7:h:", domain.DeliveryUnrecognized,
			domain.Data{Kind: "payment"},
		},
		"unknown kind": {
			fromContact + `"zz":1,"bb":{},"prior_message":{}`, "page:7:h:",
			domain.DeliveryUnrecognized,
			domain.Data{Kind: "bb"},
		},
		"no kind": {fromContact + `"prior_message":{}`, "page:7:h:", domain.DeliveryUnrecognized, domain.Data{}},
		"escaped names": {
			fromContact + `"m\u0065ssage":{"m\u0069d":"m"}`, "page:7:msg:m",
			domain.MessageReceived,
			domain.Data{Kind: "message", Message: &domain.Message{MID: "m"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			raw := "{" + c.item + "}"
			e := splitOne(t, delivery("messaging", "1790000001000", raw))
			require.Equal(t, c.typ, e.Type)
			require.Equal(t, domain.PageID("7"), e.Page)
			require.Equal(t, domain.ContactID("9"), e.Contact)
			require.False(t, e.Standby)
			require.True(t, e.Time.Equal(time.UnixMilli(1790000000000)))
			if id, hashed := strings.CutSuffix(c.id, ":h:"); hashed {
				hex := strings.TrimPrefix(e.ID, id+":h:")
				require.Len(t, hex, 64)
				require.NotEqual(t, e.ID, hex)
			} else {
				require.Equal(t, c.id, e.ID)
			}
			c.want.App, c.want.Source, c.want.Object, c.want.Channel = "main", "webhook", "page", "messaging"
			c.want.EntryTime = 1790000001000
			c.want.Raw = json.RawMessage(raw)
			require.Empty(t, cmp.Diff(c.want, e.Data, cmpopts.IgnoreFields(domain.Data{}, "Sender", "Recipient")))
		})
	}
}

// TestTextIsUnicode checks that bytes that are not UTF-8 are replaced in the typed
// field. Raw keeps them.
func TestTextIsUnicode(t *testing.T) {
	e := splitOne(t, delivery("messaging", "1", "{\"message\":{\"mid\":\"m\",\"text\":\"a\xffb\"}}"))
	require.Equal(t, "a\ufffdb", e.Data.Message.Text)
}

// TestHashOfCanonicalForm pins the canonical form whose hash is the key of class
// h: other programs may compute it.
func TestHashOfCanonicalForm(t *testing.T) {
	for item, canonical := range map[string]string{
		`{ "x" : "<\u00e4\/>", "a":1.50, "b":[true , null,{}],"c":12345678901234567890 }`: `{"a":1.50,"b":[true,null,{}],"c":12345678901234567890,"x":"<ä/>"}`,
		`{ "a":1, "a":2}`:      `{ "a":1, "a":2}`,      // repeated name
		`{ "a" : "\ud800" }`:   `{ "a" : "\ud800" }`,   // half a surrogate pair
		"{ \"a\" : \"\xff\" }": "{ \"a\" : \"\xff\" }", // not UTF-8
		` 17 `:                 `17`,
	} {
		sum := sha256.Sum256([]byte(canonical))
		want := "page:7:h:" + hex.EncodeToString(sum[:])
		require.Equal(t, want, splitOne(t, delivery("messaging", "0", item)).ID, item)
	}
}

// TestContact checks that the contact is the one of sender and recipient that is
// not the page.
func TestContact(t *testing.T) {
	longest, tooLong := strings.Repeat("9", 512), strings.Repeat("9", 600)
	tooLongToken := domain.ContactID(domain.PageID(tooLong).Token())
	for item, want := range map[string]domain.ContactID{
		`{"sender":{"id":"9"},"recipient":{"id":"7"},"message":{}}`:                           "9",
		`{"sender":{"id":"7"},"recipient":{"id":"9"},"message":{"is_echo":true}}`:             "9",
		`{"sender":{"id":"7"},"recipient":{"user_ref":"u"},"message":{"is_echo":true}}`:       "u",
		`{"sender":{"id":"7"},"message":{"is_echo":true}}`:                                    "",
		`{"sender":{"id":"9"},"recipient":{"id":"7"},"message":{"is_echo":true}}`:             "9",
		`{"sender":{"id":"8"},"recipient":{"id":"9"},"message":{"is_echo":true}}`:             "9",
		`{"sender":{"id":"7"},"recipient":{"id":"9"},"message":{"is_deleted":true}}`:          "9",
		`{"sender":{"id":"7"},"recipient":{"id":"9"},"delivery":{"watermark":1790000000000}}`: "9",
		`{"sender":{"id":"7"},"recipient":{"id":"9"},"read":{"watermark":1790000000000}}`:     "9",
		`{"sender":{"id":"7"},"recipient":{"id":"7"},"message":{}}`:                           "7",
		`{"sender":{"user_ref":"u"},"recipient":{"id":"7"},"postback":{}}`:                    "u",
		`{"recipient":{"id":"7"},"optin":{"user_ref":"u"}}`:                                   "u",
		`{"recipient":{"user_ref":"u"},"optin":{}}`:                                           "u",
		`{"recipient":{"id":"7"},"policy_enforcement":{"action":"block"}}`:                    "",
		`{"recipient":{"id":"7"},"app_roles":{"1":[]}}`:                                       "",
		`{"sender":{"id":98765432109876543},"recipient":{"id":7},"message":{}}`:               "98765432109876543",
		`{"sender":{"id":"` + tooLong + `"},"message":{}}`:                                    tooLongToken,
		`{"sender":{"id":"` + longest + `"},"message":{}}`:                                    domain.ContactID(longest),
		`{"sender":{"id":["9"]},"recipient":{"id":"7"},"message":{"mid":"m"}}`:                "",
		`{"sender":"9","recipient":{"id":"7"},"message":{"mid":"m"}}`:                         "",
		`{"sender":{"id":"\ud800"},"recipient":{"id":"7"},"message":{"mid":"m"}}`:             "",
		`{"sender":{"id":"9"},"recipient":{"id":"7"},"new_kind":{"is_echo":true}}`:            "9",
		`{"sender":{"id":"9"},"recipient":{"id":"7"},"message":"TEST"}`:                       "9",

		`{"sender":{"id":"9","user_ref":"u"},"recipient":{"id":"7"},"optin":{"user_ref":"v"},"timestamp":"odd"}`: "9",
	} {
		require.Equal(t, want, splitOne(t, delivery("messaging", "1790000001000", item)).Contact,
			item)
	}
}

// TestPage checks that the page is the entry's id, or the item's sender or
// recipient if the entry has no id.
func TestPage(t *testing.T) {
	tooLong := strings.Repeat("7", 5000)
	tooLongToken := domain.PageID(tooLong).Token()
	for entry, want := range map[string]domain.PageID{
		`"id":"7","messaging":[{"recipient":{"id":"8"},"message":{}}]`:                             "7",
		`"id":17841400008460056,"messaging":[{"message":{}}]`:                                      "17841400008460056",
		`"id":1.7841400008460056e16,"messaging":[{"message":{}}]`:                                  "17841400008460056",
		`"id":1e65,"messaging":[{"message":{}}]`:                                                   "1e65",
		`"id":1e999999,"messaging":[{"message":{}}]`:                                               "1e999999",
		`"id":1.5,"messaging":[{"message":{}}]`:                                                    "1.5",
		`"id":"8","id":"7","messaging":[{"message":{}}]`:                                           "7",
		`"id":1e999999999,"messaging":[{"message":{}}]`:                                            "1e999999999",
		`"messaging":[{"sender":{"id":"9"},"recipient":{"id":"7"},"message":{}}]`:                  "7",
		`"messaging":[{"sender":{"id":"7"},"recipient":{"id":"9"},"message":{"is_echo":true}}]`:    "7",
		`"id":null,"messaging":[{"sender":{"id":"9"},"recipient":{"id":"7"},"read":{"mid":"m"}}]`:  "7",
		`"id":{"a":1},"messaging":[{"sender":{"id":"9"},"recipient":{"id":"7"},"message":"TEST"}]`: "7",
		`"messaging":[{"message":"TEST"}]`:                                                         domain.NoPage,
		`"messaging":[7]`:                                                                          domain.NoPage,
		`"changes":[{"field":"feed"}]`:                                                             domain.NoPage,
		`"changes":[{"field":"messages","value":{"recipient":{"id":"7"},"message":{}}}]`:           "7",
		`"id":"` + tooLong + `","messaging":[{"message":{}}]`:                                      domain.PageID(tooLongToken),
		`"id":"a.b >*","messaging":[{"message":{}}]`:                                               "a.b >*",
	} {
		require.Equal(t, want, splitOne(t, []byte(`{"object":"page","entry":[{`+entry+`}]}`)).Page, "%.80s", entry)
	}
}

// TestTime checks that the time is the item's own, in any of Meta's forms, or else
// the entry's.
func TestTime(t *testing.T) {
	for _, c := range []struct{ stamp, entry, want string }{
		{`1790000000123`, `1`, "2026-09-21T14:13:20.123Z"},
		{`1790000000`, `1`, "2026-09-21T14:13:20Z"},
		{`"1790000000"`, `1`, "2026-09-21T14:13:20Z"},
		{`" 1790000000123 "`, `1`, "2026-09-21T14:13:20.123Z"},
		{`1.790000000123e12`, `1`, "2026-09-21T14:13:20.123Z"},
		{`1790000000123456`, `1`, "2026-09-21T14:13:20.123Z"},
		{`1790000000123456789`, `1`, "2026-09-21T14:13:20.123Z"},
		{`"2026-09-21T14:13:20+0000"`, `1`, "2026-09-21T14:13:20Z"},
		{`"2026-09-21T16:13:20.5+0200"`, `1`, "2026-09-21T14:13:20.5Z"},
		{`"2026-09-21T14:13:20Z"`, `1`, "2026-09-21T14:13:20Z"},
		{`0`, `1790000000123`, "2026-09-21T14:13:20.123Z"},
		{`null`, `1790000000`, "2026-09-21T14:13:20Z"},
		{`-5`, `"1790000000123"`, "2026-09-21T14:13:20.123Z"},
		{`{}`, `"2026-09-21T14:13:20+0000"`, "2026-09-21T14:13:20Z"},
		{`"soon"`, `1790000000123`, "2026-09-21T14:13:20.123Z"},
		{`99999999999999999999999`, `1790000000123`, "2026-09-21T14:13:20.123Z"},
		{`9223372036854775807`, `1`, "2262-04-11T23:47:16.854Z"},
		{`"9999-12-31T23:59:59-1200"`, `1790000000123`, "2026-09-21T14:13:20.123Z"},
		{`"0001-01-01T00:00:00Z"`, `1790000000123`, "2026-09-21T14:13:20.123Z"},
		{`0`, `0`, "0001-01-01T00:00:00Z"},
		{`0`, `"never"`, "0001-01-01T00:00:00Z"},
	} {
		e := splitOne(t, delivery("messaging", c.entry, `{"timestamp":`+c.stamp+`,"message":{"mid":"m"}}`))
		require.Equal(t, c.want, e.Time.Format(time.RFC3339Nano),
			"timestamp %s of an entry at %s", c.stamp, c.entry)
	}
}

func TestChanges(t *testing.T) {
	at := time.Unix(1790000000, 0).UTC()
	for _, c := range []struct {
		page, item string
		typ        domain.Type
		kind       string
		test       bool
		id         string // "" for class h
	}{
		{"7", `{"field":"messages","value":{"sender":{"id":"9"},"recipient":{"id":"7"},"timestamp":"1790000000","message":{"mid":"m"}}}`, domain.MessageReceived, "message", false, "page:7:msg:m"},
		{
			"7", `{"field":"messaging_postbacks","value":{"sender":{"user_ref":"u"},"postback":{"mid":"m"}}}`,
			domain.PostbackReceived, "postback", false, "page:7:pb:m",
		},
		{
			"7", `{"field":"messaging_seen","value":{"sender":{"id":"9"},"read":{"mid":"m"}}}`, domain.MessageRead, "read",
			false, "page:7:read:9|m",
		},
		{"7", `{"field":"messages","value":{"message":{"mid":"m"}}}`, domain.ChangeReceived, "messages", false, ""},
		{
			"7", `{"field":"messages","value":{"sender":{"id":"9"},"message":"TEST"}}`, domain.ChangeReceived, "messages",
			false, "",
		},
		{
			"7", `{"field":"feed","value":{"sender":{"id":"9"},"message":{"mid":"m"},"created_time":1790000000}}`,
			domain.ChangeReceived, "feed", false, "",
		},
		{
			"7", `{"field":"message_context","value":{"sender":{"id":"9"},"x":1}}`, domain.ChangeReceived, "message_context",
			false, "",
		},
		{"7", `{"field":"parking"}`, domain.ChangeReceived, "parking", false, ""},
		{"7", `{"field":"name","value":"text"}`, domain.ChangeReceived, "name", false, ""},
		{"7", `{"field":7}`, domain.ChangeReceived, "", false, ""},
		{"7", `"feed"`, domain.DeliveryUnrecognized, "", false, ""},
		{
			"0", `{"field":"messages","value":{"sender":{"id":"9"},"recipient":{"id":"7"},"message":{"mid":"m"}}}`,
			domain.ChangeReceived, "messages", true, "",
		},
	} {
		e := splitOne(t, []byte(`{"object":"page","entry":[{"id":"`+c.page+`","time":1790000000,"changes":[`+c.item+`]}]}`))
		require.Equal(t, c.typ, e.Type)
		require.Equal(t, c.kind, e.Data.Kind)
		require.Equal(t, c.test, e.Data.Test)
		require.Equal(t, c.page, string(e.Page))
		require.Equal(t, "changes", e.Data.Channel)
		require.Equal(t, c.item, string(e.Data.Raw))
		require.True(t, e.Time.Equal(at))
		if c.id == "" {
			require.Contains(t, e.ID, ":h:", c.item)
		} else {
			require.Equal(t, c.id, e.ID, c.item)
		}
	}
	// A change has the same id as the messaging item that it contains, also by hash.
	const item = `{"sender":{"id":"9"},"recipient":{"id":"7"},"referral":{"ref":"r"}}`
	change := splitOne(t, delivery("changes", "1790000000", `{"field":"messaging_referrals","value":`+item+`}`))
	require.Equal(t, splitOne(t, delivery("messaging", "1790000000", item)).ID, change.ID,
		"a referral as a change has another id")
	fields := messenger.Split(delivery("changed_fields", "1790000000", `"name",null,{"a":1},7`),
		messenger.Options{}).Events
	var got []string
	for _, e := range fields {
		got = append(got, string(e.Type)+" "+e.Data.Kind)
	}
	want := []string{"change.received name", "delivery.unrecognized ", "delivery.unrecognized ", "delivery.unrecognized "}
	require.Empty(t, cmp.Diff(want, got))
}
