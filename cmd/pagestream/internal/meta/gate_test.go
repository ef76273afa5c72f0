package meta_test

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
)

// tokens gives every page a token, or returns the error, and counts the calls.
type tokens struct {
	err   error
	calls int
}

func (f *tokens) Access(_ context.Context, page domain.PageID) (meta.Access, error) {
	f.calls++
	if f.err != nil {
		return meta.Access{}, fmt.Errorf("page %s: %w", page, f.err)
	}
	return meta.Access{Page: page, Token: "EAAtoken"}, nil
}

func TestGate(t *testing.T) {
	at, source := now, &tokens{}
	g := meta.NewGate(source, func() time.Time { return at })
	access := func(page domain.PageID) error {
		_, err := g.Access(t.Context(), page)
		return err
	}
	require.NoError(t, access("1"))

	err := g.Refused("1", fmt.Errorf("read: %w", &meta.Error{Code: 32, After: 5 * time.Minute}))
	var throttled *meta.ThrottledError
	require.ErrorAs(t, err, &throttled)
	at = at.Add(2 * time.Minute)
	require.ErrorAs(t, access("1"), &throttled)
	assert.Equal(t, meta.ThrottledError{Page: "1", After: 3 * time.Minute}, *throttled)
	assert.Equal(t, 3*time.Minute, meta.RetryAfter(throttled))
	assert.Contains(t, throttled.Error(), "page 1 for 3m0s")
	require.NoError(t, access("2"), "another page is not throttled")
	at = at.Add(3 * time.Minute)
	require.NoError(t, access("1"))

	dead := &meta.Error{Code: 190, Subcode: 460}
	require.ErrorIs(t, g.Refused("1", dead), meta.ErrTokenDead)
	calls := source.calls
	require.ErrorIs(t, access("1"), meta.ErrTokenDead)
	assert.Equal(t, calls, source.calls, "the token is not looked up")
	at = at.Add(meta.DeadTokenWait)
	require.NoError(t, access("1"))

	source.err = meta.ErrNotConnected
	require.ErrorIs(t, access("1"), meta.ErrNotConnected)
	source.err = io.ErrUnexpectedEOF
	require.ErrorIs(t, access("1"), meta.ErrNotConnected, "not looked up for each event")
	at = at.Add(meta.NoTokenWait)
	require.ErrorIs(t, access("1"), io.ErrUnexpectedEOF)

	missing := &meta.Error{Code: 200}
	assert.Equal(t, missing, g.Refused("1", missing), "an answer about one object says nothing about the page")
	source.err = nil
	require.NoError(t, access("1"))
}

func TestTemporary(t *testing.T) {
	for _, err := range []error{io.ErrUnexpectedEOF, &meta.Error{Code: 2}, &meta.Error{Code: 32}} {
		assert.True(t, meta.Temporary(err), err)
	}
	for _, err := range []error{
		nil, &meta.Error{Code: 200}, &meta.Error{Code: 100, Subcode: 33}, &meta.Error{Code: 190},
	} {
		assert.False(t, meta.Temporary(err), err)
	}
}
