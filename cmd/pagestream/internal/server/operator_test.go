package server_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
	"github.com/pagestream/pagestream/domain"
)

// TestOperatorAtTheCommandLine tries the command line as an operator of many pages does: by their names, with mistakes.
func TestOperatorAtTheCommandLine(t *testing.T) {
	t.Parallel()
	names := []string{"Corner Bakery", "Harbour Bikes", "Twin", "twin", "7005"} // the last one is no id
	g, cfg := newFakeMeta(t, len(names), func(o *fakegraph.Options) {
		for i, name := range names {
			o.Pages[i].Name = name
		}
	})
	r := start(t, cfg)
	r.connectAll(t, g)
	const first = 1790000000000
	for i := range 4 { // two pages in turn
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(),
			message(fmt.Sprint(7000+i%2), fmt.Sprint(3100+i), fmt.Sprint("m_", i), fmt.Sprint("text ", i), int64(first+i*1000))))
	}
	head := lastSeq(t, r)
	require.NoError(t, r.do(t.Context(), http.MethodGet, fmt.Sprint("/api/v1/pages/7001/conversations?min_seq=", head), nil, nil, nil))
	ok := func(args ...string) string {
		t.Helper()
		code, out, errs := r.command(t, args...)
		require.Equal(t, cli.ExitOK, code, "%q: %s", args, errs)
		return out
	}
	t.Run("pages by name", func(t *testing.T) { byName(t, r, ok) })
	t.Run("unknown", func(t *testing.T) { unknownNames(t, r) })
	t.Run("newest first", func(t *testing.T) { newestFirst(t, ok, head) })
	t.Run("json", func(t *testing.T) { machineOutput(t, ok) })
	t.Run("tail", func(t *testing.T) {
		code, out, errs := r.command(t, "events", "tail", "--page", "corner bakery", "--type", "message.received", "--after", "0",
			"--count", "1", "--json")
		require.Equal(t, cli.ExitOK, code, errs)
		assert.Equal(t, "waiting for message.received events of page 7000 after sequence 0; Ctrl-C ends it\n", errs)
		var list []struct{ Page string }
		require.NoError(t, json.Unmarshal([]byte(out), &list))
		require.Len(t, list, 1)
		assert.Equal(t, "7000", list[0].Page)
	})
	t.Run("export", func(t *testing.T) {
		assert.Equal(t, int(head), strings.Count(ok("events", "export", "-"), "\n"))
		assert.NoFileExists(t, "-")
	})
	t.Run("forget", func(t *testing.T) { forgetPage(t, r, ok) })
}

func byName(t *testing.T, r *running, ok func(...string) string) {
	for _, args := range [][]string{
		{"pages", "show", "CORNER bakery"},
		{"pages", "check", "corner bakery", "7001"},
		{"doctor", "corner bakery"},
		{"pages", "resubscribe", "corner bakery", "--dry-run"},
		{"conversations", "list", "corner bakery"},
		{"conversations", "show", "corner bakery", "3100"},
		{"events", "list", "--page", "corner bakery"},
		{"events", "explain", "corner bakery", "3100"},
		{"comments", "list", "corner bakery"},
		{"posts", "list", "corner bakery"},
		{"erasures", "list", "corner bakery"},
		{"consumers", "add", "c", "--pages", "corner bakery,Harbour Bikes"},
	} {
		ok(args...)
	}
	shown := ok("pages", "show", "corner bakery")
	for _, part := range []string{"page 7000 Corner Bakery: ", "company       acme", "confirmed since", "fields"} {
		assert.Contains(t, shown, part)
	}
	assert.NotContains(t, shown, "{")
	var page struct{ ID, Name string }
	require.NoError(t, json.Unmarshal([]byte(ok("--json", "pages", "show", "7000")), &page))
	assert.Equal(t, "Corner Bakery", page.Name)
	code, _, errs := r.command(t, "pages", "show", "TWIN")
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, errs, `2 pages have the name "TWIN"; give the id of one: 7002 (acme), 7003 (acme)`)
	ok("pages", "show", "7002")
}

