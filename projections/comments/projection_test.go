package comments_test

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/comments"
	"github.com/pagestream/pagestream/projections/projectionstest"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

const (
	page = domain.PageID("104")
	post = "104_9"
	jo   = domain.ContactID("31")
	ann  = domain.ContactID("32")
)

// fixture is a store and the sequence of the last event applied to it.
type fixture struct {
	t   testing.TB
	st  *store.Store
	seq uint64
}

func newFixture(t testing.TB, events ...domain.Event) *fixture {
	t.Helper()
	f := &fixture{t: t, st: projectionstest.Open(t, t.TempDir()+"/comments.db")}
	f.apply(events...)
	return f
}

// apply applies events in one transaction.
func (f *fixture) apply(events ...domain.Event) {
	f.t.Helper()
	require.NoError(f.t, f.st.Update(func(tx *store.Tx) error {
		for _, e := range events {
			f.seq++
			stored := streams.Stored{Event: e, Seq: f.seq, At: ms(9_000_000 + int64(f.seq))}
			if err := comments.New().Apply(tx, stored); err != nil {
				return err
			}
		}
		return nil
	}))
}

func (f *fixture) comment(id string) comments.Comment {
	f.t.Helper()
	c, err := comments.Get(f.st, page, id)
	require.NoError(f.t, err)
	return c
}

func (f *fixture) post(id string) comments.Post {
	f.t.Helper()
	p, err := comments.GetPost(f.st, page, id)
	require.NoError(f.t, err)
	return p
}

// ids returns the ids of a list, which is read in pages of two.
func (f *fixture) ids(q comments.Query, newest bool) (ids []string) {
	f.t.Helper()
	for cursor := ""; ; {
		list, next, err := comments.List(f.st, page, q, comments.Page{Cursor: cursor, Limit: 2, NewestFirst: newest})
		require.NoError(f.t, err)
		for _, c := range list {
			ids = append(ids, c.ID)
		}
		if cursor = next; next == "" {
			return ids
		}
	}
}

func (f *fixture) counts() comments.Counts {
	f.t.Helper()
	c, err := comments.Count(f.st, page)
	require.NoError(f.t, err)
	return c
}

func ms(n int64) time.Time { return time.UnixMilli(n).UTC() }

func by(kind domain.Type, contact domain.ContactID, at int64) domain.Event {
	return domain.Event{Type: kind, Page: page, Contact: contact, Time: ms(at), Data: domain.Data{Object: "page"}}
}

// person returns the person that Meta names for a contact; the page itself for none.
func person(c domain.ContactID) domain.Person {
	return domain.Person{ID: cmp.Or(string(c), string(page)), Name: cmp.Or(names[c], "The page")}
}

var names = map[domain.ContactID]string{jo: "Jo Doe", ann: "Ann"}

// on returns an event about a comment, without a text if it is empty.
func on(kind domain.Type, id string, contact domain.ContactID, text string, at int64) domain.Event {
	e := by(kind, contact, at)
	e.Data.Comment = &domain.Comment{ID: id, Post: post, From: person(contact)}
	if text != "" {
		e.Data.Comment.Text = &text
	}
	return e
}

func received(id string, contact domain.ContactID, text string, at int64) domain.Event {
	return on(domain.CommentReceived, id, contact, text, at)
}

func answer(id, parent string, contact domain.ContactID, text string, at int64) domain.Event {
	e := received(id, contact, text, at)
	e.Data.Comment.Parent = parent
	return e
}

func posted(kind domain.Type, id string, contact domain.ContactID, text string, at int64) domain.Event {
	e := by(kind, contact, at)
	e.Data.Post = &domain.Post{ID: id, Item: "status", From: person(contact), Text: &text}
	return e
}

func reacted(kind domain.Type, comment string, contact domain.ContactID, name string, at int64) domain.Event {
	e := by(kind, contact, at)
	e.Data.PostReaction = &domain.PostReaction{Post: post, Comment: comment, From: person(contact), Reaction: name}
	return e
}

func erased(contact domain.ContactID, at int64) domain.Event {
	e := by(domain.ContactErased, "", at)
	e.Data = domain.Data{Erasure: &domain.Erasure{Contact: domain.ContactHash(contact), Part: 1, Parts: 1}}
	return e
}

