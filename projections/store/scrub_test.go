package store_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/projections/store"
)

// TestScrub checks that the bytes of deleted and changed rows are gone from the file, that all other rows are
// kept, and that a View which began before keeps its state.
func TestScrub(t *testing.T) {
	path := filepath.Join(t.TempDir(), "model.db")
	s, err := store.Open(path, store.Options{})
	require.NoError(t, err)
	key := func(i int) []byte { return fmt.Appendf(nil, "key-%06d", i) }
	put := func(value string, step int) {
		t.Helper()
		require.NoError(t, s.Update(func(tx *store.Tx) error {
			for i := 0; i < 3000; i += step {
				if err := tx.Bucket("b").Put(key(i), []byte(value)); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	onDisk := func(text string) bool {
		t.Helper()
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		return bytes.Contains(b, []byte(text))
	}
	put(strings.Repeat("secret ", 20), 1)
	put("large: secret "+strings.Repeat("x", 20000), 500)
	begun, end := make(chan struct{}), make(chan struct{})
	seen := make(chan error, 1)
	go func() {
		seen <- s.View(func(tx *store.Tx) error {
			close(begun)
			<-end
			if !bytes.HasPrefix(tx.Bucket("b").Get(key(1)), []byte("secret")) {
				return fmt.Errorf("the view changed")
			}
			return nil
		})
	}()
	<-begun
	put("changed", 2)
	require.NoError(t, s.Update(func(tx *store.Tx) error {
		for i := 1; i < 3000; i += 2 {
			if err := tx.Bucket("b").Delete(key(i)); err != nil {
				return err
			}
		}
		return nil
	}))
	assert.True(t, onDisk("secret"), "deleted bytes stay in the file")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, s.Scrub(ctx), context.DeadlineExceeded, "a view needs the old pages")
	close(end)
	require.NoError(t, <-seen)
	require.NoError(t, s.Scrub(t.Context()))
	assert.False(t, onDisk("secret"))
	require.NoError(t, s.Scrub(t.Context()), "again")

	check := func() {
		t.Helper()
		require.NoError(t, s.Verify())
		require.NoError(t, s.View(func(tx *store.Tx) error {
			assert.Equal(t, 1500, tx.Bucket("b").Len())
			assert.Equal(t, "changed", string(tx.Bucket("b").Get(key(2))))
			return nil
		}))
	}
	check()
	put("again", 1)
	put("changed", 2)
	require.NoError(t, s.Scrub(t.Context()))
	require.NoError(t, s.Close())
	require.ErrorIs(t, s.Scrub(t.Context()), store.ErrClosed)
	s, err = store.Open(path, store.Options{})
	require.NoError(t, err)
	assert.Empty(t, s.Recreated())
	require.NoError(t, s.Verify())
	require.NoError(t, s.Close())
}
