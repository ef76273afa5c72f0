package export

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
)

// maxHeaders is the most bytes of headers that are imported; JetStream accepts 64 KiB.
const maxHeaders = 63 << 10

// attribute matches the header of a CloudEvents attribute.
var attribute = regexp.MustCompile(`^ce-[a-z0-9]+$`)

// ownHeaders are the other headers of a message that are stored. What another header means
// to NATS is not known: some delete messages, or make the client read a message as an
// answer of the server.
var ownHeaders = []string{
	streams.HeaderContentType, streams.HeaderTraceParent, streams.HeaderMsgID, streams.HeaderWatermillID,
	streams.HeaderStoredAt,
}

// restrict makes sure that a message of a file is one that a stream of events may contain. It
// removes headers that are neither CloudEvents' nor pagestream's, and returns how many. It
// fails with [ErrLine] if the subject is not one of the stream's, if a header is an
// instruction for NATS, or if a header can't be stored as it is.
func restrict(m *nats.Msg) (dropped uint64, err error) {
	if !ofStream(m.Subject) {
		return 0, fmt.Errorf("%w: its subject is not one of a stream of events", ErrLine)
	}
	for name, values := range m.Header {
		switch {
		case attribute.MatchString(name), slices.Contains(ownHeaders, name):
		case strings.HasPrefix(strings.ToLower(name), "nats-"):
			return 0, fmt.Errorf("%w: it has a header that is an instruction for NATS", ErrLine)
		default:
			delete(m.Header, name)
			dropped++
			continue
		}
		if slices.ContainsFunc(values, func(v string) bool { return strings.ContainsAny(v, "\r\n\x00") }) {
			return 0, fmt.Errorf("%w: a header has a line break in it", ErrLine)
		}
	}
	if m.Size()-len(m.Data) > maxHeaders {
		return 0, fmt.Errorf("%w: it has more than %d bytes of headers", ErrLine, maxHeaders)
	}
	return dropped, nil
}

// maxSubject bounds a subject in bytes.
const maxSubject = 1024

// ofStream reports whether a message with this subject can be in a stream of events: the
// subject is below [streams.SubjectPrefix], has no wildcards, and is not that of the
// placeholders, which are deleted at the end of an import.
func ofStream(subject string) bool {
	tokens := strings.Split(subject, ".")
	if len(subject) > maxSubject || len(tokens) < 2 || tokens[0] != streams.SubjectPrefix ||
		subject == streams.Subject(domain.NoPage, fillerType) {
		return false
	}
	return !slices.ContainsFunc(tokens, func(token string) bool {
		return token == "" || strings.ContainsFunc(token, func(r rune) bool {
			return r <= ' ' || r == 0x7f || r == '*' || r == '>' || r == '\uFFFD'
		})
	})
}