// fact returns the event as one whose item has no time of its own.
func fact(e domain.Event, hash string) domain.Event {
	e.Data.Fact = hash
	return e
}

func TestAComment(t *testing.T) {
	first := received("1", jo, "once", 1000)
	first.Data.Comment.Photo = "https://cdn.example/p"
	f := newFixture(
		t, first, on(domain.CommentEdited, "1", jo, "second", 2000), on(domain.CommentHidden, "1", "", "", 3000),
		answer("2", "1", "", "we answer", 4000),
	)
	c := f.comment("1")
	assert.Equal(t, comments.Comment{
		Page: page, ID: "1", Object: "page", Post: post, Author: comments.Author{Contact: jo, Name: "Jo Doe"},
		State: comments.Hidden, Text: "second", Original: "once", Photo: "https://cdn.example/p", HiddenAt: ms(3000),
		History: comments.History{
			Time: ms(1000), CreatedAt: ms(1000), EditedAt: ms(2000),
			Edits: []comments.Edit{{Time: ms(2000), Text: "second"}}, Events: []uint64{1, 2, 3},
		},
	}, c)
	reply := f.comment("2")
	assert.Equal(t, comments.Author{Name: "The page", Own: true}, reply.Author)
	assert.Equal(t, "1", reply.Parent)
	p := f.post(post)
	assert.Equal(t, comments.Unknown, p.State, "only its comments are known")
	assert.Equal(t, comments.Tally{Visible: 1, Hidden: 1}, p.Comments)
	assert.Equal(t, ms(1000), p.Time)

	f.apply(on(domain.CommentUnhidden, "1", "", "", 5000))
	assert.Equal(t, comments.Visible, f.comment("1").State)
	assert.Equal(t, ms(5000), f.comment("1").UnhiddenAt)
	f.apply(on(domain.CommentRemoved, "1", jo, "", 6000))
	c = f.comment("1")
	assert.Equal(t, comments.Removed, c.State)
	assert.Equal(t, ms(6000), c.RemovedAt)
	assert.Empty(t, c.Text+c.Original+c.Photo)
	assert.Empty(t, c.Edits)
	assert.Equal(t, comments.Tally{Visible: 1, Removed: 1}, f.post(post).Comments)
	for _, gone := range []string{"once", "second", "cdn.example"} {
		assert.False(t, f.contains(gone), gone)
	}
	assert.Equal(t, comments.Counts{Posts: 1, Comments: comments.Tally{Visible: 1, Removed: 1}}, f.counts())
}

// contains reports whether any key or value has s.
func (f *fixture) contains(s string) (found bool) {
	f.t.Helper()
	require.NoError(f.t, f.st.View(func(tx *store.Tx) error {
		buckets, err := tx.Buckets()
		for _, name := range buckets {
			err = cmp.Or(err, tx.Bucket(name).ForEachPrefix(nil, func(k, v []byte) error {
				found = found || bytes.Contains(k, []byte(s)) || bytes.Contains(v, []byte(s))
				return nil
			}))
		}
		return err
	}))
	return found
}

