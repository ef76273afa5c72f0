package domain

// Person is the author of a change, as Meta names them. Both fields may be empty: Meta
// leaves the author out where the person has not given the app access to it.
type Person struct {
	ID   string `json:"id,omitempty"`
	Name string `json:"name,omitempty"`
}

// Comment is a comment on a post of the page, or on a media object of an Instagram
// account.
// https://developers.facebook.com/docs/graph-api/webhooks/reference/page/#feed
// https://developers.facebook.com/docs/instagram-platform/webhooks
type Comment struct {
	ID string `json:"id,omitempty"`
	// Post is the post, or on Instagram the media object, that the comment is on.
	Post string `json:"post,omitempty"`
	// Parent is the comment that it answers; empty for a comment on the post itself.
	Parent string `json:"parent,omitempty"`
	From   Person `json:"from,omitzero"`
	// Text is nil where the delivery has none: an edit, a removal or a hiding without
	// a text does not change the text.
	Text  *string `json:"text,omitempty"`
	Photo string  `json:"photo,omitempty"`
	Video string  `json:"video,omitempty"`
	Link  string  `json:"link,omitempty"`
	// Live marks a comment on a live video of Instagram.
	Live bool `json:"live,omitempty"`
}

// Post is a post on the page's timeline, by the page or by a person.
// https://developers.facebook.com/docs/graph-api/webhooks/reference/page/#feed
type Post struct {
	ID string `json:"id,omitempty"`
	// Item is Meta's kind of post: post, status, photo, video, share, album, event, …
	Item string `json:"item,omitempty"`
	From Person `json:"from,omitzero"`
	// Text is nil where the delivery has none.
	Text   *string  `json:"text,omitempty"`
	Link   string   `json:"link,omitempty"`
	Photos []string `json:"photos,omitempty"`
	// Object is the id of the photo, video, album, share or event that was posted.
	Object string `json:"object,omitempty"`
	// Unpublished marks a post that is not visible yet.
	Unpublished bool `json:"unpublished,omitempty"`
}

// PostReaction is a reaction to a post or a comment that was added, changed or removed.
// https://developers.facebook.com/docs/graph-api/webhooks/reference/page/#feed
type PostReaction struct {
	Post string `json:"post,omitempty"`
	// Comment is the comment that was reacted to; empty for a reaction to the post.
	Comment string `json:"comment,omitempty"`
	// Parent is the post or comment above the one that was reacted to.
	Parent string `json:"parent,omitempty"`
	From   Person `json:"from,omitzero"`
	// Reaction is like, love, wow, haha, sad, angry, care, …
	Reaction string `json:"reaction,omitempty"`
}

// Mention is a post or comment elsewhere that mentions the page or account.
// https://developers.facebook.com/docs/graph-api/webhooks/reference/page/#mention
// https://developers.facebook.com/docs/instagram-platform/webhooks
type Mention struct {
	// Item is "post" or "comment" on Facebook; empty on Instagram.
	Item    string `json:"item,omitempty"`
	Post    string `json:"post,omitempty"`
	Comment string `json:"comment,omitempty"`
	// Media is the Instagram media object.
	Media string `json:"media,omitempty"`
	From  Person `json:"from,omitzero"`
	Text  string `json:"text,omitempty"`
}

// Rating is a recommendation or review of the page, or its change.
// https://developers.facebook.com/docs/graph-api/webhooks/reference/page/#ratings
type Rating struct {
	// Story is the id of the review's open graph story, which identifies it.
	Story string `json:"story,omitempty"`
	From  Person `json:"from,omitzero"`
	// Changed is set if the person edited an earlier review.
	Changed bool `json:"changed,omitempty"`
	// Stars is 1 to 5, in reviews from before recommendations; 0 where absent.
	Stars int64 `json:"stars,omitempty"`
	// Recommendation is "positive" or "negative".
	Recommendation string `json:"recommendation,omitempty"`
	Text           string `json:"text,omitempty"`
}

// Lead is a form of a lead ad that a person submitted. The webhook has ids only; the
// answers are read from the Graph API and stored as [LeadRetrieved].
// https://developers.facebook.com/docs/marketing-api/guides/lead-ads/retrieving
type Lead struct {
	ID   string `json:"id,omitempty"`
	Form string `json:"form,omitempty"`
	// Ad and AdGroup are empty for an organic lead.
	Ad      string `json:"ad,omitempty"`
	AdGroup string `json:"ad_group,omitempty"`
	// Campaign, Platform, Organic and Answers are known after the retrieval.
	Campaign string       `json:"campaign,omitempty"`
	Platform string       `json:"platform,omitempty"`
	Organic  bool         `json:"organic,omitempty"`
	Answers  []LeadAnswer `json:"answers,omitempty"`
}

// LeadAnswer is one answered question of a lead form.
type LeadAnswer struct {
	Name   string   `json:"name"`
	Values []string `json:"values,omitempty"`
}

// Feedback is a person's answer to a survey of the page, or their judgement of one of
// its messages.
// https://developers.facebook.com/docs/messenger-platform/send-messages/templates/customer-feedback-template
type Feedback struct {
	// MID and Judgement are those of response_feedback: the judged message, and "Good
	// response" or "Bad response".
	MID       string `json:"mid,omitempty"`
	Judgement string `json:"judgement,omitempty"`
	// Answers are those of messaging_feedback, in order of screens and question ids.
	Answers []FeedbackAnswer `json:"answers,omitempty"`
}

// FeedbackAnswer is the answer to one question of a survey.
type FeedbackAnswer struct {
	Screen   string `json:"screen,omitempty"`
	Question string `json:"question,omitempty"`
	// Type is csat, nps or ces; Answer is the score.
	Type   string `json:"type,omitempty"`
	Answer string `json:"answer,omitempty"`
	// FollowUp is the text that the person added.
	FollowUp string `json:"follow_up,omitempty"`
}

// Label is a label that was put on a person in the page's inbox, or taken off.
// https://developers.facebook.com/docs/graph-api/webhooks/reference/page/#inbox_labels
type Label struct {
	ID   string `json:"id,omitempty"`
	Name string `json:"name,omitempty"`
}

// Live is the state of a live video of the page.
// https://developers.facebook.com/docs/graph-api/webhooks/reference/page/#live_videos
type Live struct {
	ID string `json:"id,omitempty"`
	// Status is UNPUBLISHED, LIVE, LIVE_STOPPED, PROCESSING, VOD, SCHEDULED_LIVE, …
	Status string `json:"status,omitempty"`
}

// Order is a shopping cart that a person sent to the page.
// https://developers.facebook.com/docs/messenger-platform/reference/webhook-events/messaging_send_cart
type Order struct {
	Products []OrderProduct `json:"products,omitempty"`
	Note     string         `json:"note,omitempty"`
}

// OrderProduct is one line of an [Order]. Price and quantity are the numbers as they
// were written, in units of the currency.
type OrderProduct struct {
	ID         string `json:"id,omitempty"`
	RetailerID string `json:"retailer_id,omitempty"`
	Name       string `json:"name,omitempty"`
	UnitPrice  string `json:"unit_price,omitempty"`
	Currency   string `json:"currency,omitempty"`
	Quantity   string `json:"quantity,omitempty"`
}
