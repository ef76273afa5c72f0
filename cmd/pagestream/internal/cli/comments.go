package cli

import (
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pagestream/pagestream/projections/comments"
)

// CommentsCommand groups the commands that read comments.
type CommentsCommand struct {
	List CommentsListCommand `cmd:"" help:"List the comments of a page, newest first."`
	Show CommentsShowCommand `cmd:"" help:"Show one comment with its edits, reactions and events."`
}

// PostsCommand groups the commands that read posts.
type PostsCommand struct {
	List PostsListCommand `cmd:"" help:"List the posts of a page, newest first."`
	Show PostsShowCommand `cmd:"" help:"Show a post and its comments as a tree."`
}

// commentsPath returns the API path of a page's comments, or of one of them.
func commentsPath(page PageRef, comment ...string) string {
	return pageItems("comments", page, comment)
}

// postsPath returns the API path of a page's posts, or of one of them.
func postsPath(page PageRef, post ...string) string { return pageItems("posts", page, post) }

func pageItems(noun string, page PageRef, ids []string) string {
	path := "/api/v1/" + noun + "/" + url.PathEscape(string(page))
	for _, id := range ids {
		path += "/" + url.PathEscape(id)
	}
	return path
}

// commentMoment selects a past state of comments and posts.
type commentMoment struct {
	AtSeq  uint64 `name:"at-seq" placeholder:"N" env:"PAGESTREAM_COMMENTS_AT_SEQ" help:"State after this event."`
	AtTime string `name:"at-time" placeholder:"WHEN" env:"PAGESTREAM_COMMENTS_AT_TIME" help:"State at a time, or a duration ago (2h)."`
}

// query returns the parameters of the moment, and the others.
func (m commentMoment) query(others url.Values) (url.Values, error) {
	if m.AtSeq > 0 {
		others.Set("at_seq", strconv.FormatUint(m.AtSeq, 10))
	}
	at, err := parseTime(m.AtTime, time.Now())
	if err == nil && !at.IsZero() {
		others.Set("at_time", at.UTC().Format(time.RFC3339Nano))
	}
	return others, err
}

// CommentsListCommand lists comments of one page.
type CommentsListCommand struct {
	Page    PageRef `arg:"" help:"Page, by its id or name."`
	Contact string  `placeholder:"ID" env:"PAGESTREAM_COMMENTS_CONTACT" help:"Only comments by this person."`
	Post    string  `placeholder:"ID" env:"PAGESTREAM_COMMENTS_POST" help:"Only comments on this post."`
	State   string  `placeholder:"STATE" env:"PAGESTREAM_COMMENTS_STATE" help:"Only visible, hidden or removed comments."`
	Limit   int     `default:"20" env:"PAGESTREAM_COMMENTS_LIMIT" help:"Maximum number, newest first; 0 for all."`
	commentMoment
}

// Run prints a table with the text of each comment.
func (l CommentsListCommand) Run(c *CLI) error {
	query := url.Values{"order": {"newest"}}
	for name, value := range map[string]string{"contact": l.Contact, "post": l.Post, "state": l.State} {
		if value != "" {
			query.Set(name, value)
		}
	}
	query, err := l.query(query)
	if err != nil {
		return err
	}
	list, err := collect[comments.Comment](c, commentsPath(l.Page), query, l.Limit)
	if err == nil && len(list) == 0 {
		err = l.unknown(c)
	}
	return c.answer(list, err, func() {
		if len(list) == 0 {
			fmt.Fprintf(c.Out, "Page %s has no such comments.\n", l.Page)
			return
		}
		writeTable(c, "COMMENT, POST, CONTACT, NAME, STATE, TIME, TEXT", list, func(v comments.Comment) cells {
			return cells{
				v.ID, dash(v.Post), dash(string(v.Contact)), dash(printable(v.Name)), v.State, localTime(v.Time),
				dash(clip(printable(v.Text), maxCell)),
			}
		})
	})
}

// unknown returns an error if the page has nothing of --contact or --post at all.
func (l CommentsListCommand) unknown(c *CLI) error {
	if l.Post != "" {
		if _, err := get[comments.Post](c, postsPath(l.Page, l.Post), nil); err != nil {
			return err
		}
	}
	if l.Contact == "" {
		return nil
	}
	own, err := collect[comments.Comment](c, commentsPath(l.Page), url.Values{"contact": {l.Contact}}, 1)
	if err != nil || len(own) > 0 {
		return err
	}
	return c.knownContact(l.Page, l.Contact)
}