func TestTheOrderOfArrivalDoesNotMatter(t *testing.T) {
	for name, c := range map[string]struct {
		events []domain.Event
		state  comments.State
		text   string
	}{
		"an edit before its comment": {
			[]domain.Event{on(domain.CommentEdited, "1", jo, "new", 2000), received("1", jo, "old", 1000)},
			comments.Visible, "new",
		},
		"an older edit after a newer one": {
			[]domain.Event{
				received("1", jo, "old", 1000), on(domain.CommentEdited, "1", jo, "newest", 3000),
				on(domain.CommentEdited, "1", jo, "new", 2000),
			}, comments.Visible, "newest",
		},
		"edits of one millisecond": {
			[]domain.Event{
				on(domain.CommentEdited, "1", jo, "a", 2000), on(domain.CommentEdited, "1", jo, "b", 2000),
			}, comments.Visible, "b",
		},
		"an edit without a text": {
			[]domain.Event{received("1", jo, "old", 1000), on(domain.CommentEdited, "1", jo, "", 2000)},
			comments.Visible, "old",
		},
		"a hiding without a text": {
			[]domain.Event{on(domain.CommentHidden, "1", jo, "", 2000), received("1", jo, "old", 1000)},
			comments.Hidden, "old",
		},
		"an older undoing after a hiding": {
			[]domain.Event{
				received("1", jo, "old", 1000), on(domain.CommentHidden, "1", jo, "", 3000),
				on(domain.CommentUnhidden, "1", jo, "", 2000),
			}, comments.Hidden, "old",
		},
		"a comment after its removal": {
			[]domain.Event{
				on(domain.CommentRemoved, "1", jo, "", 2000), received("1", jo, "old", 1000),
				on(domain.CommentEdited, "1", jo, "new", 3000),
			}, comments.Removed, "",
		},
		"a comment after its removal by the page": {
			[]domain.Event{on(domain.CommentRemoved, "1", "", "", 2000), received("1", jo, "old", 1000)},
			comments.Removed, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, c.events...)
			got := f.comment("1")
			assert.Equal(t, c.state, got.State)
			assert.Equal(t, c.text, got.Text)
			if c.state == comments.Removed {
				assert.False(t, f.contains("old"))
				assert.False(t, f.contains("new"))
			}
		})
	}
}

// TestAnyOrderGivesTheSameRows applies generated events in other orders.
func TestAnyOrderGivesTheSameRows(t *testing.T) {
	events := slices.DeleteFunc(changes(3, 300), func(e streams.Stored) bool {
		return e.Type == domain.ContactErased || e.Type == domain.PageForgotten
	})
	for i := range events {
		events[i].Data.Fact = "" // folding equal facts depends on the order
	}
	read := func(events []streams.Stored) (all []any) {
		st := projectionstest.Open(t, t.TempDir()+"/comments.db")
		require.NoError(t, st.Update(func(tx *store.Tx) error {
			for _, e := range events {
				require.NoError(t, comments.New().Apply(tx, e))
			}
			return nil
		}))
		for i := range 4 {
			page := domain.PageID(fmt.Sprint(104000000000001 + i))
			list, _, err := comments.List(st, page, comments.Query{}, comments.Page{Limit: 500})
			require.NoError(t, err)
			for _, c := range list {
				slices.Sort(c.Events)
				all = append(all, c)
			}
			posts, _, err := comments.Posts(st, page, comments.Page{Limit: 500})
			require.NoError(t, err)
			for _, p := range posts {
				slices.Sort(p.Events)
				all = append(all, p)
			}
			counts, err := comments.Count(st, page)
			require.NoError(t, err)
			all = append(all, counts)
		}
		return all
	}
	want := read(events)
	require.Greater(t, len(want), 50)
	for seed := range uint64(10) {
		shuffled := slices.Clone(events)
		rand.New(rand.NewPCG(seed, 1)).Shuffle(len(shuffled), func(i, j int) {
			shuffled[i], shuffled[j] = shuffled[j], shuffled[i]
		})
		got := read(shuffled)
		require.Len(t, got, len(want))
		for i := range want {
			require.Equal(t, want[i], got[i])
		}
	}
}

