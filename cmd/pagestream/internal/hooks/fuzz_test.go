package hooks_test

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/hooks"
)

// FuzzFile checks that a file of endpoints is refused, without a word of it, or gives endpoints that
// are complete: none without a receiver, a name of its own, a choice of pages and a secret that can't
// be guessed.
func FuzzFile(f *testing.F) {
	good := "- {name: crm, url: https://crm.example/in, secrets: [" + hooks.NewSecret() + "], all: true}\n"
	f.Add(good)
	f.Add(good + good)
	f.Add("- {name: crm, url: https://u:hunter2@crm.example/in, secrets: [whsec_hunter2], pages: [\"\"]}\n")
	f.Add(strings.Replace(good, "all: true", "company: Acme", 1))
	f.Add(strings.Replace(good, "all: true", "company: ''", 1))
	f.Add("- &a {name: *a}\n")
	f.Add("hunter2: [}")
	f.Add("- {name: crm, url: 'http://', secrets: [], all: true, types: []}\n")
	path := filepath.Join(f.TempDir(), "hooks.yaml")
	f.Fuzz(func(t *testing.T, text string) {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		endpoints, err := hooks.ReadFile(path)
		if err != nil {
			require.ErrorIs(t, err, hooks.ErrFile)
			require.Equal(t, hooksFileError(path), err.Error())
			return
		}
		if err := hooks.Check(endpoints); err != nil {
			for _, e := range endpoints {
				for _, secret := range e.Secrets {
					if strings.HasPrefix(secret, "whsec_") && len(secret) > len("whsec_")+8 {
						require.NotContains(t, err.Error(), secret[len("whsec_"):])
					}
				}
			}
			return
		}
		names := map[string]bool{}
		for _, e := range endpoints {
			require.False(t, names[e.Name] || e.Name == "", e.Name)
			names[e.Name] = true
			u, err := url.Parse(e.URL)
			require.NoError(t, err)
			require.NotEmpty(t, u.Host)
			require.Nil(t, u.User)
			require.NotEqual(t, e.All, len(e.Pages) > 0 || e.Company != "", "all pages or some")
			require.NotEmpty(t, e.Secrets)
			for _, secret := range e.Secrets {
				key, err := hooks.ParseSecret(secret)
				require.NoError(t, err)
				require.GreaterOrEqual(t, len(key), 24)
			}
		}
	})
}

// hooksFileError is the error for each file that is not a list of endpoints.
func hooksFileError(path string) string {
	return fmt.Sprintf("%v: %s is not a list of endpoints with name, url, secrets, pages, company or all, types, "+
		"timeout and from; see: pagestream config example", hooks.ErrFile, path)
}
