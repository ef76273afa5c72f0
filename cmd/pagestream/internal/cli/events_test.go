package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestClip(t *testing.T) {
	for _, c := range []struct {
		text  string
		width int
		want  string
	}{
		{"hello", 5, "hello"},
		{"hello!", 5, "hell…"},
		{"", 3, ""},
		{"北京市", 6, "北京市"},
		{"北京市", 5, "北京…"},
		{"北京市", 4, "北…"},
		{"👨‍👩‍👧👨‍👩‍👧", 3, "👨‍👩‍👧…"},
		{"äöü", 2, "ä…"},
	} {
		got := clip(c.text, c.width)
		assert.Equal(t, c.want, got)
		assert.LessOrEqual(t, columns(got), c.width)
		assert.Equal(t, c.width, columns(pad(c.text, c.width)), "%q", c.text)
	}
}

func TestInLine(t *testing.T) {
	for text, want := range map[string]string{
		"a\r\n\tb":              "a b",
		"\x1b[31mred\x07":       "[31mred",
		"\u009b31m":             "31m",
		"a\u2028b\u2029c\u0085": "a b c",
		"\u202egnp.exe":         "gnp.exe",
		"👨\u200d👩":              "👨\u200d👩",
		"caf\xe9":               "caf\uFFFD",
	} {
		assert.Equal(t, want, inLine(text))
	}
}

func TestEventText(t *testing.T) {
	e := eventLine{
		Seq: 7, Type: "message.received", Page: "700", Contact: "31",
		Stored: time.Date(2026, 9, 1, 12, 0, 0, 0, time.Local),
	}
	assert.Equal(t, "       7  2026-09-01 12:00:00  700                   31                    message.received        hello you",
		e.text("hello\n you", 0))
	e.PageName, e.ContactName, e.Standby = "Cats & Co", "Ann\x1b\nLee", true
	got := e.text(strings.Repeat("long ", 30), 140)
	assert.Contains(t, got, "  Cats & Co             Ann Lee               message.received        (standby) long ")
	assert.Equal(t, 140, columns(got))
	assert.True(t, strings.HasSuffix(got, "…"))
	e.Standby = false
	assert.Equal(t, "       7  12:00:00  Cats & Co     Ann Lee       message.received  see you at se…", e.text("see you at seven", 60))
	assert.Equal(t, 80, columns(e.text("see you at six o'clock", 80)))
	e.Contact, e.ContactName = "", ""
	assert.True(t, strings.HasSuffix(e.text("", 0), "-                     message.received"))
}

// feedOf serves one feed of events, and then feeds without events. It counts the feeds.
func feedOf(t *testing.T, events ...string) (c *CLI, out, errs *bytes.Buffer, feeds *int) {
	t.Helper()
	out, errs, feeds = &bytes.Buffer{}, &bytes.Buffer{}, new(int)
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		*feeds++
		if *feeds > 1 {
			cancel()
			return
		}
		for i, e := range events {
			fmt.Fprintf(w, "id: %d\ndata: %s\n\n", i+1, strings.ReplaceAll(e, "\n", "\ndata: "))
		}
	}))
	t.Cleanup(srv.Close)
	return &CLI{Out: out, Err: errs, ctx: ctx, api: &Client{base: srv.URL, http: srv.Client()}}, out, errs, feeds
}

const goodEvent = `{"seq":2,"type":"message.received","page":"700","data":{"message":{"text":"hello"}}}`

// TestTailGoesOn checks that an event that can't be decoded is reported, and that the feed is not
// opened again because of it.
func TestTailGoesOn(t *testing.T) {
	c, out, errs, feeds := feedOf(t, `{"seq":"not a number"}`, goodEvent, strings.Repeat("[", 10_001))
	require.NoError(t, EventsTailCommand{After: "0", Count: 1}.Run(c))
	assert.Contains(t, out.String(), "hello\n")
	assert.Equal(t, 1, *feeds)
	assert.Contains(t, errs.String(), "an event of 22 bytes can't be shown")
	assert.Equal(t, 2, strings.Count(errs.String(), "\n"), "what it waits for, and the event")

	c, out, errs, _ = feedOf(t, strings.Repeat("[", 10_001), goodEvent)
	require.NoError(t, EventsTailCommand{After: "0"}.Run(c))
	assert.Equal(t, 1, strings.Count(out.String(), "\n"))
	assert.Contains(t, errs.String(), "10001 bytes")
}

// TestTailWritesLines checks that each event is one line of JSON, also from a server that sends it on
// several lines.
func TestTailWritesLines(t *testing.T) {
	c, out, _, _ := feedOf(t, goodEvent, "{\n\"seq\": 3,\n\"data\": {\"raw\": {\n}}}")
	c.NDJSON = true
	require.NoError(t, EventsTailCommand{After: "0", Count: 2}.Run(c))
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	require.Len(t, lines, 2)
	assert.Equal(t, goodEvent, lines[0])
	for _, l := range lines {
		assert.True(t, json.Valid([]byte(l)), l)
	}
}

type closedPipe struct{}

func (closedPipe) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// TestTailEndsWithItsOutput checks that a tail ends when nobody reads its output.
func TestTailEndsWithItsOutput(t *testing.T) {
	c, _, _, feeds := feedOf(t, goodEvent)
	c.Out = closedPipe{}
	err := EventsTailCommand{After: "0"}.Run(c)
	require.ErrorIs(t, err, io.ErrClosedPipe)
	assert.Equal(t, 1, *feeds)
}
