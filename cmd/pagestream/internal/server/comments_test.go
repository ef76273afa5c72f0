package server_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/projections/comments"
	"github.com/pagestream/pagestream/projections/store"
)

// feed returns a delivery with one change of a page's feed at each of the values.
func feed(page string, sent int64, values ...string) []byte {
	var changes []string
	for _, v := range values {
		changes = append(changes, fmt.Sprintf(`{"field":"feed","value":{%s}}`, v))
	}
	return fmt.Appendf(nil, `{"object":"page","entry":[{"id":%q,"time":%d,"changes":[%s]}]}`,
		page, sent, strings.Join(changes, ","))
}

// sendThread sends a post with three comments, of which one is an answer and one is hidden.
func (r *running) sendThread(t *testing.T) {
	t.Helper()
	for i, body := range [][]byte{
		feed("700", 1790000000, `"item":"status","verb":"add","post_id":"700_1","from":{"id":"700","name":"The page"},`+
			`"message":"we open at nine","created_time":1790000000`),
		feed("700", 1790000010, `"item":"comment","verb":"add","comment_id":"1_1","post_id":"700_1","parent_id":"700_1",`+
			`"from":{"id":"31","name":"Jo Doe"},"message":"which day?","created_time":1790000010`,
			`"item":"comment","verb":"add","comment_id":"1_2","post_id":"700_1","parent_id":"700_1",`+
				`"from":{"id":"32","name":"Ann"},"message":"buy pills","created_time":1790000011`),
		feed("700", 1790000020, `"item":"comment","verb":"add","comment_id":"1_3","post_id":"700_1","parent_id":"1_1",`+
			`"from":{"id":"700","name":"The page"},"message":"every day","created_time":1790000020`,
			`"item":"reaction","verb":"add","post_id":"700_1","comment_id":"1_3","parent_id":"1_1",`+
				`"from":{"id":"31"},"reaction_type":"love","created_time":1790000021`),
		feed("700", 1790000030, `"item":"comment","verb":"hide","comment_id":"1_2","post_id":"700_1","from":{"id":"32"},`+
			`"created_time":1790000011`),
		feed("700", 1790000040, `"item":"comment","verb":"edited","comment_id":"1_1","post_id":"700_1",`+
			`"from":{"id":"31","name":"Jo Doe"},"message":"which days?","created_time":1790000010`),
	} {
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), body), i)
	}
}

// TestComments reads a thread through the API.
func TestComments(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t.TempDir()))
	r.sendThread(t)
	ids := func(query string) (ids []string) {
		for _, c := range get[api.List[comments.Comment]](t, r, "/api/v1/comments/700"+query).Items {
			ids = append(ids, c.ID)
		}
		return ids
	}
	assert.Equal(t, []string{"1_1", "1_2", "1_3"}, ids(""))
	assert.Equal(t, []string{"1_3", "1_2", "1_1"}, ids("?order=newest&post=700_1"))
	assert.Equal(t, []string{"1_1"}, ids("?contact=31"))
	assert.Equal(t, []string{"1_2"}, ids("?state=hidden"))
	assert.Empty(t, ids("?state=removed"))
	first := get[api.List[comments.Comment]](t, r, "/api/v1/comments/700?limit=2")
	require.Len(t, first.Items, 2)
	assert.Equal(t, []string{"1_3"}, ids("?limit=2&cursor="+url.QueryEscape(first.Next)))

	c := get[comments.Comment](t, r, "/api/v1/comments/700/1_1")
	assert.Equal(t, "which days?", c.Text)
	assert.Equal(t, "which day?", c.Original)
	assert.Equal(t, []uint64{2, 7}, c.Events)
	assert.Equal(t, time.Unix(1790000010, 0).UTC(), c.CreatedAt)
	c = get[comments.Comment](t, r, "/api/v1/comments/700/1_1?at_seq=6")
	assert.Equal(t, "which day?", c.Text)
	p := get[comments.Post](t, r, "/api/v1/posts/700/700_1")
	assert.Equal(t, "we open at nine", p.Text)
	assert.Equal(t, comments.Tally{Visible: 2, Hidden: 1}, p.Comments)
	assert.Len(t, get[api.List[comments.Post]](t, r, "/api/v1/posts/700").Items, 1)
	assert.Empty(t, get[api.List[comments.Post]](t, r, "/api/v1/posts/701").Items)
	assert.Equal(t, comments.Counts{Posts: 1, Comments: p.Comments, Reactions: 1}, status(t, r).Comments)

	for path, want := range map[string]int{
		"/api/v1/comments/700?state=gone": 400, "/api/v1/comments/700?order=up": 400, "/api/v1/comments/700?limit=0": 400,
		"/api/v1/comments/700?cursor=!": 400, "/api/v1/comments/700/1_9": 404, "/api/v1/posts/700/700_9": 404,
		"/api/v1/posts/700?order=up": 400, "/api/v1/comments/700?at_time=noon": 400, "/api/v1/comments/700?min_seq=x": 400,
	} {
		var p api.Problem
		assert.True(t, asProblem(r.do(t.Context(), http.MethodGet, path, nil, nil, nil), &p), path)
		assert.Equal(t, want, p.Status, path)
	}
	code, out, stderr := r.command(t, "projections", "verify", "comments")
	require.Equal(t, cli.ExitOK, code, stderr)
	assert.Contains(t, out, "comments: equal at event 7")
	code, _, stderr = r.command(t, "audit")
	assert.Equal(t, cli.ExitOK, code, stderr)
}