// CommentsShowCommand shows one comment.
type CommentsShowCommand struct {
	Page    PageRef `arg:"" help:"Page, by its id or name."`
	Comment string  `arg:"" help:"Comment id, as shown by comments list."`
	commentMoment
}

// Run prints the comment, its edits, and the sequences of its events.
func (s CommentsShowCommand) Run(c *CLI) error {
	query, err := s.query(url.Values{})
	if err != nil {
		return err
	}
	v, err := get[comments.Comment](c, commentsPath(s.Page, s.Comment), query)
	return c.answer(v, err, func() {
		fmt.Fprintf(c.Out, "comment %s on post %s\n%s\n", v.ID, dash(v.Post), commentLine(v))
		if v.Parent != "" {
			fmt.Fprintf(c.Out, "  answers %s\n", v.Parent)
		}
		for _, link := range []string{v.Photo, v.Video, v.Link} {
			if link != "" {
				fmt.Fprintf(c.Out, "  <%s>\n", printable(link))
			}
		}
		if v.Original != "" {
			fmt.Fprintf(c.Out, "  was: %s\n", printable(v.Original))
		}
		writeHistory(c, v.History)
		for _, at := range []struct {
			what string
			time time.Time
		}{{"hidden", v.HiddenAt}, {"shown again", v.UnhiddenAt}, {"removed", v.RemovedAt}} {
			if !at.time.IsZero() {
				fmt.Fprintf(c.Out, "  %s: %s\n", at.what, localTime(at.time))
			}
		}
	})
}

// writeHistory prints the edits and the sequences of the events.
func writeHistory(c *CLI, h comments.History) {
	for _, e := range h.Edits {
		fmt.Fprintf(c.Out, "  edited %s: %s\n", localTime(e.Time), printable(e.Text))
	}
	if len(h.Events) == 0 {
		return
	}
	seqs := strings.Trim(fmt.Sprint(h.Events), "[]")
	if h.EventsOmitted > 0 {
		seqs += fmt.Sprintf(" and %d more", h.EventsOmitted)
	}
	fmt.Fprintf(c.Out, "  events: %s\n", seqs)
}

// PostsListCommand lists the posts of one page.
type PostsListCommand struct {
	Page  PageRef `arg:"" help:"Page, by its id or name."`
	Limit int     `default:"20" env:"PAGESTREAM_POSTS_LIMIT" help:"Maximum number, newest first; 0 for all."`
	commentMoment
}

// Run prints a table. It does not show the text of posts.
func (l PostsListCommand) Run(c *CLI) error {
	query, err := l.query(url.Values{"order": {"newest"}})
	if err != nil {
		return err
	}
	list, err := collect[comments.Post](c, postsPath(l.Page), query, l.Limit)
	return c.answer(list, err, func() {
		if len(list) == 0 {
			fmt.Fprintf(c.Out, "Page %s has no posts yet.\n", l.Page)
			return
		}
		writeTable(c, "POST, KIND, CONTACT, STATE, COMMENTS, HIDDEN, REMOVED, REACTIONS, TIME", list,
			func(v comments.Post) cells {
				return cells{
					v.ID, dash(v.Item), dash(string(v.Contact)), v.State, v.Comments.Visible, v.Comments.Hidden,
					v.Comments.Removed, dash(reactions(v.Reactions)), localTime(v.Time),
				}
			})
	})
}

// PostsShowCommand shows one post.
type PostsShowCommand struct {
	Page  PageRef `arg:"" help:"Page, by its id or name."`
	Post  string  `arg:"" help:"Post id, as shown by posts list."`
	Limit int     `default:"200" env:"PAGESTREAM_POSTS_LIMIT" help:"Maximum number of comments, the newest; 0 for all."`
	commentMoment
}

// thread is a post with its comments, oldest first.
type thread struct {
	comments.Post
	Thread []comments.Comment `json:"thread"`
}

