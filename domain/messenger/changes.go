package messenger

import (
	"cmp"
	"slices"
	"strings"

	"github.com/pagestream/pagestream/domain"
)

// changeKind is one kind of change with a typed form.
type changeKind struct {
	// fields are the change's field; items and verbs are values of the change's item
	// and verb (or action). Empty items or verbs match every change of the field.
	fields, items, verbs []string
	typ                  domain.Type
	// time is the field of the value with the time of the fact itself. It is empty
	// where Meta sends none: created_time is the time of the object, and so that of a
	// comment which is hidden today may be a year ago.
	time string
	read func(v value, e *domain.Event)

	// The rest is for [Kinds]: where the value names its contact, an example of the
	// value, and Meta's reference.
	contact, example, source string
}

var (
	feed      = []string{"feed", "ratings", "group_feed"}
	comments  = []string{"comment"}
	reactions = []string{"reaction", "like"}
	posts     = []string{
		"post", "status", "photo", "video", "share", "link", "album", "event", "note", "story", "question",
		"milestone", "offer", "coupon", "experience",
	}
	add    = []string{"add"}
	edit   = []string{"edit", "edited", "update"}
	remove = []string{"remove", "delete"}
	hide   = []string{"hide"}
	unhide = []string{"unhide"}

	reviews   = []string{"ratings"}
	ratings   = []string{"rating"}
	labels    = []string{"inbox_labels"}
	instagram = []string{"comments", "live_comments"}
)

// changes are the kinds with a typed form. The kind of a change is the first that
// matches; a change that matches none is [domain.ChangeReceived].
var changes = []changeKind{
	{
		feed, comments, add, domain.CommentReceived, "created_time", readComment, "from.id",
		`{"item":"comment","verb":"add","comment_id":"9_1","post_id":"7_9","from":{"id":"31"},"message":"hi",` +
			`"created_time":1790000000}`, pageDocs + "#feed",
	},
	{
		feed, comments, edit, domain.CommentEdited, "edited_time", readComment, "from.id",
		`{"item":"comment","verb":"edited","comment_id":"9_1","from":{"id":"31"},"message":"hi!",` +
			`"edited_time":1790000000}`, pageDocs + "#feed",
	},
	{
		feed, comments, remove, domain.CommentRemoved, "", readComment, "from.id",
		`{"item":"comment","verb":"remove","comment_id":"9_1","from":{"id":"31"},"created_time":1690000000}`,
		pageDocs + "#feed",
	},
	{
		feed, comments, hide, domain.CommentHidden, "", readComment, "from.id",
		`{"item":"comment","verb":"hide","comment_id":"9_1","from":{"id":"31"},"created_time":1690000000}`,
		pageDocs + "#feed",
	},
	{
		feed, comments, unhide, domain.CommentUnhidden, "", readComment, "from.id",
		`{"item":"comment","verb":"unhide","comment_id":"9_1","from":{"id":"31"},"created_time":1690000000}`,
		pageDocs + "#feed",
	},
	{
		instagram, nil, nil, domain.CommentReceived, "created_time", readMediaComment, "from.id",
		`{"id":"8","media":{"id":"9"},"from":{"id":"51"},"text":"nice","created_time":1790000000}`, instagramDocs,
	},
	{
		feed, reactions, add, domain.ReactionAdded, "created_time", readPostReaction, "from.id",
		`{"item":"reaction","verb":"add","post_id":"7_9","reaction_type":"love","from":{"id":"31"},` +
			`"created_time":1790000000}`, pageDocs + "#feed",
	},
	{
		feed, reactions, edit, domain.ReactionAdded, "", readPostReaction, "from.id",
		`{"item":"reaction","verb":"edit","post_id":"7_9","reaction_type":"wow","from":{"id":"31"},` +
			`"created_time":1690000000}`, pageDocs + "#feed",
	},
	{
		feed, reactions, remove, domain.ReactionRemoved, "", readPostReaction, "from.id",
		`{"item":"reaction","verb":"remove","post_id":"7_9","from":{"id":"31"},"created_time":1690000000}`,
		pageDocs + "#feed",
	},
	{
		feed, posts, add, domain.PostPublished, "created_time", readPost, "from.id",
		`{"item":"post","verb":"add","post_id":"7_9","from":{"id":"31"},"message":"news","created_time":1790000000}`,
		pageDocs + "#feed",
	},
	{
		feed, posts, edit, domain.PostEdited, "edited_time", readPost, "from.id",
		`{"item":"post","verb":"edited","post_id":"7_9","from":{"id":"31"},"edited_time":1790000000}`, pageDocs + "#feed",
	},
	{
		feed, posts, remove, domain.PostRemoved, "", readPost, "from.id",
		`{"item":"post","verb":"remove","post_id":"7_9","from":{"id":"31"},"created_time":1690000000}`, pageDocs + "#feed",
	},
	{
		reviews, ratings, add, domain.RatingReceived, "created_time", readRating, "reviewer_id",
		`{"item":"rating","verb":"add","open_graph_story_id":"5","reviewer_id":31,"review_text":"good",` +
			`"created_time":1790000000}`, pageDocs + "#ratings",
	},
	{
		reviews, ratings, edit, domain.RatingReceived, "", readRating, "reviewer_id",
		`{"item":"rating","verb":"edit","open_graph_story_id":"5","reviewer_id":31,"review_text":"bad",` +
			`"created_time":1690000000}`, pageDocs + "#ratings",
	},
	{
		[]string{"mention"},
		nil, add, domain.MentionReceived, "created_time", readMention, "sender_id",
		`{"item":"post","verb":"add","post_id":"44_4","sender_id":"44","message":"look","created_time":1790000000}`,
		pageDocs + "#mention",
	},
	{
		[]string{"mentions"},
		nil, nil, domain.MentionReceived, "created_time", readMention, "",
		`{"media_id":"9","comment_id":"8","created_time":1790000000}`, instagramDocs,
	},
	{
		[]string{"leadgen"},
		nil, nil, domain.LeadReceived, "created_time", readLead, "",
		`{"leadgen_id":"6","form_id":"5","ad_id":"4","created_time":1790000000}`, pageDocs + "#leadgen",
	},
	{
		labels, nil, add, domain.LabelAdded, "", readLabel, "user.id",
		`{"action":"add","label":{"id":"1","page_label_name":"vip"},"user":{"id":"31"}}`, pageDocs + "#inbox_labels",
	},
	{
		labels, nil, remove, domain.LabelRemoved, "", readLabel, "user.id",
		`{"action":"remove","label":{"id":"1","page_label_name":"vip"},"user":{"id":"31"}}`, pageDocs + "#inbox_labels",
	},
	{
		[]string{"live_videos"},
		nil, nil, domain.LiveChanged, "", readLive, "",
		`{"id":"5","status":"live"}`, pageDocs + "#live_videos",
	},
}