// TestCommentCommands reads a thread with the command line.
func TestCommentCommands(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t.TempDir()))
	r.sendThread(t)
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), message("701", "31", "m_1", "no post", 1790000000000)))
	require.NoError(t, r.Model("comments").WaitFor(t.Context(), lastSeq(t, r)))
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"comments", "list", "700"}, []string{"1_1", "which days?", "hidden", "buy pills"}},
		{[]string{"comments", "list", "700", "--contact", "31", "--post", "700_1", "--state", "visible"}, []string{"1_1"}},
		{[]string{"comments", "list", "700", "--state", "removed"}, []string{"no such comments"}},
		{[]string{"comments", "list", "700", "--at-seq", "2"}, []string{"which day?"}},
		{[]string{"comments", "show", "700", "1_1"}, []string{"Jo Doe: which days?", "was: which day?", "events: 2 7"}},
		{[]string{"comments", "show", "700", "1_2"}, []string{"buy pills (hidden)", "hidden: "}},
		{[]string{"posts", "list", "700"}, []string{"700_1", "status", "visible"}},
		{[]string{"posts", "list", "701"}, []string{"no posts"}},
		{[]string{"posts", "show", "700", "700_1"}, []string{
			"we open at nine", "2 comments, 1 hidden, 0 removed", "\n    ", "The page: every day (1 love) [1_3]",
		}},
	} {
		name := strings.Join(c.args, " ")
		code, out, stderr := r.command(t, c.args...)
		assert.Equal(t, cli.ExitOK, code, "%s: %s", name, stderr)
		for _, want := range c.want {
			assert.Contains(t, out, want, name)
		}
		code, out, stderr = r.command(t, append([]string{"--json"}, c.args...)...)
		assert.Equal(t, cli.ExitOK, code, "%s: %s", name, stderr)
		assert.True(t, json.Valid([]byte(out)), name)
	}
	_, out, _ := r.command(t, "posts", "show", "700", "700_1")
	assert.Less(t, strings.Index(out, "[1_1]"), strings.Index(out, "[1_3]"))
	assert.Less(t, strings.Index(out, "[1_3]"), strings.Index(out, "[1_2]"), "an answer follows its comment")
	_, out, _ = r.command(t, "posts", "show", "700", "700_1", "--limit", "1")
	assert.Contains(t, out, "and 2 older")
	code, _, stderr := r.command(t, "comments", "show", "700", "9_9")
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, stderr, "no comment 9_9")
	code, _, stderr = r.command(t, "comments", "list", "700", "--state", "gone")
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, stderr, "visible, hidden or removed")
}

// TestErasedCommentIsGone checks that nothing is left of a comment whose author is erased, and that a
// rebuild is the same.
func TestErasedCommentIsGone(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t.TempDir()))
	r.postCases(t, "comment_author_in_from")
	answer := feed("7003", 1790000100, `"item":"comment","verb":"add","comment_id":"7003_2","post_id":"7003_9",`+
		`"parent_id":"7003_1","from":{"id":"7003"},"message":"noted","created_time":1790000100`)
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), answer))
	list := get[api.List[comments.Comment]](t, r, "/api/v1/comments/7003?contact=8104").Items
	require.Len(t, list, 1)
	assert.Equal(t, "my address is 1 Elm Street", list[0].Text)
	assert.Equal(t, comments.Author{Contact: "8104", Name: "Jo Doe"}, list[0].Author)

	code, out, stderr := r.command(t, "erase", "7003", "8104", "--yes")
	require.Equal(t, cli.ExitOK, code, stderr)
	assert.Contains(t, out, "1 events are removed from the stream")
	personal := []string{"1 Elm Street", "Jo Doe", "8104"}
	for _, path := range []string{
		"/api/v1/comments/7003", "/api/v1/comments/7003?contact=8104", "/api/v1/comments/7003?post=7003_9",
		"/api/v1/comments/7003/7003_2", "/api/v1/posts/7003", "/api/v1/posts/7003/7003_9", "/api/v1/events",
		"/api/v1/comments/7003?at_seq=1", "/api/v1/conversations/7003/8104/events",
	} {
		answer := string(get[json.RawMessage](t, r, path))
		for _, s := range personal {
			assert.NotContains(t, answer, s, path)
		}
	}
	list = get[api.List[comments.Comment]](t, r, "/api/v1/comments/7003").Items
	require.Len(t, list, 1)
	assert.Equal(t, "7003_1", list[0].Parent, "the page's answer stays")
	require.NoError(t, r.Model("comments").View(func(tx *store.Tx) error {
		buckets, err := tx.Buckets()
		require.NoError(t, err)
		for _, name := range buckets {
			require.NoError(t, tx.Bucket(name).ForEachPrefix(nil, func(k, v []byte) error {
				for _, s := range personal {
					assert.NotContains(t, string(k)+string(v), s, name)
				}
				return nil
			}))
		}
		return nil
	}))
	// bbolt keeps the bytes of deleted rows until their space is reused, or until a rebuild, which keeps
	// the file before it until the next one.
	for range 2 {
		code, out, stderr = r.command(t, "projections", "rebuild", "comments")
		require.Equal(t, cli.ExitOK, code, stderr)
		assert.NotContains(t, out, "DIFFERENT")
	}
	r.stop(t)
	for _, s := range []string{"1 Elm Street", "Jo Doe"} {
		assert.Empty(t, filesWith(t, r.cfg.ProjectionsDir(), s), s)
	}
}