// Run prints the post and its comments, each below the comment that it answers.
func (s PostsShowCommand) Run(c *CLI) error {
	query, err := s.query(url.Values{})
	if err != nil {
		return err
	}
	post, err := get[comments.Post](c, postsPath(s.Page, s.Post), query)
	if err != nil {
		return err
	}
	query.Set("post", s.Post)
	query.Set("order", "newest")
	list, err := collect[comments.Comment](c, commentsPath(s.Page), query, s.Limit)
	slices.Reverse(list)
	return c.answer(thread{post, list}, err, func() {
		fmt.Fprintf(c.Out, "%s %s by %s, %s, %s\n", cmp.Or(post.Item, "post"), post.ID, authorName(post.Author),
			localTime(post.Time), post.State)
		if post.Text != "" {
			fmt.Fprintln(c.Out, printable(post.Text))
		}
		if post.Original != "" {
			fmt.Fprintf(c.Out, "  was: %s\n", printable(post.Original))
		}
		writeHistory(c, post.History)
		fmt.Fprintf(c.Out, "%d comments, %d hidden, %d removed", post.Comments.Visible, post.Comments.Hidden,
			post.Comments.Removed)
		if r := reactions(post.Reactions); r != "" {
			fmt.Fprintf(c.Out, "; %s", r)
		}
		fmt.Fprintln(c.Out)
		for _, n := range tree(list) {
			fmt.Fprintf(c.Out, "%s%s\n", strings.Repeat("  ", n.depth+1), commentLine(n.Comment))
		}
		if all := post.Comments.Sum(); uint64(len(list)) < all {
			fmt.Fprintf(c.Out, "and %d older; use --limit 0\n", all-uint64(len(list)))
		}
	})
}

// node is a comment in a tree.
type node struct {
	comments.Comment
	depth int
}

// tree orders comments so that each follows the comment that it answers. A comment whose
// parent is not in the list is a root, and so are comments that answer each other in a
// circle.
func tree(list []comments.Comment) []node {
	known, answers := map[string]bool{}, map[string][]comments.Comment{}
	for _, v := range list {
		known[v.ID] = true
	}
	for _, v := range list {
		if v.Parent != v.ID && known[v.Parent] {
			answers[v.Parent] = append(answers[v.Parent], v)
		}
	}
	var out []node
	shown := map[string]bool{}
	add := func(root comments.Comment) {
		for stack := []node{{root, 0}}; len(stack) > 0; {
			n := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			if shown[n.ID] {
				continue
			}
			shown[n.ID] = true
			out = append(out, n)
			for _, answer := range slices.Backward(answers[n.ID]) {
				stack = append(stack, node{answer, n.depth + 1})
			}
		}
	}
	for _, v := range list {
		if v.Parent == v.ID || !known[v.Parent] {
			add(v)
		}
	}
	for _, v := range list { // what is left answers itself
		add(v)
	}
	return out
}

// commentLine formats one comment for the terminal.
func commentLine(v comments.Comment) string {
	parts := []string{localTime(v.Time), authorName(v.Author) + ":"}
	switch {
	case v.State == comments.Removed:
		parts = append(parts, "(removed)")
	case v.Text != "":
		parts = append(parts, printable(v.Text))
	}
	if v.State == comments.Hidden {
		parts = append(parts, "(hidden)")
	}
	if !v.EditedAt.IsZero() && v.State != comments.Removed {
		parts = append(parts, "(edited)")
	}
	for _, m := range []struct{ kind, link string }{{"photo", v.Photo}, {"video", v.Video}} {
		if m.link != "" {
			parts = append(parts, "<"+m.kind+">")
		}
	}
	if r := reactions(v.Reactions); r != "" {
		parts = append(parts, "("+r+")")
	}
	return strings.Join(append(parts, "["+v.ID+"]"), " ")
}

// authorName returns the name of an author, or the best that is known.
func authorName(a comments.Author) string {
	switch {
	case a.Name != "":
		return printable(a.Name)
	case a.Own:
		return "the page"
	}
	return cmp.Or(string(a.Contact), "somebody")
}

// reactions formats the counts of reactions, by name.
func reactions(counts map[string]uint64) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		out = append(out, fmt.Sprintf("%d %s", counts[name], name))
	}
	return strings.Join(out, ", ")
}

// localTime formats a time for the terminal.
func localTime(at time.Time) string {
	if at.IsZero() {
		return "-"
	}
	return at.Local().Format(time.DateTime)
}

// maxCell is the maximum width of a text in a table, in columns.
const maxCell = 60
