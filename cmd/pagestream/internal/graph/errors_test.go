package graph_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
)

// The message is the same for all codes, and misleading, so that a decision based on
// the text would fail the test.
func TestErrorTable(t *testing.T) {
	for _, c := range []struct {
		status, code, sub int
		class             meta.Class
		tries             int // attempts of a call that may be repeated
		sends             int // attempts of a call that must not be repeated
	}{
		{400, 190, 0, meta.TokenDead, 1, 1},
		{400, 190, 458, meta.TokenDead, 1, 1},
		{401, 190, 459, meta.TokenDead, 1, 1},
		{400, 190, 460, meta.TokenDead, 1, 1},
		{400, 190, 463, meta.TokenDead, 1, 1},
		{400, 190, 464, meta.TokenDead, 1, 1},
		{400, 190, 467, meta.TokenDead, 1, 1},
		{400, 190, 490, meta.TokenDead, 1, 1},
		{400, 190, 492, meta.TokenDead, 1, 1},
		{400, 190, 12345, meta.TokenDead, 1, 1},
		{500, 190, 460, meta.TokenDead, 1, 1},
		{400, 102, 0, meta.TokenDead, 1, 1},
		{400, 104, 0, meta.TokenDead, 1, 1},
		{403, 3, 0, meta.Permission, 1, 1},
		{403, 10, 0, meta.Permission, 1, 1},
		{403, 200, 0, meta.Permission, 1, 1},
		{403, 210, 460, meta.Permission, 1, 1},
		{403, 299, 0, meta.Permission, 1, 1},
		{400, 4, 0, meta.Throttled, 4, 4},
		{400, 17, 0, meta.Throttled, 4, 4},
		{400, 32, 0, meta.Throttled, 4, 4},
		{400, 613, 0, meta.Throttled, 4, 4},
		{400, 80001, 0, meta.Throttled, 4, 4},
		{400, 80002, 0, meta.Throttled, 4, 4},
		{400, 80006, 0, meta.Throttled, 4, 4},
		{500, 80006, 0, meta.Throttled, 4, 4},
		{429, 0, 0, meta.Throttled, 4, 4},
		{400, 100, 33, meta.Gone, 1, 1},
		{404, 803, 0, meta.Gone, 1, 1},
		{400, 100, 0, meta.Parameter, 1, 1},
		{400, 100, 2018001, meta.PersonUnreachable, 1, 1},
		{400, 551, 0, meta.PersonUnreachable, 1, 1},
		{400, 551, 1545041, meta.PersonUnreachable, 1, 1},
		{403, 200, 1545041, meta.PersonUnreachable, 1, 1},
		{403, 10, 2018108, meta.PersonUnreachable, 1, 1},
		{400, 230, 0, meta.PersonUnreachable, 1, 1},
		{400, 2018218, 0, meta.NoProfile, 1, 1},
		{400, 100, 2018218, meta.NoProfile, 1, 1},
		{403, 10, 2018278, meta.WindowClosed, 1, 1},
		{403, 10, 2534022, meta.WindowClosed, 1, 1},
		{403, 10, 1893063, meta.Restricted, 1, 1},
		{400, 368, 0, meta.Restricted, 1, 1},
		{500, 1, 0, meta.Transient, 4, 1},
		{400, 1, 0, meta.Transient, 4, 1},
		{400, 2, 0, meta.Transient, 4, 1},
		{503, 0, 0, meta.Transient, 4, 1},
		{400, 4711, 0, meta.Unclassified, 1, 1},
	} {
		for _, status := range []int{c.status, 200} { // an error in the body counts, whatever the status
			if c.code == 0 && status == 200 {
				continue
			}
			t.Run(fmt.Sprintf("%d %d %d", status, c.code, c.sub), func(t *testing.T) {
				a := answer{status, fmt.Sprintf(
					`{"error":{"message":"(#190) rate limit, permission, window","type":"OAuthException",`+
						`"code":%d,"error_subcode":%d,"fbtrace_id":"EJplcsCHuLu"}}`,
					c.code, c.sub,
				)}
				s := start(t, a)
				err := s.client().Subscribe(t.Context(), page, token, []string{"messages"})
				refusal := meta.Refused(err)
				require.NotNil(t, refusal, err)
				code, sub, words := meta.Explain(err)
				assert.Equal(t, []int{status, c.code, c.sub}, []int{refusal.Status, code, sub})
				assert.Equal(t, "(#190) rate limit, permission, window", words)
				assert.Equal(t, "EJplcsCHuLu", refusal.FBTrace)
				assert.Equal(t, c.class, refusal.Class())
				assert.Equal(t, c.class == meta.TokenDead, errors.Is(err, meta.ErrTokenDead))
				assert.Len(t, s.requests, c.tries)
				assert.Equal(t, c.tries > 1, refusal.Temporary())
				s = start(t, a)
				_, err = s.client().Send(t.Context(), page, token, outgoing)
				require.NotNil(t, meta.Refused(err), err)
				assert.Len(t, s.requests, c.sends)
			})
		}
	}
	// Graph's flag makes the error temporary, but does not repeat the call.
	s := start(t, answer{400, `{"error":{"code":4711,"is_transient":true}}`})
	refusal := meta.Refused(s.client().Subscribe(t.Context(), page, token, []string{"messages"}))
	require.NotNil(t, refusal)
	assert.True(t, refusal.Temporary())
	assert.Len(t, s.requests, 1)
}
