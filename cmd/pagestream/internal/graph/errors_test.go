package graph_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
)

var kinds = []error{
	graph.ErrTokenInvalid, graph.ErrPermission, graph.ErrThrottled, graph.ErrNotFound, graph.ErrTransient, graph.ErrParameter,
	graph.ErrWindow, graph.ErrPerson, graph.ErrNoProfile, graph.ErrRestricted,
}

// The words are the same for all and lie, so that nothing can be decided by
// them.
func TestErrorTable(t *testing.T) {
	for _, c := range []struct {
		status, code, sub int
		kind              error
		cause             string
		tries             int // of a call that may be repeated
		sends             int // of one that may not
	}{
		{400, 190, 0, graph.ErrTokenInvalid, "invalid", 1, 1},
		{400, 190, 458, graph.ErrTokenInvalid, "app_removed", 1, 1},
		{401, 190, 459, graph.ErrTokenInvalid, "checkpoint", 1, 1},
		{400, 190, 460, graph.ErrTokenInvalid, "password_changed", 1, 1},
		{400, 190, 463, graph.ErrTokenInvalid, "expired", 1, 1},
		{400, 190, 464, graph.ErrTokenInvalid, "unconfirmed_user", 1, 1},
		{400, 190, 467, graph.ErrTokenInvalid, "logged_out", 1, 1},
		{400, 190, 490, graph.ErrTokenInvalid, "checkpoint", 1, 1},
		{400, 190, 492, graph.ErrTokenInvalid, "role_lost", 1, 1},
		{400, 190, 12345, graph.ErrTokenInvalid, "invalid", 1, 1},
		{500, 190, 460, graph.ErrTokenInvalid, "password_changed", 1, 1},
		{400, 102, 0, graph.ErrTokenInvalid, "invalid", 1, 1},
		{403, 3, 0, graph.ErrPermission, "", 1, 1},
		{403, 10, 0, graph.ErrPermission, "", 1, 1},
		{403, 200, 0, graph.ErrPermission, "", 1, 1},
		{403, 210, 460, graph.ErrPermission, "", 1, 1},
		{403, 299, 0, graph.ErrPermission, "", 1, 1},
		{400, 4, 0, graph.ErrThrottled, "", 4, 4},
		{400, 17, 0, graph.ErrThrottled, "", 4, 4},
		{400, 32, 0, graph.ErrThrottled, "", 4, 4},
		{400, 613, 0, graph.ErrThrottled, "", 4, 4},
		{400, 80001, 0, graph.ErrThrottled, "", 4, 4},
		{400, 80002, 0, graph.ErrThrottled, "", 4, 4},
		{400, 80006, 0, graph.ErrThrottled, "", 4, 4},
		{500, 80006, 0, graph.ErrThrottled, "", 4, 4},
		{429, 0, 0, graph.ErrThrottled, "", 4, 4},
		{400, 100, 33, graph.ErrNotFound, "", 1, 1},
		{404, 803, 0, graph.ErrNotFound, "", 1, 1},
		{400, 100, 0, graph.ErrParameter, "", 1, 1},
		{400, 100, 2018001, graph.ErrPerson, "", 1, 1},
		{400, 551, 0, graph.ErrPerson, "", 1, 1},
		{400, 551, 1545041, graph.ErrPerson, "", 1, 1},
		{403, 200, 1545041, graph.ErrPerson, "", 1, 1},
		{403, 10, 2018108, graph.ErrPerson, "", 1, 1},
		{400, 230, 0, graph.ErrPerson, "", 1, 1},
		{400, 2018218, 0, graph.ErrNoProfile, "", 1, 1},
		{400, 100, 2018218, graph.ErrNoProfile, "", 1, 1},
		{403, 10, 2018278, graph.ErrWindow, "", 1, 1},
		{403, 10, 2534022, graph.ErrWindow, "", 1, 1},
		{403, 10, 1893063, graph.ErrRestricted, "", 1, 1},
		{400, 368, 0, graph.ErrRestricted, "", 1, 1},
		{500, 1, 0, graph.ErrTransient, "", 4, 1},
		{400, 1, 0, graph.ErrTransient, "", 4, 1},
		{400, 2, 0, graph.ErrTransient, "", 4, 1},
		{503, 0, 0, graph.ErrTransient, "", 4, 1},
		{400, 4711, 0, nil, "", 1, 1},
	} {
		for _, status := range []int{c.status, 200} { // a body with an error is one, whatever the status
			if c.code == 0 && status == 200 {
				continue
			}
			t.Run(fmt.Sprintf("%d %d %d", status, c.code, c.sub), func(t *testing.T) {
				a := answer{status, fmt.Sprintf(
					`{"error":{"message":"(#190) rate limit, permission, window","type":"OAuthException","code":%d,"error_subcode":%d,"fbtrace_id":"EJplcsCHuLu"}}`,
					c.code, c.sub,
				)}
				s := start(t, a)
				err := s.client().Subscribe(t.Context(), page, token, []string{"messages"})
				var refusal *graph.Error
				require.ErrorAs(t, err, &refusal)
				code, sub := refusal.Codes()
				assert.Equal(t, []int{status, c.code, c.sub}, []int{refusal.Status, code, sub})
				assert.Equal(t, "EJplcsCHuLu", refusal.FBTrace)
				assert.Equal(t, c.cause, refusal.TokenCause())
				assert.Len(t, s.requests, c.tries)
				assert.Equal(t, c.tries > 1, refusal.Temporary())
				for _, k := range kinds {
					want := k == c.kind //nolint:errorlint // which of the kinds it is
					assert.Equal(t, want, errors.Is(err, k), "%v is %v", err, k)
				}
				s = start(t, a)
				_, err = s.client().Send(t.Context(), page, token, outgoing)
				require.ErrorAs(t, err, &refusal)
				assert.Len(t, s.requests, c.sends)
			})
		}
	}
	assert.ErrorIs(t, &graph.Error{Status: 400, Code: 4711, Transient: true}, graph.ErrTransient)
}
