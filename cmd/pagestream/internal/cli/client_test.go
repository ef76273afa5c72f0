package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestServerWithoutAScheme checks that the token is sent unencrypted to another machine only if that was written.
func TestServerWithoutAScheme(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(token, bytes.Repeat([]byte("a"), 64), 0o600))
	for given, base := range map[string]string{
		"127.0.0.1:8081": "http://127.0.0.1:8081", "localhost:8081": "http://localhost:8081", "[::1]:8081/": "http://[::1]:8081",
		"http://10.0.0.5:8081": "http://10.0.0.5:8081", "https://ps.example.com/": "https://ps.example.com",
	} {
		c, err := NewClient(given, token)
		require.NoError(t, err, given)
		assert.Equal(t, base, c.base)
	}
	for _, given := range []string{
		"10.0.0.5:8081", "ps.example.com:8081", "ps.example.com", "127.0.0.1.example.com:8081", "127.0.0.1@example.com:8081",
		"0.0.0.0:8081", "[2001:db8::1]:8081",
	} {
		_, err := NewClient(given, token)
		require.Error(t, err, given)
		require.ErrorContains(t, err, "https://"+given)
		require.ErrorContains(t, err, "http://"+given)
	}
}
