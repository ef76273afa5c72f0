package messenger_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/messenger"
)

// caseFile returns a payload of the folder cases next to the repository. The test is
// skipped if there is none.
func caseFile(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(filepath.Dir(corpus(t)), "cases", name+".json"))
	if os.IsNotExist(err) {
		t.Skip("there are no cases next to the repository")
	}
	require.NoError(t, err)
	return b
}

// splitCase returns the event of a case, which has one item.
func splitCase(t *testing.T, name string) domain.Event {
	t.Helper()
	return splitOne(t, caseFile(t, name))
}

func TestAnEditWithoutTextHasNone(t *testing.T) {
	e := splitCase(t, "edit_without_text_2_edit")
	require.Equal(t, domain.MessageEdited, e.Type)
	require.Nil(t, e.Data.Edit.Text)
	empty := splitOne(t, delivery("messaging", "1", `{"message_edit":{"mid":"m","text":"","num_edit":1}}`))
	require.Equal(t, new(""), empty.Data.Edit.Text, "an empty text is not an absent one")
}

func TestALabelThatIsPutOnAgainIsANewFact(t *testing.T) {
	ids := map[string]domain.Type{}
	for round := range 2 {
		for i := 1; i <= 3; i++ {
			e := splitCase(t, fmt.Sprintf("label_again_%d", i))
			require.EqualValues(t, "8102", e.Contact)
			ids[e.ID] = e.Type
		}
		require.Len(t, ids, 3, "round %d", round)
	}
	first, last := splitCase(t, "label_again_1"), splitCase(t, "label_again_3")
	require.Equal(t, first.Data.Fact, last.Data.Fact)
	require.Equal(t, &domain.Label{ID: "31", Name: "vip"}, last.Data.Label)
	require.Equal(t, domain.LabelRemoved, splitCase(t, "label_again_2").Type)
}

func TestFeedbackWithoutATimeIsStoredAgain(t *testing.T) {
	first, second := splitCase(t, "feedback_without_time_1"), splitCase(t, "feedback_without_time_2")
	require.NotEqual(t, first.ID, second.ID)
	require.Equal(t, domain.FeedbackReceived, second.Type)
	require.Equal(t, []domain.FeedbackAnswer{{Screen: "0", Question: "q1", Type: "csat", Answer: "5"}},
		second.Data.Feedback.Answers)
}

func TestTheAuthorOfACommentIsItsContact(t *testing.T) {
	e := splitCase(t, "comment_author_in_from")
	require.Equal(t, domain.CommentReceived, e.Type)
	require.EqualValues(t, "8104", e.Contact)
	require.Equal(t, domain.Person{ID: "8104", Name: "Jo Doe"}, e.Data.Comment.From)
}

func TestAPayloadThatIsAnObjectIsItsText(t *testing.T) {
	e := splitCase(t, "postback_payload_object")
	require.Equal(t, `{"action":"start"}`, e.Data.Postback.Payload)
}

// TestFactsWithoutATimeOfTheirOwn checks for each shape that the second of two equal
// facts is not a duplicate of the first, and that a repeated delivery is one.
func TestFactsWithoutATimeOfTheirOwn(t *testing.T) {
	const who = `"sender":{"id":"9"},"recipient":{"id":"7"}`
	for channel, items := range map[string][]string{
		"changes": {
			`{"field":"feed","value":{"item":"comment","verb":"hide","comment_id":"1","created_time":1690000000}}`,
			`{"field":"feed","value":{"item":"comment","verb":"edited","comment_id":"1","created_time":1690000000}}`,
			`{"field":"feed","value":{"item":"reaction","verb":"remove","post_id":"1","created_time":1690000000}}`,
			`{"field":"feed","value":{"item":"like","verb":"add","user_id":1}}`,
			`{"field":"live_videos","value":{"id":"1","status":"live"}}`,
			`{"field":"picture"}`,
			`{"field":"new","value":{"state":1}}`,
		},
		"messaging": {
			`{` + who + `,"account_linking":{"status":"linked"}}`,
			`{` + who + `,"timestamp":0,"pass_thread_control":{"new_owner_app_id":1}}`,
			`{` + who + `,"referral":{"ref":"r"}}`,
			`{` + who + `,"postback":{"title":"T"}}`,
			`{` + who + `,"message":{"text":"x"}}`,
			`{` + who + `,"new_kind":{"x":1}}`,
			`{"recipient":{"id":"7"},"policy_enforcement":{"action":"block"}}`,
		},
		"changed_fields": {`"name"`},
		"standby":        {`{` + who + `,"postback":{"title":"T"}}`},
		"new_array":      {`{"x":1}`},
	} {
		for _, item := range items {
			first, again := ids(delivery(channel, "1790000000", item))[0], ids(delivery(channel, "1790000000", item))[0]
			require.Equal(t, first, again, item)
			later := ids(delivery(channel, "1790003600", item))[0]
			require.NotEqual(t, first, later, item)
			if channel == "new_array" {
				continue // an entry without items is one item
			}
			twice := ids(delivery(channel, "1790000000", item+","+item))
			require.Equal(t, first, twice[0])
			require.NotEqual(t, first, twice[1], "%s twice in an entry", item)
		}
	}
}

// TestAReactionOfTheBusiness checks that its contact is the person, where the entry is
// the page and both ends are Instagram ids.
func TestAReactionOfTheBusiness(t *testing.T) {
	body := func(from, to string) []byte {
		return fmt.Appendf(nil, `{"object":"instagram","entry":[{"id":"7","time":1,"messaging":[`+
			`{"sender":{"id":%q},"recipient":{"id":%q},"timestamp":1,"reaction":{"mid":"m","action":"react"}}]}]}`, from, to)
	}
	account := func(page domain.PageID) string { return map[domain.PageID]string{"7": "500"}[page] }
	for _, c := range []struct {
		from, to string
		account  func(domain.PageID) string
	}{
		{"500", "9", account},
		{"9", "500", account},
		{"17841400000000001", "9", nil},
		{"9", "17841400000000001", nil},
	} {
		events := messenger.Split(body(c.from, c.to), messenger.Options{Account: c.account}).Events
		require.Len(t, events, 1)
		require.EqualValues(t, "9", events[0].Contact, "from %s to %s", c.from, c.to)
	}
}
