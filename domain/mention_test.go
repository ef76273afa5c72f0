package domain

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestMentions(t *testing.T) {
	for text, want := range map[string]bool{
		`123`: true, `{"id":"123"}`: true, `{"id":123}`: true, `{"id":"9_123"}`: true, `[123,`: true, `"123\n"`: true,
		`91234`: false, `{"id":"1234"}`: false, `{"id":91123}`: false, `"a123"`: false, `1230 and 123`: true, ``: false,
		`"12"`: false, `1231 0123`: false,
	} {
		assert.Equal(t, want, Mentions(text, "123"), text)
		assert.Equal(t, want, MentionsHash(text, ContactHash("123")), text)
	}
	assert.False(t, Mentions("anything", ""))
	assert.True(t, MentionsHash(`{"user_ref":"a-b_c.d"}`, ContactHash("a-b_c.d")))
	assert.False(t, MentionsHash(`{"user_ref":"a-b_c.d2"}`, ContactHash("a-b_c.d")))
	assert.Equal(t, "object (contact), 1234, (contact)", HideContact("object 123, 1234, 123", "123"))
}