func unknownNames(t *testing.T, r *running) {
	const bakery = "near: Corner Bakery (7000)"
	for _, c := range []struct {
		args []string
		has  string
	}{
		{[]string{"pages", "show", "corner bakry"}, bakery},
		{[]string{"pages", "show", "corner"}, bakery},
		{[]string{"pages", "show", "7008"}, "(7001)"},
		{[]string{"pages", "show", "7005"}, `there is no page "7005"`},
		{[]string{"erase", "7005", "3100", "--yes"}, `there is no page "7005"`},
		{[]string{"person", "export", "7008", "3100", t.TempDir() + "/x"}, `there is no page "7008"`},
		{[]string{"events", "list", "--page", "7008"}, "(7001)"},
		{[]string{"pages", "check", "7000", "nobody at all"}, `"nobody at all"; type: pagestream pages list`},
		{[]string{"pages", "resubscribe", "corner"}, bakery},
		{[]string{"pages", "disconnect", "corner"}, bakery},
		{[]string{"pages", "forget", "corner", "--yes"}, bakery},
		{[]string{"pages", "connect", "corner", "--token", "x"}, bakery},
		{[]string{"doctor", "corner"}, bakery},
		{[]string{"conversations", "list", "corner"}, bakery},
		{[]string{"conversations", "show", "corner", "3100"}, bakery},
		{[]string{"conversations", "show", "7000", "3109"}, "near: (3100)"},
		{[]string{"events", "list", "--page", "corner"}, bakery},
		{[]string{"events", "list", "--type", "message.recieved"}, "one is message.received"},
		{[]string{"events", "tail", "--page", "corner"}, bakery},
		{[]string{"events", "tail", "--type", "message.recieved"}, "one is message.received"},
		{[]string{"events", "explain", "corner", "3100"}, bakery},
		{[]string{"events", "explain", "7000", "3109"}, "near: (3100)"},
		{[]string{"events", "export", "--type", "message.recieved"}, "one is message.received"},
		{[]string{"events", "adopt", "corner", "--all"}, bakery},
		{[]string{"comments", "list", "corner"}, bakery},
		{[]string{"comments", "list", "7000", "--contact", "3109"}, "near: (3100)"},
		{[]string{"comments", "list", "7000", "--post", "1"}, "no post"},
		{[]string{"comments", "show", "corner", "1"}, bakery},
		{[]string{"posts", "list", "corner"}, bakery},
		{[]string{"posts", "show", "corner", "1"}, bakery},
		{[]string{"erase", "corner", "3100", "--yes"}, bakery},
		{[]string{"erase", "7000", "3109", "--yes"}, "near: (3100)"},
		{[]string{"erasures", "list", "corner"}, bakery},
		{[]string{"person", "export", "corner", "3100", t.TempDir() + "/x"}, bakery},
		{[]string{"person", "export", "7000", "3109", t.TempDir() + "/x"}, "near: (3100)"},
		{[]string{"send", "corner", "3100", "--text", "x"}, bakery},
		{[]string{"send", "7000", "3109", "--text", "x"}, "near: (3100)"},
		{[]string{"backfill", "corner", "--since", "1h"}, bakery},
		{[]string{"deadletters", "redrive", "--page", "corner"}, bakery},
		{[]string{"consumers", "add", "crm", "--pages", "corner"}, bakery},
		{[]string{"consumers", "add", "crm", "--all", "--types", "message.recieved"}, "one is message.received"},
	} {
		code, out, errs := r.command(t, c.args...)
		assert.Equal(t, cli.ExitFailed, code, "%q: %s%s", c.args, out, errs)
		assert.Contains(t, errs, c.has, "%q", c.args)
		assert.Empty(t, out, "%q", c.args)
		for _, phrase := range []string{"Not Found", "Bad Request", "Unprocessable", "http://", "404", "422", "status 400", "POST /"} {
			assert.NotContains(t, errs, phrase, "%q", c.args)
		}
	}
}