// TestListsAndCountsAgree compares every index and count with the rows.
func TestListsAndCountsAgree(t *testing.T) {
	f := newFixture(t)
	events := slices.DeleteFunc(changes(5, 1500), func(e streams.Stored) bool { return e.Type == domain.PageForgotten })
	require.NoError(t, projectionstest.Fold(f.st, comments.New(), events))
	for i := range 4 {
		page := domain.PageID(fmt.Sprint(104000000000001 + i))
		read := func(q comments.Query, newest bool) []comments.Comment {
			list, next, err := comments.List(f.st, page, q, comments.Page{Limit: 500, NewestFirst: newest})
			require.NoError(t, err)
			require.Empty(t, next)
			return list
		}
		all := read(comments.Query{}, false)
		require.Greater(t, len(all), 50)
		require.True(t, slices.IsSortedFunc(all, func(a, b comments.Comment) int { return a.Time.Compare(b.Time) }))
		back := read(comments.Query{}, true)
		slices.Reverse(back)
		require.Equal(t, all, back)
		pick := func(keep func(comments.Comment) bool) []comments.Comment {
			return slices.DeleteFunc(slices.Clone(all), func(c comments.Comment) bool { return !keep(c) })
		}
		want := comments.Counts{}
		for _, s := range []comments.State{comments.Visible, comments.Hidden, comments.Removed} {
			require.Equal(t, pick(func(c comments.Comment) bool { return c.State == s }), read(comments.Query{State: s}, false))
		}
		for c := range 6 {
			q := comments.Query{Contact: domain.ContactID(fmt.Sprint(7700000000000001 + c))}
			require.Equal(t, pick(func(c comments.Comment) bool { return c.Contact == q.Contact }), read(q, false))
			q.Post, q.State = fmt.Sprint(page, "_1"), comments.Visible
			require.Equal(t, pick(func(c comments.Comment) bool {
				return c.Contact == q.Contact && c.Post == q.Post && c.State == q.State
			}), read(q, false))
		}
		posts, _, err := comments.Posts(f.st, page, comments.Page{})
		require.NoError(t, err)
		for _, p := range posts {
			thread := read(comments.Query{Post: p.ID}, false)
			require.Equal(t, pick(func(c comments.Comment) bool { return c.Post == p.ID }), thread)
			require.Equal(t, uint64(len(thread)), p.Comments.Sum())
			if p.State == comments.Unknown && len(thread) > 0 {
				require.Equal(t, thread[0].Time, p.Time)
			}
			want.Posts++
			want.Comments.Visible += p.Comments.Visible
			want.Comments.Hidden += p.Comments.Hidden
			want.Comments.Removed += p.Comments.Removed
		}
		got, err := comments.Count(f.st, page)
		require.NoError(t, err)
		want.Reactions, want.Erased = got.Reactions, got.Erased
		require.Equal(t, want, got)
	}
}

func TestLists(t *testing.T) {
	f := newFixture(
		t, received("3", jo, "c", 3000), received("1", jo, "a", 1000), received("2", ann, "b", 2000),
		received("5", jo, "e", 3000), on(domain.CommentHidden, "2", "", "", 9000),
	)
	other := received("4", jo, "d", 500)
	other.Data.Comment.Post = "104_8"
	longer := received("6", jo, "f", 1)
	longer.Page = page + "2"
	f.apply(other, longer)
	assert.Equal(t, []string{"4", "1", "2", "3", "5"}, f.ids(comments.Query{}, false))
	assert.Equal(t, []string{"5", "3", "2", "1", "4"}, f.ids(comments.Query{}, true))
	assert.Equal(t, []string{"1", "2", "3", "5"}, f.ids(comments.Query{Post: post}, false))
	assert.Equal(t, []string{"5", "3", "1"}, f.ids(comments.Query{Post: post, Contact: jo}, true))
	assert.Equal(t, []string{"2"}, f.ids(comments.Query{State: comments.Hidden}, true))
	assert.Empty(t, f.ids(comments.Query{Contact: "nobody"}, true))
	_, _, err := comments.List(f.st, page, comments.Query{}, comments.Page{Cursor: "!!"})
	require.ErrorIs(t, err, comments.ErrCursor)
	_, err = comments.Get(f.st, page, "nothing")
	require.ErrorIs(t, err, comments.ErrNotFound)
	_, err = comments.GetPost(f.st, page, "nothing")
	require.ErrorIs(t, err, comments.ErrNotFound)

	posts, next, err := comments.Posts(f.st, page, comments.Page{NewestFirst: true})
	require.NoError(t, err)
	assert.Empty(t, next)
	require.Len(t, posts, 2)
	assert.Equal(t, []string{post, "104_8"}, []string{posts[0].ID, posts[1].ID})
}

