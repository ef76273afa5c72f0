package streams

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pagestream/pagestream/domain"
)

// Name is the stream's name, and SubjectPrefix the first token of its subjects, which have the form
// pagestream.<page>.<noun>.<verb>. A subject never contains the id of a message or a person, since
// JetStream keeps every subject in memory.
const (
	Name          = "PAGESTREAM"
	SubjectPrefix = "pagestream"
)

// All is the subject filter that matches every event.
const All = SubjectPrefix + ".>"

// OutboxPrefix is the first token of the subjects of a consumer's own stream, its outbox. They have the form
// out.<consumer>.<page>.<noun>.<verb>.
const OutboxPrefix = "out"

// OutboxSubject returns the subject on which a consumer's own stream has an event of that page and type.
func OutboxSubject(consumer string, page domain.PageID, t domain.Type) string {
	return OutboxPrefix + "." + consumer + "." + page.Token() + "." + string(t)
}

// Subject returns the subject on which an event of that page and type is stored.
func Subject(page domain.PageID, t domain.Type) string {
	return SubjectPrefix + "." + page.Token() + "." + string(t)
}

// Filter returns subject filters for the events of one page (of every page if it is empty) and of the
// given types (of every type if there are none). The filters are sorted and don't overlap.
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

// ParseSubject splits a subject, of the stream or of a consumer's own stream, into the page's token and the
// event type. [ErrMalformed] is returned when it is not the subject of an event.
func ParseSubject(subject string) (token string, t domain.Type, err error) {
	parts := strings.Split(subject, ".")
	if len(parts) == 5 && parts[0] == OutboxPrefix {
		parts = parts[1:]
	} else if len(parts) != 4 || parts[0] != SubjectPrefix {
		return "", "", fmt.Errorf("subject %q: %w", subject, ErrMalformed)
	}
	return parts[1], domain.Type(parts[2] + "." + parts[3]), nil
}
