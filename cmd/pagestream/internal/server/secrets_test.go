package server_test

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"sync"
	"testing"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/dev"
)

// allLogs has the logs of all programs of the test run, at level debug.
var allLogs logs

type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// secretForms matches text that must not be in a log: the secrets of the tests, tokens of the form of
// Meta's and the fake's, and signatures.
var secretForms = regexp.MustCompile(testSecret + `|` + dev.AppSecret + `|` + dev.VerifyToken +
	`|\bEAA[A-Za-z0-9]{16,}|sha(1|256)=[0-9a-f]{40,}|appsecret_proof=[0-9a-f]|signed_request=|\bv1\.[0-9a-f]{16}\.|` +
	`\bpst_[A-Za-z0-9_-]{43}`)

// leaks describes the lines that contain a secret. It quotes only the text before the secret, so
// that printing the result does not leak it.
func (l *logs) leaks() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for n, line := range bytes.Split(l.b.Bytes(), []byte("\n")) {
		if at := secretForms.FindIndex(line); at != nil {
			out = append(out, fmt.Sprintf("line %d, before the secret: %s", n+1, line[:at[0]]))
		}
	}
	return out
}

// reportLeaks returns a failing exit code if the logs contain a secret, and prints where.
func reportLeaks(code int, to io.Writer) int {
	found := allLogs.leaks()
	for _, leak := range found {
		fmt.Fprintln(to, "secret in a log:", leak)
	}
	if len(found) > 0 {
		return max(code, 1)
	}
	if testing.Verbose() {
		fmt.Fprintf(to, "no secret in %d bytes of logs\n", allLogs.b.Len())
	}
	return code
}
