package domain

import (
	"cmp"
	"fmt"
	"strings"
)

// maxPreview is the most characters of a preview.
const maxPreview = 120

// Preview returns what the event says, in at most 120 characters: the text of a message,
// or the words for what it has instead. It is empty if there is nothing to say beside the
// type. It is for eyes: it may have any character, and must not get into a log.
func (e Event) Preview() string { return Shorten(e.Data.preview()) }

// Shorten returns the first 120 characters of a text.
func Shorten(text string) string {
	n := 0
	for i := range text {
		if n == maxPreview {
			return text[:i]
		}
		n++
	}
	return text
}

func (d Data) preview() string {
	switch {
	case d.Message != nil:
		return d.Message.preview()
	case d.Edit != nil:
		return text(d.Edit.Text)
	case d.Reaction != nil:
		if d.Reaction.Action == "unreact" {
			return "(reaction removed)"
		}
		return cmp.Or(d.Reaction.Emoji, d.Reaction.Reaction)
	case d.Postback != nil:
		return cmp.Or(d.Postback.Title, d.Postback.Payload)
	case d.Referral != nil:
		return cmp.Or(d.Referral.Ref, d.Referral.AdID, d.Referral.Source)
	case d.Optin != nil:
		return join(d.Optin.Type, d.Optin.Status)
	case d.AccountLink != nil:
		return d.AccountLink.Status
	case d.Policy != nil:
		return join(d.Policy.Action, d.Policy.Reason)
	case d.Comment != nil:
		return join(text(d.Comment.Text), mark(d.Comment.Photo, "photo"), mark(d.Comment.Video, "video"))
	case d.Post != nil:
		return join(text(d.Post.Text), mark(d.Post.Item, d.Post.Item))
	case d.PostReaction != nil:
		return d.PostReaction.Reaction
	case d.Mention != nil:
		return d.Mention.Text
	case d.Rating != nil:
		return join(d.Rating.Recommendation, d.Rating.Text)
	case d.Lead != nil:
		return join("form", d.Lead.Form)
	case d.Feedback != nil:
		return d.Feedback.preview()
	case d.Order != nil:
		return join(fmt.Sprintf("%d products", len(d.Order.Products)), d.Order.Note)
	case d.Label != nil:
		return cmp.Or(d.Label.Name, d.Label.ID)
	case d.Live != nil:
		return d.Live.Status
	case d.Unreadable != nil:
		return d.Unreadable.Reason
	case d.Connection != nil:
		return join(d.Connection.Name, d.Connection.Reason)
	case d.Subscription != nil:
		return d.Subscription.Reason
	case d.Profile != nil:
		return d.Profile.Name
	case d.Erasure != nil:
		return fmt.Sprintf("%d events", len(d.Erasure.Events))
	case d.Delivery == nil && d.Read == nil && d.Thread == nil:
		return d.Kind // an item without typed fields
	}
	return ""
}

// preview returns the text of a message and the types of its attachments.
func (m Message) preview() string {
	if m.Deleted {
		return "(unsent)"
	}
	parts := []string{m.Text}
	for _, a := range m.Attachments {
		parts = append(parts, "<"+cmp.Or(a.Type, "attachment")+">")
	}
	if m.Unsupported {
		parts = append(parts, "(unsupported message)")
	}
	return join(parts...)
}

// preview returns the judgement, or the answers with what was added to them.
func (f Feedback) preview() string {
	parts := []string{f.Judgement}
	for _, a := range f.Answers {
		parts = append(parts, a.Type, a.Answer, a.FollowUp)
	}
	return join(parts...)
}

// text returns a text that may be absent.
func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// mark returns the word for something that is there, in angle brackets.
func mark(there, word string) string {
	if there == "" {
		return ""
	}
	return "<" + word + ">"
}

// join joins the texts that are not empty with spaces.
func join(texts ...string) string {
	var b strings.Builder
	for _, t := range texts {
		if t != "" && b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(t)
	}
	return b.String()
}