func TestAPost(t *testing.T) {
	published := posted(domain.PostPublished, post, "", "news", 1000)
	published.Data.Post.Link, published.Data.Post.Photos = "https://example.org/", []string{"https://cdn.example/1"}
	edit := posted(domain.PostEdited, post, "", "better news", 2000)
	f := newFixture(t, edit, published, received("1", jo, "hm", 500))
	p := f.post(post)
	assert.Equal(t, comments.Post{
		Page: page, ID: post, Object: "page", Item: "status", Author: comments.Author{Name: "The page", Own: true},
		State: comments.Visible, Text: "better news", Original: "news", Link: "https://example.org/",
		Photos: []string{"https://cdn.example/1"}, Comments: comments.Tally{Visible: 1},
		History: comments.History{
			Time: ms(1000), CreatedAt: ms(1000), EditedAt: ms(2000),
			Edits: []comments.Edit{{Time: ms(2000), Text: "better news"}}, Events: []uint64{1, 2},
		},
	}, p)
	edit.Data.Post.Unpublished, edit.Time = true, ms(3000)
	f.apply(edit)
	assert.Equal(t, comments.Unpublished, f.post(post).State)
	f.apply(posted(domain.PostRemoved, post, "", "", 4000))
	p = f.post(post)
	assert.Equal(t, comments.Removed, p.State)
	assert.Empty(t, p.Text+p.Original+p.Link)
	assert.Empty(t, p.Photos)
	assert.False(t, f.contains("news"))
	assert.Equal(t, uint64(1), f.counts().Posts)
}

func TestReactions(t *testing.T) {
	f := newFixture(t, received("1", jo, "hm", 500))
	of := func() (onPost, onComment map[string]uint64) { return f.post(post).Reactions, f.comment("1").Reactions }
	f.apply(
		reacted(domain.ReactionAdded, "", jo, "like", 1000), reacted(domain.ReactionAdded, "", ann, "LOVE", 1000),
		reacted(domain.ReactionAdded, "1", ann, "brandnew", 1000), reacted(domain.ReactionAdded, "", "", "like", 1000),
	)
	onPost, onComment := of()
	assert.Equal(t, map[string]uint64{"like": 2, "love": 1}, onPost)
	assert.Equal(t, map[string]uint64{"other": 1}, onComment)
	assert.Equal(t, uint64(4), f.counts().Reactions)
	assert.Equal(t, []uint64{1}, f.comment("1").Events)

	f.apply(fact(reacted(domain.ReactionAdded, "", jo, "wow", 2000), "a")) // changed
	onPost, _ = of()
	assert.Equal(t, map[string]uint64{"like": 1, "love": 1, "wow": 1}, onPost)
	f.apply(fact(reacted(domain.ReactionRemoved, "", jo, "wow", 3000), "b"))
	f.apply(reacted(domain.ReactionAdded, "", jo, "like", 1500)) // older
	onPost, _ = of()
	assert.Equal(t, map[string]uint64{"like": 1, "love": 1}, onPost)
	f.apply(reacted(domain.ReactionRemoved, "1", ann, "", 3000), reacted(domain.ReactionRemoved, "", "33", "sad", 3000))
	onPost, onComment = of()
	assert.Equal(t, map[string]uint64{"like": 1, "love": 1}, onPost)
	assert.Empty(t, onComment)
	assert.Equal(t, uint64(2), f.counts().Reactions)

	nobody := reacted(domain.ReactionAdded, "", "", "like", 4000)
	nobody.Data.PostReaction.From = domain.Person{}
	toPage := reacted(domain.ReactionAdded, "", jo, "like", 4000)
	toPage.Data.PostReaction.Post = ""
	f.apply(nobody, toPage)
	assert.Equal(t, uint64(2), f.counts().Reactions)

	f.apply(reacted(domain.ReactionAdded, "never seen", jo, "like", 5000))
	_, err := comments.Get(f.st, page, "never seen")
	require.ErrorIs(t, err, comments.ErrNotFound, "it is not known yet")
	f.apply(received("never seen", ann, "now", 4000))
	assert.Equal(t, map[string]uint64{"like": 1}, f.comment("never seen").Reactions)
}

