package streams

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pagestream/pagestream/domain"
)

// Name is the stream's name and SubjectPrefix the first token of its subjects,
// pagestream.<page>.<noun>.<verb>. Neither a message id nor a person's id is
// ever in a subject: JetStream keeps every subject in memory.
const (
	Name          = "PAGESTREAM"
	SubjectPrefix = "pagestream"
)

// All matches every event.
const All = SubjectPrefix + ".>"

// Subject is where an event of a page is stored.
func Subject(page domain.PageID, t domain.Type) string {
	return SubjectPrefix + "." + page.Token() + "." + string(t)
}

// Filter returns the subjects that match the events of one page, or of every
// page where it is empty, and of the given types, or of every type where there
// is none. They don't overlap.
func Filter(page domain.PageID, types ...domain.Type) []string {
	token := "*"
	if page != "" {
		token = page.Token()
	}
	prefix := SubjectPrefix + "." + token + "."
	if len(types) == 0 {
		return []string{prefix + ">"}
	}
	out := make([]string, 0, len(types))
	for _, t := range types {
		out = append(out, prefix+string(t))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// ParseSubject splits a subject into the page's token and the event type. It
// fails with [ErrMalformed].
func ParseSubject(subject string) (token string, t domain.Type, err error) {
	parts := strings.Split(subject, ".")
	if len(parts) != 4 || parts[0] != SubjectPrefix {
		return "", "", fmt.Errorf("subject %q: %w", subject, ErrMalformed)
	}
	return parts[1], domain.Type(parts[2] + "." + parts[3]), nil
}