func newestFirst(t *testing.T, ok func(...string) string, head uint64) {
	contacts := func(args ...string) (out []string) {
		var list []struct{ Contact string }
		require.NoError(t, json.Unmarshal([]byte(ok(append([]string{"--json"}, args...)...)), &list))
		for _, e := range list {
			out = append(out, e.Contact)
		}
		return out
	}
	assert.Equal(t, []string{"3103", "3102", "3101", "3100"}, contacts("conversations", "list"))
	assert.Equal(t, []string{"3103", "3102"}, contacts("conversations", "list", "--limit", "2"))
	assert.Equal(t, []string{"3102", "3100"}, contacts("conversations", "list", "7000"))
	assert.Contains(t, ok("conversations", "list"), "Corner Bakery")

	seqs := func(args ...string) (out []uint64) {
		var list []struct{ Seq uint64 }
		require.NoError(t, json.Unmarshal([]byte(ok(append([]string{"--json", "events", "list"}, args...)...)), &list))
		for _, e := range list {
			out = append(out, e.Seq)
		}
		return out
	}
	all := seqs("--limit", "0")
	require.Len(t, all, int(head))
	assert.Equal(t, head, all[0])
	assert.Equal(t, all[:3], seqs("--last", "3"))
	assert.Equal(t, all[:3], seqs("--limit", "3"))
	assert.Equal(t, all, seqs("--last", "100", "--limit", "1", "--since", "1h"))
	assert.Equal(t, []uint64{4, 5}, seqs("--after", "3", "--limit", "2"), "oldest first")
	assert.Empty(t, seqs("--until", "1h"))
	assert.Equal(t, all, seqs("--since", "1h", "--until", "0s", "--limit", "0"))
	assert.Len(t, seqs("--type", "message.received", "--last", "3"), 3)
}

// machineOutput checks for every command that lists that --json is one document, a list, and --ndjson has each of
// its items on a line.
func machineOutput(t *testing.T, ok func(...string) string) {
	for _, args := range [][]string{
		{"pages", "list"},
		{"conversations", "list"},
		{"conversations", "show", "7000", "3100"},
		{"comments", "list", "7000"},
		{"posts", "list", "7000"},
		{"events", "list"},
		{"events", "list", "--until", "1h"},
		{"events", "explain", "7000", "3100"},
		{"events", "schema"},
		{"events", "tail", "--after", "0", "--count", "2"},
		{"erasures", "list"},
		{"projections", "list"},
		{"companies", "list"},
		{"tokens", "list"},
		{"history"},
		{"consumers", "list"},
		{"hooks", "list"},
		{"deadletters", "list"},
		{"pages", "forget", "--tests"},
	} {
		var document []json.RawMessage
		text := ok(append([]string{"--json"}, args...)...)
		require.NoError(t, json.Unmarshal([]byte(text), &document), "%q: %s", args, text)
		lines := 0
		for line := range strings.Lines(ok(append([]string{"--ndjson"}, args...)...)) {
			assert.True(t, json.Valid([]byte(line)), "%q: %s", args, line)
			lines++
		}
		if args[0] != "history" { // --json was on record meanwhile
			assert.Len(t, document, lines, "%q", args)
		}
	}
}

