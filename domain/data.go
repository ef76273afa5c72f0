package domain

// Message is one message in either direction, or the unsend of one.
// https://developers.facebook.com/docs/messenger-platform/reference/webhook-events/messages
type Message struct {
	// MID is Meta's message id; empty on some unsupported messages.
	MID  string `json:"mid,omitempty"`
	Text string `json:"text,omitempty"`
	// QuickReply is the payload of the pressed quick reply. A payload that is not a
	// string is its JSON text.
	QuickReply  string       `json:"quick_reply,omitempty"`
	ReplyTo     *ReplyTo     `json:"reply_to,omitempty"`
	Attachments []Attachment `json:"attachments,omitempty"`
	Referral    *Referral    `json:"referral,omitempty"`
	// Echo is set on what the page itself sent, no matter which app or person
	// sent it.
	Echo bool `json:"echo,omitempty"`
	// AppID is the app that sent an echo; absent on Instagram.
	AppID    string `json:"app_id,omitempty"`
	Metadata string `json:"metadata,omitempty"`
	// Deleted is set on an unsend: MID is the id of the deleted message.
	Deleted     bool     `json:"deleted,omitempty"`
	Unsupported bool     `json:"unsupported,omitempty"`
	Commands    []string `json:"commands,omitempty"`
}

// ReplyTo is what a message answers: another message, or an Instagram story.
type ReplyTo struct {
	MID       string `json:"mid,omitempty"`
	SelfReply bool   `json:"self_reply,omitempty"`
	StoryID   string `json:"story_id,omitempty"`
	StoryURL  string `json:"story_url,omitempty"`
}

// Attachment is one attachment. URLs point to Meta's CDN and expire in days.
// Fields that have no place here are in the item's raw bytes only.
type Attachment struct {
	// Type is Meta's attachment type: image, audio, video, file, sticker, location,
	// template, fallback, share, story_mention, ig_reel, …
	Type      string   `json:"type,omitempty"`
	URL       string   `json:"url,omitempty"`
	Title     string   `json:"title,omitempty"`
	StickerID string   `json:"sticker_id,omitempty"`
	Lat       *float64 `json:"lat,omitempty"`
	Long      *float64 `json:"long,omitempty"`
	// ID is the id of a shared story, reel or post, or of an appointment.
	ID string `json:"id,omitempty"`
	// Template is the template type: generic, button, media, product, receipt.
	Template string `json:"template,omitempty"`
	// Products are those of a product template.
	Products []Product `json:"products,omitempty"`
	// Expires is when URL expires, in Unix seconds; 0 where it is not known. Meta's CDN
	// writes it into the URL.
	Expires int64 `json:"expires,omitempty"`
}

// Product is a product of the page's catalog that a person or the page shared.
type Product struct {
	ID         string `json:"id,omitempty"`
	RetailerID string `json:"retailer_id,omitempty"`
	Title      string `json:"title,omitempty"`
	// Subtitle is usually the price, as text.
	Subtitle string `json:"subtitle,omitempty"`
	Image    string `json:"image,omitempty"`
}

// Edit is one edit of a message. Num counts from 1; Meta allows 5. Instagram also sends
// an edit with number 0 and no text for a message that nobody edited.
type Edit struct {
	MID string `json:"mid,omitempty"`
	// Text is nil where the delivery has none: such an edit does not change the text.
	Text *string `json:"text,omitempty"`
	Num  int64   `json:"num,omitempty"`
}

// Delivery is a delivery receipt for messages that the page sent. It covers
// MIDs, where Meta lists them, and every message at or before Watermark.
type Delivery struct {
	MIDs []string `json:"mids,omitempty"`
	// Watermark is in Unix milliseconds; 0 where absent.
	Watermark int64 `json:"watermark,omitempty"`
}

// Read is a read receipt: Messenger sends a watermark, Instagram a message id.
type Read struct {
	MID string `json:"mid,omitempty"`
	// Watermark is in Unix milliseconds; 0 where absent.
	Watermark int64 `json:"watermark,omitempty"`
}

// Reaction is a reaction to a message that was added or removed.
type Reaction struct {
	// MID is the message that was reacted to.
	MID string `json:"mid,omitempty"`
	// Action is "react" or "unreact".
	Action   string `json:"action,omitempty"`
	Reaction string `json:"reaction,omitempty"`
	Emoji    string `json:"emoji,omitempty"`
}

// Postback is a press on a button, Get Started, or an ice breaker.
type Postback struct {
	MID   string `json:"mid,omitempty"`
	Title string `json:"title,omitempty"`
	// Payload is absent in standby: only the app that sent the button sees it. A payload
	// that is not a string is its JSON text.
	Payload  string    `json:"payload,omitempty"`
	Referral *Referral `json:"referral,omitempty"`
}

