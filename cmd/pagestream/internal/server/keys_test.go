package server_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/config"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// TestKeysReachOtherNodes checks that a rotated key and the removal of an old one are taken up without a restart: by a
// node that has the same key file, and by one with a copy, as soon as that is replaced.
func TestKeysReachOtherNodes(t *testing.T) {
	t.Parallel()
	nats := streamstest.RunCluster(t, 1)
	g, cfg := newFakeMeta(t, 2)
	cfg.NATS.URL, cfg.NATS.AcceptLoss = config.Servers(nats.URL()), true
	node := func(keys string) *running {
		other := cfg
		other.Data.Dir, other.Keys.File = t.TempDir(), keys
		other.HTTP.TokenFile = filepath.Join(other.Data.Dir, "admin.token")
		return start(t, other)
	}
	first := start(t, cfg)
	first.connectAll(t, g)
	shares := node(cfg.Keys.File)
	copied := filepath.Join(t.TempDir(), "keys.json")
	copyKeys := func() {
		t.Helper()
		text, err := os.ReadFile(cfg.Keys.File)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(copied, text, 0o600))
	}
	copyKeys()
	has := node(copied)
	old := first.Keys().Primary()
	works := func(r *running) {
		t.Helper()
		streamstest.Eventually(t, streamstest.Limit, func() error {
			if code, stdout, stderr := r.command(t, "pages", "check", "--all"); code != cli.ExitOK {
				return fmt.Errorf("%s%s", stdout, stderr)
			}
			return nil
		})
	}
	hasKeys := func(r *running) {
		t.Helper()
		streamstest.Eventually(t, streamstest.Limit, func() error {
			if got, want := r.Keys().String(), first.Keys().String(); got != want {
				return fmt.Errorf("it has %s, not %s", got, want)
			}
			return nil
		})
	}
	for _, args := range [][]string{{"keys", "rotate"}, {"keys", "retire", old}} {
		code, _, stderr := first.command(t, args...)
		require.Equal(t, cli.ExitOK, code, stderr)
		works(shares)
		hasKeys(shares)
		require.NotEqual(t, first.Keys().String(), has.Keys().String(), "keys are in files only")
		copyKeys()
		hasKeys(has)
		works(has)
	}
	has.connectAll(t, g)
	works(first)
}
