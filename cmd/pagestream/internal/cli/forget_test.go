package cli

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestForgetGoesOn checks that a page which can't be forgotten does not keep the others, and that each error is shown.
func TestForgetGoesOn(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/pages", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"items":[{"id":"1","test":true},{"id":"2","test":true},{"id":"3"},{"id":"4","test":true}]}`)
	})
	mux.HandleFunc("POST /api/v1/pages/{page}/forget", func(w http.ResponseWriter, r *http.Request) {
		page := r.PathValue("page")
		if page != "2" {
			w.WriteHeader(http.StatusConflict)
			fmt.Fprintf(w, `{"title":"Conflict","detail":"page %s changed meanwhile"}`, page)
			return
		}
		fmt.Fprintf(w, `{"page":%q}`, page)
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()
	token := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(token, bytes.Repeat([]byte("a"), 64), 0o600))
	var out, errs bytes.Buffer
	args := []string{"--server", srv.URL, "--token-file", token, "pages", "forget", "--tests"}
	assert.Equal(t, ExitFailed, Main(t.Context(), args, nil, &out, &errs))
	assert.Contains(t, out.String(), "page 2 ")
	assert.Contains(t, errs.String(), "page 1 changed meanwhile")
	assert.Contains(t, errs.String(), "page 4 changed meanwhile")
	assert.NotContains(t, out.String()+errs.String(), "page 3 ")
}