func TestAnEqualFactChangesNothing(t *testing.T) {
	window := domain.RedeliveryWindow.Milliseconds()
	hide := func(at int64) domain.Event { return fact(on(domain.CommentHidden, "1", jo, "", at), "hide") }
	show := func(at int64) domain.Event { return fact(on(domain.CommentUnhidden, "1", jo, "", at), "show") }
	like := func(at int64) domain.Event { return fact(reacted(domain.ReactionAdded, "1", ann, "like", at), "like") }
	unlike := func(at int64) domain.Event { return fact(reacted(domain.ReactionRemoved, "1", ann, "", at), "unlike") }
	first := received("1", jo, "hm", 500)
	f := newFixture(t, first, hide(1000), like(1000))
	digest, _, err := projectionstest.Digest(f.st)
	require.NoError(t, err)
	f.apply(hide(2000), like(2000), hide(1000+window), like(1000+window))
	again, _, err := projectionstest.Digest(f.st)
	require.NoError(t, err)
	assert.Equal(t, digest, again)
	f.apply(hide(1001 + window))
	assert.Equal(t, ms(1001+window), f.comment("1").HiddenAt, "after the window it is another one")
	f.apply(show(2001+window), hide(3000+window))
	assert.Equal(t, comments.Hidden, f.comment("1").State, "it was shown in between")
	f.apply(unlike(2000+window), like(3000+window))
	assert.Equal(t, map[string]uint64{"like": 1}, f.comment("1").Reactions)
}

func TestLimits(t *testing.T) {
	f := newFixture(t)
	for i := range int64(100) {
		f.apply(on(domain.CommentEdited, "1", jo, fmt.Sprint("text ", i), 1000+i))
	}
	c := f.comment("1")
	assert.Len(t, c.Edits, 20)
	assert.Equal(t, "text 80", c.Edits[0].Text)
	assert.Equal(t, "text 99", c.Text)
	assert.Len(t, c.Events, 64)
	assert.Equal(t, uint64(36), c.EventsOmitted)
	for i := range int64(100) {
		f.apply(on(domain.CommentEdited, "1", ann, fmt.Sprint("more ", i), 2000+i))
	}
	c = f.comment("1")
	assert.Equal(t, jo, c.Contact)
	assert.Len(t, c.Edits, 20)
	assert.Len(t, c.Events, 64)
	assert.Equal(t, uint64(136), c.EventsOmitted)
}

func TestWhatIsNotApplied(t *testing.T) {
	f := newFixture(t)
	for _, k := range domain.Types() {
		f.apply(domain.Event{ID: string(k), Type: k, Page: page})
	}
	test := received("1", jo, "x", 1000)
	test.Data.Test = true
	none, zero := received("2", jo, "x", 1000), received("3", jo, "x", 1000)
	none.Page, zero.Page = "", domain.NoPage
	f.apply(test, none, zero, received("", jo, "x", 1000))
	assert.Equal(t, comments.Counts{}, f.counts())
	assert.False(t, f.contains("x"))
}

func TestAnInstagramComment(t *testing.T) {
	e := received("17900000000000005", jo, "nice", 1000)
	e.Data.Object, e.Data.Comment.Live, e.Data.Comment.From.Name = "instagram", true, "jo"
	f := newFixture(t, e)
	c := f.comment("17900000000000005")
	assert.True(t, c.Live)
	assert.Equal(t, "instagram", c.Object)
	assert.Equal(t, "jo", c.Name)
}

