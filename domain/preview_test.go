package domain_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/pagestream/pagestream/domain"
)

func TestPreview(t *testing.T) {
	for _, c := range []struct {
		want string
		data domain.Data
	}{
		{"see you", domain.Data{Message: &domain.Message{Text: "see you"}}},
		{"(unsupported message)", domain.Data{Message: &domain.Message{Unsupported: true}}},
		{"<image> <attachment>", domain.Data{Message: &domain.Message{Attachments: []domain.Attachment{{Type: "image"}, {}}}}},
		{"look <image>", domain.Data{Message: &domain.Message{
			Text: "look", Attachments: []domain.Attachment{{Type: "image"}},
		}}},
		{"(unsent)", domain.Data{Message: &domain.Message{MID: "m_1", Deleted: true}}},
		{"", domain.Data{Message: &domain.Message{MID: "m_1"}}},
		{"see you at six", domain.Data{Edit: &domain.Edit{Text: new("see you at six")}}},
		{"❤", domain.Data{Reaction: &domain.Reaction{Action: "react", Reaction: "love", Emoji: "❤"}}},
		{"love", domain.Data{Reaction: &domain.Reaction{Action: "react", Reaction: "love"}}},
		{"(reaction removed)", domain.Data{Reaction: &domain.Reaction{Action: "unreact"}}},
		{"Get started", domain.Data{Postback: &domain.Postback{Title: "Get started", Payload: "GO"}}},
		{"GO", domain.Data{Postback: &domain.Postback{Payload: "GO"}}},
		{"summer", domain.Data{Referral: &domain.Referral{Ref: "summer"}}},
		{"notification_messages STOP", domain.Data{Optin: &domain.Optin{Type: "notification_messages", Status: "STOP"}}},
		{"linked", domain.Data{AccountLink: &domain.AccountLink{Status: "linked"}}},
		{"block spam", domain.Data{Policy: &domain.Policy{Action: "block", Reason: "spam"}}},
		{"not JSON", domain.Data{Unreadable: &domain.Unreadable{Reason: "not JSON", Body: []byte("secret")}}},
		{"Cats", domain.Data{Connection: &domain.Connection{Name: "Cats", Secret: "x"}}},
		{"no permission", domain.Data{Subscription: &domain.Subscription{Reason: "no permission"}}},
		{"Ann", domain.Data{Profile: &domain.Profile{Name: "Ann"}}},
		{"2 events", domain.Data{Erasure: &domain.Erasure{Events: make([]domain.Tombstone, 2)}}},
		{"", domain.Data{Kind: "read", Read: &domain.Read{Watermark: 1}}},
		{"", domain.Data{Kind: "delivery", Delivery: &domain.Delivery{}}},
		{"", domain.Data{Kind: "app_roles", Thread: &domain.Thread{}}},
		{"nice <photo>", domain.Data{Comment: &domain.Comment{Text: new("nice"), Photo: "https://cdn.example/p"}}},
		{"", domain.Data{Comment: &domain.Comment{ID: "1"}}},
		{"news <status>", domain.Data{Post: &domain.Post{Text: new("news"), Item: "status"}}},
		{"love", domain.Data{PostReaction: &domain.PostReaction{Reaction: "love"}}},
		{"look", domain.Data{Mention: &domain.Mention{Text: "look"}}},
		{"negative slow", domain.Data{Rating: &domain.Rating{Recommendation: "negative", Text: "slow"}}},
		{"form 7", domain.Data{Lead: &domain.Lead{Form: "7", Answers: []domain.LeadAnswer{{Name: "email", Values: []string{"x"}}}}}},
		{"csat 5 fine", domain.Data{Feedback: &domain.Feedback{Answers: []domain.FeedbackAnswer{{Type: "csat", Answer: "5", FollowUp: "fine"}}}}},
		{"1 products soon", domain.Data{Order: &domain.Order{Products: make([]domain.OrderProduct, 1), Note: "soon"}}},
		{"vip", domain.Data{Label: &domain.Label{ID: "1", Name: "vip"}}},
		{"LIVE", domain.Data{Live: &domain.Live{Status: "LIVE"}}},
		{"feed", domain.Data{Channel: "changes", Kind: "feed"}},
		{"", domain.Data{}},
	} {
		assert.Equal(t, c.want, domain.Event{Data: c.data}.Preview())
	}
	long := domain.Event{Data: domain.Data{Message: &domain.Message{Text: strings.Repeat("ä", 200)}}}
	assert.Equal(t, strings.Repeat("ä", 120), long.Preview())
}