// changeOf returns the kind of a change, nil if it has no typed form.
func changeOf(field string, v value) *changeKind {
	if !v.exists() {
		return nil
	}
	item, verb := v.text("item"), cmp.Or(v.text("verb"), v.text("action"))
	for i := range changes {
		k := &changes[i]
		if slices.Contains(k.fields, field) &&
			(k.items == nil || slices.Contains(k.items, item)) && (k.verbs == nil || slices.Contains(k.verbs, verb)) {
			return k
		}
	}
	return nil
}

// author returns the person who made a change. Meta names them in several ways, by
// field and version.
func author(v value) domain.Person {
	from, sender, user := v.object("from"), v.object("sender"), v.object("user")
	commenter, comment := v.object("commenter"), v.object("comment").object("from")
	return domain.Person{
		ID: cmp.Or(from.id("id"), v.id("from"), sender.id("id"), v.id("sender_id"), v.id("reviewer_id"),
			user.id("id"), v.id("user_id"), commenter.id("id"), v.id("commenter_id"), comment.id("id")),
		Name: cmp.Or(from.text("name"), from.text("username"), sender.text("name"), v.text("sender_name"),
			v.text("reviewer_name"), user.text("name"), commenter.text("name"), comment.text("name")),
	}
}

func readComment(v value, e *domain.Event) {
	c := &domain.Comment{
		ID: v.id("comment_id"), Post: v.id("post_id"), Parent: v.id("parent_id"), From: author(v),
		Text: v.maybeText("message"), Photo: v.text("photo"), Video: v.text("video"), Link: v.text("link"),
	}
	if c.Parent == c.Post { // Meta repeats the post's id there
		c.Parent = ""
	}
	e.Data.Comment = c
}

// readMediaComment reads a comment of Instagram.
func readMediaComment(v value, e *domain.Event) {
	e.Data.Comment = &domain.Comment{
		ID: v.id("id"), Post: cmp.Or(v.object("media").id("id"), v.id("media_id")), Parent: v.id("parent_id"),
		From: author(v), Text: v.maybeText("text"), Live: e.Data.Kind == "live_comments",
	}
}

func readPostReaction(v value, e *domain.Event) {
	r := &domain.PostReaction{
		Post: v.id("post_id"), Comment: v.id("comment_id"), Parent: v.id("parent_id"), From: author(v),
		Reaction: v.text("reaction_type"),
	}
	if r.Reaction == "" && v.text("item") == "like" {
		r.Reaction = "like"
	}
	e.Data.PostReaction = r
}

func readPost(v value, e *domain.Event) {
	p := &domain.Post{
		ID: v.id("post_id"), Item: v.text("item"), From: author(v), Text: v.maybeText("message"), Link: v.text("link"),
		Photos: asIDs(v.get("photos")),
		Object: cmp.Or(v.id("photo_id"), v.id("video_id"), v.id("album_id"), v.id("share_id"), v.id("event_id")),
	}
	published := string(v.get("published").raw())
	p.Unpublished = published == "0" || published == "false"
	e.Data.Post = p
}

func readRating(v value, e *domain.Event) {
	e.Data.Rating = &domain.Rating{
		Story: v.id("open_graph_story_id"), From: author(v), Changed: v.text("verb") != "add", Stars: v.number("rating"),
		Recommendation: strings.ToLower(v.text("recommendation_type")), Text: v.text("review_text"),
	}
}

func readMention(v value, e *domain.Event) {
	e.Data.Mention = &domain.Mention{
		Item: v.text("item"), Post: v.id("post_id"), Comment: v.id("comment_id"), Media: v.id("media_id"),
		From: author(v), Text: v.text("message"),
	}
}

func readLead(v value, e *domain.Event) {
	l := &domain.Lead{ID: v.id("leadgen_id"), Form: v.id("form_id"), Ad: v.id("ad_id"), AdGroup: v.id("adgroup_id")}
	if l.Ad == "0" { // an organic lead
		l.Ad = ""
	}
	if l.AdGroup == "0" {
		l.AdGroup = ""
	}
	e.Data.Lead = l
}

func readLabel(v value, e *domain.Event) {
	label := v.object("label")
	e.Data.Label = &domain.Label{ID: label.id("id"), Name: cmp.Or(label.text("page_label_name"), label.text("name"))}
}

func readLive(v value, e *domain.Event) {
	e.Data.Live = &domain.Live{ID: v.id("id"), Status: v.text("status")}
}