func TestErase(t *testing.T) {
	history := []domain.Event{
		received("1", jo, "my address is 1 Elm Street", 1000), answer("2", "1", ann, "thanks", 2000),
		answer("3", "1", "", "we write", 2500), on(domain.CommentHidden, "1", "", "", 2600),
		on(domain.CommentEdited, "2", jo, "by somebody else", 3000), received("4", jo, "only mine", 100),
		reacted(domain.ReactionAdded, "", jo, "like", 3000), reacted(domain.ReactionAdded, "2", jo, "love", 3000),
		reacted(domain.ReactionAdded, "2", ann, "love", 3000), posted(domain.PostPublished, "31_7", jo, "a review", 3000),
		received("5", jo, "about it", 4000),
	}
	history[len(history)-1].Data.Comment.Post = "31_7"
	f := newFixture(t, append(slices.Clone(history), erased(jo, 10_000))...)

	for _, gone := range []string{"Elm", "Jo Doe", "somebody", "mine", "review", "about"} {
		assert.False(t, f.contains(gone), gone)
	}
	_, err := comments.GetPost(f.st, page, "31_7")
	require.ErrorIs(t, err, comments.ErrNotFound)
	_, err = comments.Get(f.st, page, "4")
	require.ErrorIs(t, err, comments.ErrNotFound)
	assert.Empty(t, f.ids(comments.Query{Contact: jo}, false))
	assert.Equal(t, []string{"2", "3", "1"}, f.ids(comments.Query{Post: post}, false))
	placeholder := f.comment("1")
	assert.Equal(t, comments.Hidden, placeholder.State, "what the page did to it stays")
	assert.Empty(t, placeholder.Author, "the page did not write it")
	assert.Empty(t, placeholder.Text)
	reply := f.comment("2")
	assert.Equal(t, "thanks", reply.Text)
	assert.Equal(t, "1", reply.Parent)
	assert.Equal(t, map[string]uint64{"love": 1}, reply.Reactions)
	p := f.post(post)
	assert.Empty(t, p.Reactions)
	assert.Equal(t, ms(2000), p.Time)
	assert.Equal(t, comments.Counts{
		Posts: 1, Comments: comments.Tally{Visible: 2, Hidden: 1}, Reactions: 1, Erased: 1,
	}, f.counts())
	at, ok, err := comments.ErasedAt(f.st, page, jo)
	require.NoError(t, err)
	assert.True(t, ok)
	assert.Equal(t, ms(10_000), at)

	// As if the events had never been.
	var without []domain.Event
	for _, e := range history {
		if e.Contact == jo {
			e = domain.NewTombstone(e, 1, ms(1)).Event(page)
		}
		without = append(without, e)
	}
	rebuilt := newFixture(t, append(without, erased(jo, 10_000))...)
	want, _, err := projectionstest.Digest(f.st)
	require.NoError(t, err)
	got, _, err := projectionstest.Digest(rebuilt.st)
	require.NoError(t, err)
	assert.Equal(t, want, got)

	f.apply(received("6", jo, "an old one", 9000), reacted(domain.ReactionAdded, "2", jo, "love", 10_000))
	_, err = comments.Get(f.st, page, "6")
	require.ErrorIs(t, err, comments.ErrNotFound, "it is older than the erasure")
	assert.Equal(t, uint64(1), f.counts().Reactions)
	f.apply(received("7", jo, "a new one", 11_000))
	assert.Equal(t, "a new one", f.comment("7").Text)
}

// TestForget checks that a forgotten page leaves nothing but its erasures.
func TestForget(t *testing.T) {
	forgotten := domain.Event{Type: domain.PageForgotten, Page: page}
	f := newFixture(t)
	require.NoError(t, projectionstest.Fold(f.st, comments.New(), changes(3, 300)))
	f.apply(received("1", jo, "once", 1000), posted(domain.PostPublished, post, ann, "a post", 1000), forgotten)
	assert.False(t, f.contains("once"))
	assert.False(t, f.contains("a post"))
	assert.Equal(t, comments.Counts{}, f.counts())
	want := newFixture(t)
	require.NoError(t, projectionstest.Fold(want.st, comments.New(), changes(3, 300)))
	digest, _, err := projectionstest.Digest(f.st)
	require.NoError(t, err)
	others, _, err := projectionstest.Digest(want.st)
	require.NoError(t, err)
	assert.Equal(t, others, digest, "other pages are as they were")

	f.apply(received("1", jo, "once", 1000), erased(jo, 10_000), forgotten, received("2", jo, "old", 9000))
	assert.False(t, f.contains("old"), "the contact is erased")
	assert.Equal(t, comments.Counts{Erased: 1}, f.counts())
}

// TestErasingWhoRemovedIt checks that a removal by a person who is erased was never one.
func TestErasingWhoRemovedIt(t *testing.T) {
	f := newFixture(t, received("1", jo, "hm", 1000), on(domain.CommentRemoved, "1", ann, "", 2000))
	c := f.comment("1")
	assert.Equal(t, comments.Removed, c.State)
	assert.Empty(t, c.Text)
	assert.Equal(t, jo, c.Contact)
	f.apply(erased(ann, 3000))
	assert.Equal(t, "hm", f.comment("1").Text)
}

func TestErasingManyRows(t *testing.T) {
	f := newFixture(t)
	var events []domain.Event
	for i := range int64(700) {
		events = append(events, received(fmt.Sprint(i), jo, "x", 1000+i), reacted(domain.ReactionAdded, "", jo, "like", i))
	}
	f.apply(append(events, erased(jo, 10_000))...)
	assert.Equal(t, comments.Counts{Erased: 1}, f.counts())
	assert.False(t, f.contains(post))
}

