package meta_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
)

func TestAccessDoesNotPrintItsToken(t *testing.T) {
	const token = "EAAsecretsecretsecret"
	a := meta.Access{Page: "104", App: "shop", Token: token}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		assert.NotContains(t, fmt.Sprintf(verb, a), token)
	}
	b, err := json.Marshal(a)
	require.NoError(t, err)
	assert.NotContains(t, string(b), token)
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("called", "access", a)
	assert.NotContains(t, log.String(), token)
}
