package server_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/config"
)

// TestDeployFiles checks that the settings of the packages are valid, that they use the directories that
// the systemd unit makes, and that the unit allows what the server does.
func TestDeployFiles(t *testing.T) {
	t.Parallel()
	dir := filepath.Join("..", "..", "deploy")
	cfg, err := config.Load(config.Options{File: filepath.Join(dir, "pagestream.yaml")})
	require.NoError(t, err)
	require.NoError(t, cfg.Validate())
	require.ErrorIs(t, cfg.RequireApps(), config.ErrNoApps, "each installation has its own app")
	unit, err := os.ReadFile(filepath.Join(dir, "pagestream.service"))
	require.NoError(t, err)
	setting := func(name string) string {
		for line := range strings.Lines(string(unit)) {
			if value, ok := strings.CutPrefix(line, name+"="); ok {
				return strings.TrimSpace(value)
			}
		}
		return ""
	}
	state := strings.Fields(setting("StateDirectory"))
	for path, in := range map[string]int{
		cfg.Data.Dir: 0, cfg.ProjectionsDir(): 0, cfg.Keys.File: 1, cfg.HTTP.TokenFile: 1, cfg.ReadTokenFile(): 1,
		cfg.ErasuresFile(): 1,
	} {
		assert.True(t, strings.HasPrefix(path+"/", "/var/lib/"+state[in]+"/"), path)
	}
	for name, want := range map[string]string{
		"User": "pagestream", "ProtectSystem": "strict", "NoNewPrivileges": "yes", "StateDirectoryMode": "0700",
		"CapabilityBoundingSet": "", "ExecStart": "/usr/bin/pagestream --config /etc/pagestream/pagestream.yaml serve",
	} {
		assert.Equal(t, want, setting(name), name)
	}
	stop, err := time.ParseDuration(setting("TimeoutStopSec"))
	require.NoError(t, err)
	assert.Less(t, cfg.HTTP.ShutdownTimeout, stop, "the server stops by itself before systemd kills it")
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("there is no systemd-analyze")
	}
	// systemd-analyze looks for the program, which is installed nowhere.
	copied := filepath.Join(t.TempDir(), "pagestream.service")
	require.NoError(t, os.WriteFile(copied,
		[]byte(strings.ReplaceAll(string(unit), "/usr/bin/pagestream", "/bin/true")), 0o600))
	out, err := exec.CommandContext(t.Context(), analyze, "verify", copied).CombinedOutput()
	require.NoError(t, err, "%s", out)
	out, err = exec.CommandContext(t.Context(), analyze, "security", "--offline=true", "--threshold=15", copied).CombinedOutput()
	require.NoError(t, err, "%s", out)
}