// dense returns random events of few persons about few comments and posts.
func dense(rnd *rand.Rand, n int) (events []domain.Event) {
	types := slices.DeleteFunc(comments.Types(), func(t domain.Type) bool {
		return t == domain.ContactErased || t == domain.PageForgotten
	})
	for range n {
		contact := []domain.ContactID{"", jo, ann, "33"}[rnd.IntN(4)]
		at, text := int64(1000+rnd.IntN(500)), fmt.Sprint("text ", rnd.IntN(5))
		e := by(types[rnd.IntN(len(types))], contact, at)
		in := []string{"", post, "104_8"}[rnd.IntN(3)]
		id := fmt.Sprint(rnd.IntN(4))
		e.Data.Comment = &domain.Comment{ID: id, Post: in, From: person(contact), Text: &text}
		e.Data.Post = &domain.Post{ID: cmp.Or(in, post), From: person(contact), Text: &text}
		e.Data.PostReaction = &domain.PostReaction{
			Post: in, Comment: []string{"", id}[rnd.IntN(2)], From: person(contact),
			Reaction: []string{"like", "sad"}[rnd.IntN(2)],
		}
		if rnd.IntN(2) == 0 {
			e.Data.Comment.Text = nil
			e = fact(e, fmt.Sprint(e.Type, contact, id))
		}
		events = append(events, e)
	}
	return events
}

// TestErasureIsExact erases a person at a random place of a dense history, and compares that with a rebuild
// in which tombstones replace the person's events.
func TestErasureIsExact(t *testing.T) {
	for seed := range uint64(400) {
		rnd := rand.New(rand.NewPCG(seed, 9))
		events := dense(rnd, 1+rnd.IntN(40))
		at := rnd.IntN(len(events) + 1)
		who := []domain.ContactID{jo, ann}[rnd.IntN(2)]
		live := slices.Insert(slices.Clone(events), at, erased(who, int64(1000+rnd.IntN(500))))
		rebuilt := slices.Clone(live)
		for i, e := range rebuilt[:at] {
			if e.Contact == who {
				rebuilt[i] = domain.NewTombstone(e, uint64(i+1), ms(1)).Event(page)
			}
		}
		want, _, err := projectionstest.Digest(newFixture(t, live...).st)
		require.NoError(t, err)
		got, _, err := projectionstest.Digest(newFixture(t, rebuilt...).st)
		require.NoError(t, err)
		require.Equal(t, want, got, "seed %d", seed)
	}
}

// TestThePageIsNotTheAuthor checks that a comment whose author Meta does not name has no author, whatever the
// page does to it.
func TestThePageIsNotTheAuthor(t *testing.T) {
	nobody := received("1", "", "hm", 1000)
	nobody.Data.Comment.From = domain.Person{}
	for _, events := range [][]domain.Event{
		{nobody, on(domain.CommentHidden, "1", "", "", 2000)},
		{on(domain.CommentHidden, "1", "", "", 2000), nobody},
		{on(domain.CommentHidden, "1", "", "", 2000)},
	} {
		f := newFixture(t, events...)
		assert.Empty(t, f.comment("1").Author)
		assert.Equal(t, comments.Hidden, f.comment("1").State)
	}
}

// TestOtherEventsAllocateNothing checks it for events that are not for the read model: nearly all are.
func TestOtherEventsAllocateNothing(t *testing.T) {
	f, p := newFixture(t), comments.New()
	for _, kind := range domain.Types() {
		if slices.Contains(comments.Types(), kind) {
			continue
		}
		e := streams.Stored{Event: by(kind, jo, 1_000), Seq: 1, At: ms(2_000)}
		e.Data.Message, e.Data.Comment = &domain.Message{MID: "m"}, &domain.Comment{}
		require.NoError(t, f.st.View(func(tx *store.Tx) error {
			require.Zero(t, testing.AllocsPerRun(10, func() { _ = p.Apply(tx, e) }), "%s", kind)
			return nil
		}))
	}
}
