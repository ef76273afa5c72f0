package domain

import (
	"iter"
	"strings"
)

// A text mentions a contact if it has the contact's id as a whole: in front of the id
// and behind it is no letter and no digit. So the id 123 is in "123", 123 and 9_123, and
// not in 91234.

// Mentions reports whether a text mentions the contact.
func Mentions(text string, c ContactID) bool {
	return mention(text, c) >= 0
}

// mention returns the index of the contact's id in a text that mentions it, or -1.
func mention(text string, c ContactID) int {
	if c == "" {
		return -1
	}
	for from := 0; ; {
		i := strings.Index(text[from:], string(c))
		if i < 0 {
			return -1
		}
		i += from
		end := i + len(c)
		if (i == 0 || !isWord(text[i-1])) && (end == len(text) || !isWord(text[end])) {
			return i
		}
		from = i + 1
	}
}

// HideContact returns the text with "(contact)" in place of each id of the contact.
func HideContact(text string, c ContactID) string {
	var out strings.Builder
	for {
		i := mention(text, c)
		if i < 0 {
			out.WriteString(text)
			return out.String()
		}
		out.WriteString(text[:i])
		out.WriteString("(contact)")
		text = text[i+len(c):]
	}
}

// MentionsHash reports whether a text mentions a contact with this [ContactHash], as
// far as [IDs] finds it.
func MentionsHash(text, hash string) bool {
	for id := range IDs(text) {
		if ContactHash(id) == hash {
			return true
		}
	}
	return false
}

// IDs returns what may be the id of a contact in a text: words of letters and digits,
// and those that have also "-", "_" and ".", if nothing is in front of the word or behind
// it that could be a part of it.
func IDs(text string) iter.Seq[ContactID] {
	return func(yield func(ContactID) bool) {
		for _, inID := range []func(byte) bool{isWord, isIDByte} {
			for i := 0; i < len(text); i++ {
				begin := i
				for i < len(text) && inID(text[i]) {
					i++
				}
				if i > begin && i-begin <= maxToken && !yield(ContactID(text[begin:i])) {
					return
				}
			}
		}
	}
}

func isWord(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func isIDByte(c byte) bool { return isWord(c) || c == '-' || c == '_' || c == '.' }
