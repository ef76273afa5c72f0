package domain

import (
	"slices"
	"strings"
)

// Type is the kind of an event as "<noun>.<verb>", for example
// "message.received". It is the last part of the event's subject and the middle
// part of its CloudEvents type.
type Type string

// The event types. The list is closed: a consumer may switch over it. An item of
// an unknown kind becomes [DeliveryUnrecognized], never a new type.
const (
	MessageReceived  Type = "message.received"
	MessageEchoed    Type = "message.echoed"
	MessageDeleted   Type = "message.deleted"
	MessageEdited    Type = "message.edited"
	MessageDelivered Type = "message.delivered"
	MessageRead      Type = "message.read"
	MessageReacted   Type = "message.reacted"

	PostbackReceived Type = "postback.received"
	ReferralReceived Type = "referral.received"
	OptinReceived    Type = "optin.received"

	AccountLinked   Type = "account.linked"
	AccountUnlinked Type = "account.unlinked"

	ThreadPassed       Type = "thread.passed"
	ThreadTaken        Type = "thread.taken"
	ThreadRequested    Type = "thread.requested"
	ThreadRolesChanged Type = "thread.roles_changed"

	PolicyEnforced Type = "policy.enforced"

	CommentReceived Type = "comment.received"
	CommentEdited   Type = "comment.edited"
	CommentRemoved  Type = "comment.removed"
	CommentHidden   Type = "comment.hidden"
	CommentUnhidden Type = "comment.unhidden"

	PostPublished Type = "post.published"
	PostEdited    Type = "post.edited"
	PostRemoved   Type = "post.removed"

	// ReactionAdded and ReactionRemoved are reactions to posts and comments;
	// [MessageReacted] is one to a message. A changed reaction is ReactionAdded.
	ReactionAdded   Type = "reaction.added"
	ReactionRemoved Type = "reaction.removed"

	MentionReceived Type = "mention.received"
	RatingReceived  Type = "rating.received"

	// LeadReceived is Meta's report of a lead, LeadRetrieved pagestream's own record of
	// the answers, which it read from the Graph API.
	LeadReceived  Type = "lead.received"
	LeadRetrieved Type = "lead.retrieved"

	FeedbackReceived Type = "feedback.received"
	OrderReceived    Type = "order.received"
	LabelAdded       Type = "label.added"
	LabelRemoved     Type = "label.removed"
	LiveChanged      Type = "live.changed"

	// ChangeReceived is an item of changes or changed_fields without a typed form.
	ChangeReceived Type = "change.received"

	// ForeignReceived is an item that one app delivered for a page that is connected
	// through another app; [Event.Original] is the type that it would have had. It is in
	// no conversation and reaches no consumer.
	ForeignReceived Type = "foreign.received"

	DeliveryUnreadable   Type = "delivery.unreadable"
	DeliveryUnrecognized Type = "delivery.unrecognized"

	PageConnected        Type = "page.connected"
	PageRenamed          Type = "page.renamed"
	PageTokenRefreshed   Type = "page.token_refreshed"
	PageTokenInvalidated Type = "page.token_invalidated"
	// PageLinked is a change of the Instagram account that is linked to a page.
	PageLinked       Type = "page.linked"
	PageDisconnected Type = "page.disconnected"
	// PageAdminErased is the record that the id of a person who connected the page was
	// erased from events.
	PageAdminErased Type = "page.admin_erased"
	// PageTestMarked is the record that what is received for the page from here on is a
	// test, until it is connected or forgotten.
	PageTestMarked Type = "page.test_marked"
	// PageForgotten is the record that an operator removed a page, which is not
	// connected, from the read models. The page's events stay in the stream.
	PageForgotten Type = "page.forgotten"

	SubscriptionRequested Type = "subscription.requested"
	SubscriptionConfirmed Type = "subscription.confirmed"
	SubscriptionFailed    Type = "subscription.failed"
	SubscriptionDrifted   Type = "subscription.drifted"
	SubscriptionRemoved   Type = "subscription.removed"

	ContactProfiled Type = "contact.profiled"
	ContactErased   Type = "contact.erased"
)

var types = []Type{
	MessageReceived, MessageEchoed, MessageDeleted, MessageEdited, MessageDelivered, MessageRead, MessageReacted,
	PostbackReceived, ReferralReceived, OptinReceived, AccountLinked, AccountUnlinked,
	ThreadPassed, ThreadTaken, ThreadRequested, ThreadRolesChanged, PolicyEnforced,
	CommentReceived, CommentEdited, CommentRemoved, CommentHidden, CommentUnhidden,
	PostPublished, PostEdited, PostRemoved, ReactionAdded, ReactionRemoved, MentionReceived, RatingReceived,
	LeadReceived, LeadRetrieved, FeedbackReceived, OrderReceived, LabelAdded, LabelRemoved, LiveChanged, ChangeReceived,
	ForeignReceived, DeliveryUnreadable, DeliveryUnrecognized,
	PageConnected, PageRenamed, PageTokenRefreshed, PageTokenInvalidated, PageLinked, PageDisconnected,
	PageAdminErased, PageTestMarked, PageForgotten,
	SubscriptionRequested, SubscriptionConfirmed, SubscriptionFailed, SubscriptionDrifted, SubscriptionRemoved,
	ContactProfiled, ContactErased,
}

// Types returns every event type, in the order of their declaration. The slice
// is a copy.
func Types() []Type { return slices.Clone(types) }

// Known reports whether t is one of [Types].
func (t Type) Known() bool { return slices.Contains(types, t) }

// Noun returns the part before the dot.
func (t Type) Noun() string { noun, _, _ := strings.Cut(string(t), "."); return noun }

// Verb returns the part after the dot.
func (t Type) Verb() string { _, verb, _ := strings.Cut(string(t), "."); return verb }

// Inbound reports whether events of the type are what the page's own app delivered. The
// others are pagestream's own, about a page, a subscription, a contact or the answers
// of a lead, and [ForeignReceived].
func (t Type) Inbound() bool {
	return t != LeadRetrieved && t != ForeignReceived && !slices.Contains([]string{"page", "subscription", "contact"}, t.Noun())
}
