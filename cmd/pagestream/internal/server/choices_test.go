package server_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/consumers"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/hooks"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/server"
)

// TestEmptyNeverMeansAll checks on the running program that an empty or unknown choice of pages,
// companies and types is an error that says what to type, and changes nothing.
func TestEmptyNeverMeansAll(t *testing.T) {
	g, cfg := newFakeMeta(t, 2)
	r := start(t, cfg)
	r.connectAll(t, g)
	last := lastSeq(t, r)
	for _, c := range []struct {
		args []string
		code int
		has  string
	}{
		{[]string{"doctor", ""}, cli.ExitUsage, "is empty"},
		{[]string{"pages", "check"}, cli.ExitUsage, "--all"},
		{[]string{"pages", "check", ""}, cli.ExitUsage, "is empty"},
		{[]string{"pages", "check", "7000", "--all"}, cli.ExitUsage, "--all"},
		{[]string{"pages", "resubscribe", "--all", "7000"}, cli.ExitUsage, "--all"},
		{[]string{"pages", "connect", "--user-token", "x", "--all", "7000"}, cli.ExitUsage, "--all"},
		{[]string{"pages", "disconnect", ""}, cli.ExitUsage, "is empty"},
		{[]string{"backfill", "", "--since", "1h"}, cli.ExitUsage, "is empty"},
		{[]string{"consumers", "add", "crm"}, cli.ExitUsage, "--all"},
		{[]string{"consumers", "add", "crm", "--pages", ""}, cli.ExitUsage, "the argument after --pages is empty"},
		{[]string{"consumers", "add", "crm", "--pages="}, cli.ExitUsage, "--pages is empty"},
		{[]string{"consumers", "add", "crm", "--pages", ","}, cli.ExitFailed, "field pages has an empty value"},
		{[]string{"consumers", "add", "crm", "--company", ""}, cli.ExitUsage, "is empty"},
		{[]string{"consumers", "add", "crm", "--all", "--pages", "7000"}, cli.ExitUsage, "--all"},
		{[]string{"consumers", "add", "crm", "--all", "--types", ""}, cli.ExitUsage, "is empty"},
		{[]string{"consumers", "add", "crm", "--all", "--types", "mail.received"}, cli.ExitFailed, "mail.received"},
		{[]string{"consumers", "add", "crm", "--pages", "7000,999"}, cli.ExitFailed, `page "999"; type: pagestream pages list`},
		{[]string{"consumers", "add", "crm", "--company", "Acme"}, cli.ExitFailed, `did you mean "acme"?`},
		{[]string{"consumers", "add", "crm", "--company", "other"}, cli.ExitFailed, "type: pagestream companies list"},
		{[]string{"events", "list", "--page", ""}, cli.ExitUsage, "is empty"},
		{[]string{"events", "list", "--page", ","}, cli.ExitFailed, "parameter page has an empty value"},
		{[]string{"events", "list", "--page", "999"}, cli.ExitFailed, `page "999"`},
		{[]string{"events", "tail", "--page", "999"}, cli.ExitFailed, `page "999"`},
		{[]string{"events", "tail", "--type", ""}, cli.ExitUsage, "is empty"},
		{[]string{"events", "export", "--page", "999"}, cli.ExitFailed, `page "999"`},
		{[]string{"deadletters", "list", "--projection", ""}, cli.ExitUsage, "is empty"},
		{[]string{"hooks", "redrive", "crm"}, cli.ExitUsage, "--all"},
		{[]string{"hooks", "redrive", "crm", "7", "--all"}, cli.ExitUsage, "--all"},
	} {
		code, out, stderr := r.command(t, c.args...)
		require.Equal(t, c.code, code, "%q: %s", c.args, stderr)
		require.Contains(t, stderr, c.has, "%q", c.args)
		require.Empty(t, out, "%q", c.args)
	}
	for path, has := range map[string]string{
		"events?company=nobody": "there is no company", "events?company=": "company has an empty value",
		"events?pages=7000": "did you mean page?",
		"events?page=":      "page has an empty value", "pages?company=": "company has an empty value",
		"pages?page=7000": "there is no parameter", "doctor?page=": "page has an empty value",
		"events?page=999": "nothing is known of page", "doctor?pages=7000": "did you mean page?",
	} {
		err := r.do(t.Context(), http.MethodGet, "/api/v1/"+path, nil, nil, nil)
		var p api.Problem
		require.True(t, asProblem(err, &p), "%s: %v", path, err)
		require.Equal(t, http.StatusBadRequest, p.Status, path)
		require.Contains(t, p.Detail, has, path)
	}
	require.Equal(t, last, lastSeq(t, r), "nothing was done")
	var list api.List[consumers.Consumer]
	require.NoError(t, r.do(t.Context(), http.MethodGet, "/api/v1/consumers", nil, nil, &list))
	require.Empty(t, list.Items)

	// What is said is done, also about a page whose first event was stored just now.
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), message("901", "31", "m_1", "x", 1790000000000)))
	for _, args := range [][]string{
		{"events", "list", "--page", "901"},
		{"consumers", "add", "every", "--all"},
		{"consumers", "add", "one", "--pages", "901"},
		{"consumers", "add", "firm", "--company", "acme"},
		{"pages", "check", "--all"},
	} {
		code, _, stderr := r.command(t, args...)
		require.Equal(t, cli.ExitOK, code, "%q: %s", args, stderr)
	}
	t.Setenv("PAGESTREAM_EVENTS_PAGE", "")
	code, out, stderr := r.command(t, "events", "export")
	require.Equal(t, cli.ExitUsage, code)
	require.Contains(t, stderr, "PAGESTREAM_EVENTS_PAGE is empty")
	require.Empty(t, out)
}

// TestHooksFileMustSayAll checks that a hooks file without a choice of pages is refused at start, with
// what to write, and that a page that does not exist is shown.
func TestHooksFileMustSayAll(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	cfg.Hooks.File = filepath.Join(t.TempDir(), "hooks.yaml")
	write := func(pages string) {
		file := fmt.Sprintf("- name: crm\n  url: http://127.0.0.1:1/\n  secrets: [%s]\n%s", hooks.NewSecret(), pages)
		require.NoError(t, os.WriteFile(cfg.Hooks.File, []byte(file), 0o600))
	}
	for _, pages := range []string{"", "  pages: []\n", "  pages:\n", "  pages: [\"\"]\n", "  all: false\n"} {
		write(pages)
		p := server.New(server.Options{Config: cfg})
		err := p.Run(t.Context())
		require.NoError(t, p.Close(t.Context()))
		require.ErrorIs(t, err, hooks.ErrOptions, pages)
		require.ErrorContains(t, err, cfg.Hooks.File)
		require.ErrorContains(t, err, `endpoint "crm"`)
	}
	write("  pages: [\"999\"]\n")
	r := start(t, cfg)
	_, out, _ := r.command(t, "hooks", "list")
	require.Contains(t, out, "there is no page 999")
}