func forgetPage(t *testing.T, r *running, ok func(...string) string) {
	code, _, errs := r.command(t, "pages", "forget", "corner bakery", "--yes")
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, errs, "pages disconnect")
	ok("pages", "disconnect", "corner bakery")
	// A page that was connected is real: forget --tests, which needs no --yes, must not take it.
	err := r.do(t.Context(), http.MethodPost, "/api/v1/pages/7000/test", nil, nil, nil)
	require.ErrorContains(t, err, "can't be a test")
	code, _, errs = r.command(t, "pages", "forget", "corner bakery")
	assert.Equal(t, cli.ExitUsage, code)
	assert.Contains(t, errs, "add --yes")
	out := ok("pages", "forget", "corner bakery", "--yes")
	assert.Contains(t, out, "page 7000 Corner Bakery is forgotten: 2 conversations with 2 messages")
	assert.Contains(t, out, "What stays: the events in the stream")
	assert.NotContains(t, ok("pages", "list"), "7000")
	assert.NotContains(t, ok("conversations", "list"), "3100")
	assert.Contains(t, ok("events", "list", "--type", "message.received"), "text 2", "the events stay")
	assert.Equal(t, 1, r.events(t, "7000")[domain.PageForgotten])
	for _, model := range []string{"pages", "conversations", "comments", "subscriptions", "deliveries"} {
		ok("projections", "verify", model)
	}
	ok("audit", "--full")

	// What is about the stream finds the events of a page that no read model has.
	assert.Contains(t, ok("events", "list", "--page", "7000", "--type", "message.received"), "text 2")
	assert.Contains(t, ok("events", "explain", "7000", "3102"), "text 2")
	assert.Contains(t, ok("person", "export", "7000", "3102", t.TempDir()+"/x"), "message: 1")
	for _, args := range [][]string{
		{"pages", "show", "7000"}, {"conversations", "list", "7000"}, {"erase", "7008", "3100", "--yes"},
	} {
		code, _, errs = r.command(t, args...)
		assert.Equal(t, cli.ExitFailed, code, "%q", args)
		assert.Contains(t, errs, "there is no page", "%q", args)
	}
	assert.Contains(t, ok("erase", "7000", "3100", "--yes"), "erased: 1 events")
	assert.Contains(t, ok("erase", "7000", "3100", "--yes"), "nothing to erase", "it was erased before")
	ok("erasures", "list", "7000")

	// An erasure finds the events as well when the page has received more, which alone is shown.
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), message("7000", "3109", "m_9", "again", 1790000009000)))
	assert.Contains(t, ok("conversations", "list", "7000"), "3109")
	assert.NotContains(t, ok("conversations", "list", "7000"), "3102")
	assert.Contains(t, ok("erase", "7000", "3102", "--yes"), "erased: 1 events")
	assert.NotContains(t, ok("events", "list", "--type", "message.received"), "text 2")
	assert.Contains(t, ok("erase", "7000", "3102", "--yes"), "nothing to erase", "it was erased before")
}

// TestErrorsAreForAPerson checks what is said when something else than pagestream's private listener answers, or nothing.
func TestErrorsAreForAPerson(t *testing.T) {
	t.Parallel()
	var status int
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	defer other.Close()
	address := strings.TrimPrefix(other.URL, "http://")
	for code, want := range map[int]string{
		http.StatusNotFound: "not the private listener", http.StatusInternalServerError: "look at its log",
		http.StatusUnauthorized: "--token-file", http.StatusFound: "not the private listener",
	} {
		status = code
		exit, _, errs := run(t, t.Context(), "--server", address, "--token-file", tokenFile(t), "pages", "list")
		assert.Equal(t, cli.ExitFailed, exit)
		assert.Contains(t, errs, want)
		assert.NotRegexp(t, fmt.Sprintf(`\b%d\b`, code), errs) // a port or a directory may have its digits
		assert.NotContains(t, errs, http.StatusText(code))
	}
	other.Close()
	_, _, errs := run(t, t.Context(), "--server", address, "--token-file", tokenFile(t), "pages", "list")
	assert.Contains(t, errs, "pagestream serve")

	for _, c := range []struct {
		args []string
		has  []string
	}{
		{[]string{"-c", "f.yaml", "pages", "lst"}, []string{`"pages lst"; did you mean pages list?`, "Try: pagestream pages --help"}},
		{[]string{"-c", "f.yaml", "pages", "zzzzzz"}, []string{`"pages zzzzzz"; pages has: list, show`}},
		{[]string{"--json", "convrsations"}, []string{`"convrsations"; did you mean conversations?`, "Try: pagestream --help"}},
		{[]string{"-c", "f.yaml", "pages", "check"}, []string{"pagestream: which pages?", "Try: pagestream pages check --help"}},
		{[]string{"-c", "f.yaml", "events", "list", "--last", "1", "--after", "2"}, []string{"Try: pagestream events list --help"}},
	} {
		exit, _, errs := run(t, t.Context(), c.args...)
		assert.Equal(t, cli.ExitUsage, exit, "%q", c.args)
		for _, has := range c.has {
			assert.Contains(t, errs, has, "%q", c.args)
		}
	}
}
