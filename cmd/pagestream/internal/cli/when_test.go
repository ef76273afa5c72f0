package cli

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTimesOfACommand(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 26, 8, 0, 0, 0, time.UTC)
	for text, want := range map[string][2]time.Time{ // before now, and from now on
		"":                     {},
		"2h":                   {now.Add(-2 * time.Hour), now.Add(2 * time.Hour)},
		"7d":                   {now.AddDate(0, 0, -7), now.AddDate(0, 0, 7)},
		"2026-11-23T10:00:00Z": {time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC), time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)},
		"2026-11-23":           {time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC), time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)},
	} {
		before, err := parseTime(text, now)
		require.NoError(t, err, text)
		assert.True(t, want[0].Equal(before), "%s: %s", text, before)
		after, err := parseExpiry(text, now)
		require.NoError(t, err, text)
		assert.True(t, want[1].Equal(after), "%s: %s", text, after)
	}
	for _, text := range []string{"yesterday", "-2h", "-1d", "d", "2026-13-01"} {
		_, err := parseTime(text, now)
		require.ErrorIs(t, err, errUsage, text)
		_, err = parseExpiry(text, now)
		require.ErrorIs(t, err, errUsage, text)
	}
	for _, text := range []string{"0s", "0d"} {
		_, err := parseExpiry(text, now)
		require.ErrorIs(t, err, errUsage, text)
	}
}
