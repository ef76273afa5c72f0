package hooks_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/hooks"
	"github.com/pagestream/pagestream/domain"
)

// file writes a file of endpoints.
func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hooks.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// TestInvalidFileErrorHasNoContents checks that the error for an invalid file contains
// no text of the file.
func TestInvalidFileErrorHasNoContents(t *testing.T) {
	for _, text := range []string{"- name: hunter2\n  company: \"\"\n", "- name: crm\n  company: [hunter2]\n", "hunter2", "- nmae: hunter2\n", "- name: [hunter2]\n", "a: {b: hunter2}"} {
		_, err := hooks.ReadFile(file(t, text))
		require.ErrorIs(t, err, hooks.ErrFile)
		assert.NotContains(t, err.Error(), "hunter2")
	}
	_, err := hooks.ReadFile("/nowhere/at-all")
	require.Error(t, err)
	assert.ErrorIs(t, err, fs.ErrNotExist)
}

func TestReadFile(t *testing.T) {
	got, err := hooks.ReadFile(file(t, `
- name: crm
  url: https://crm.example/in
  secrets: [whsec_a, whsec_b]
  pages: ["700", "800"]
  types: [message.received]
  timeout: 5s
  from: 12
- name: other
  url: http://localhost:1/
  all: true
`))
	require.NoError(t, err)
	assert.Equal(t, []hooks.Endpoint{
		{
			Name: "crm", URL: "https://crm.example/in", Secrets: []string{"whsec_a", "whsec_b"},
			Pages: []domain.PageID{"700", "800"}, Types: []domain.Type{domain.MessageReceived},
			Timeout: 5 * time.Second, From: 12,
		},
		{Name: "other", URL: "http://localhost:1/", All: true},
	}, got)

	got, err = hooks.ReadFile(file(t, ""))
	require.NoError(t, err)
	assert.Empty(t, got)
}

func TestReadFileLimitsTheSize(t *testing.T) {
	const limit = 1 << 20
	_, err := hooks.ReadFile(file(t, strings.Repeat("#", limit)))
	require.NoError(t, err)
	_, err = hooks.ReadFile(file(t, strings.Repeat("#", limit+1)))
	require.ErrorIs(t, err, hooks.ErrFile)
	assert.ErrorContains(t, err, "larger than 1 MiB")
}