// Referral describes how a person entered the conversation: a link, an ad, a
// plugin.
type Referral struct {
	Ref     string `json:"ref,omitempty"`
	Source  string `json:"source,omitempty"`
	Type    string `json:"type,omitempty"`
	AdID    string `json:"ad_id,omitempty"`
	Product string `json:"product,omitempty"`
	// Ads describes the ad that the person came from.
	Ads *AdsContext `json:"ads,omitempty"`
}

// AdsContext is what Meta reports of an ad (ads_context_data).
// https://developers.facebook.com/docs/messenger-platform/reference/webhook-events/messaging_referrals
type AdsContext struct {
	Title   string `json:"ad_title,omitempty"`
	Photo   string `json:"photo_url,omitempty"`
	Video   string `json:"video_url,omitempty"`
	Post    string `json:"post_id,omitempty"`
	Product string `json:"product_id,omitempty"`
	Flow    string `json:"flow_id,omitempty"`
}

// Optin is a person's consent to be messaged: by the checkbox plugin, for a
// one-time notification or for marketing messages. Its notification tokens are
// in the raw item only.
type Optin struct {
	Type    string `json:"type,omitempty"`
	Ref     string `json:"ref,omitempty"`
	UserRef string `json:"user_ref,omitempty"`
	Payload string `json:"payload,omitempty"`
	Status  string `json:"status,omitempty"`
}

// AccountLink is the result of an account linking flow. The authorization code
// is in the raw item only.
type AccountLink struct {
	Status string `json:"status,omitempty"`
}

// Thread is a change of the app that owns the conversation, in Meta's handover
// protocol.
type Thread struct {
	PreviousOwner string `json:"previous_owner,omitempty"`
	NewOwner      string `json:"new_owner,omitempty"`
	// Requester is the app that asks for the thread.
	Requester string `json:"requester,omitempty"`
	Metadata  string `json:"metadata,omitempty"`
	// Roles lists each app's roles after thread.roles_changed.
	Roles map[string][]string `json:"roles,omitempty"`
}

// Policy is a warning, block or unblock of the page by Meta.
type Policy struct {
	Action string `json:"action,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// Unreadable is a delivery whose signature was valid and whose body is not the
// JSON that Meta documents. Body is the complete body, so nothing is lost.
type Unreadable struct {
	Reason string `json:"reason"`
	Body   []byte `json:"body"`
}

// Connection is the state of a page connection at the time of the event. It has no
// token, not even a sealed one, but a reference to the stored secret.
type Connection struct {
	// ConnectionID identifies this connection of the page.
	ConnectionID string `json:"connection_id,omitempty"`
	// Company is the tenant that owns the page.
	Company string `json:"company,omitempty"`
	// App names the configured app that the page is connected through, AppID is its id at
	// Meta.
	App   string `json:"app,omitempty"`
	AppID string `json:"app_id,omitempty"`
	Name  string `json:"name,omitempty"`
	// Instagram is the linked Instagram account, if any.
	Instagram string `json:"instagram,omitempty"`
	// Secret refers to the stored tokens of the connection, which are not events. It
	// is empty if the connection has no token.
	Secret string `json:"secret,omitempty"`
	// Admin is the app-scoped user id of the person who connected the page.
	Admin  string   `json:"admin,omitempty"`
	Fields []string `json:"fields,omitempty"`
	Reason string   `json:"reason,omitempty"`
	// Code and Subcode are the Graph API's error codes when it rejected the token.
	Code    int `json:"code,omitempty"`
	Subcode int `json:"subcode,omitempty"`
	// Expires is when the token expires, DataAccessExpires when the consent to
	// read data expires, in Unix seconds; 0 is never or unknown.
	Expires           int64 `json:"expires,omitempty"`
	DataAccessExpires int64 `json:"data_access_expires,omitempty"`
	// Scopes are the permissions that the token was granted.
	Scopes []string `json:"scopes,omitempty"`
	// Resealed marks a page.token_refreshed event of an earlier version, whose token
	// is the same as before, sealed with another key.
	Resealed bool `json:"resealed,omitempty"`
}

// Subscription is the state of the app's webhook subscription to one page.
type Subscription struct {
	App string `json:"app,omitempty"`
	// Wanted lists the fields that we requested, Actual the fields that GET
	// subscribed_apps returned.
	Wanted []string `json:"wanted,omitempty"`
	Actual []string `json:"actual,omitempty"`
	// Reason, Code and Subcode say why the subscription failed, drifted or was
	// removed. They are the Graph API's message and error codes, without a token.
	Reason  string `json:"reason,omitempty"`
	Code    int    `json:"code,omitempty"`
	Subcode int    `json:"subcode,omitempty"`
}

// Profile is a contact's profile as the Graph API returned it. Empty fields are
// unknown.
type Profile struct {
	Name    string `json:"name,omitempty"`
	Picture string `json:"picture,omitempty"`
}
