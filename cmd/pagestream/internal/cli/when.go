package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// parseTime parses a time, or a duration before now, as [parseWhen] does. It returns the zero time for an empty string.
func parseTime(s string, now time.Time) (time.Time, error) {
	t, ok := parseWhen(s, now, -1)
	if !ok {
		return t, fmt.Errorf("%w: %q is neither a time, for example 2026-11-23T10:00:00Z or 2026-11-23, "+
			"nor a duration until now, for example 2h or 7d", errUsage, s)
	}
	return t, nil
}

// parseExpiry parses a time, or a duration from now on, as [parseWhen] does. It returns the zero time for an empty
// string.
func parseExpiry(s string, now time.Time) (time.Time, error) {
	t, ok := parseWhen(s, now, 1)
	if !ok || s != "" && t.Equal(now) {
		return t, fmt.Errorf("%w: --expires %q is neither a duration, for example 90d or 12h, nor a time, for example "+
			"2027-01-01T00:00:00Z", errUsage, s)
	}
	return t, nil
}

// parseWhen parses a time in the form of RFC 3339, a date, which begins at midnight UTC, or a duration, which may be in
// days, before now (-1) or from now on (1). It returns the zero time for an empty string, and false for any other text.
func parseWhen(s string, now time.Time, direction int) (time.Time, bool) {
	if s == "" {
		return time.Time{}, true
	}
	if days, found := strings.CutSuffix(s, "d"); found {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return now.AddDate(0, 0, direction*int(n)), true
		}
	}
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(time.Duration(direction) * d), d >= 0
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}
