package pages_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/projections/pages"
)

func TestDay(t *testing.T) {
	f := newFixture(t)
	at := monday.Add(10*time.Hour + 20*time.Minute)
	f.receive(at, 6)
	f.receive(at.AddDate(0, 0, 7), 2)
	f.receive(at.AddDate(0, 0, 14), 5)
	f.receive(at.AddDate(0, 0, 14).Add(time.Hour), 3)

	now := at.AddDate(0, 0, 14).Add(time.Hour + 30*time.Minute)
	seen := 0
	require.NoError(t, pages.EachDay(f.st, now, func(p pages.Page, d pages.Day) error {
		seen++
		assert.Equal(t, page, p.ID)
		running, before := d[pages.DayHours-1], d[pages.DayHours-2]
		assert.Equal(t, now.Truncate(time.Hour), running.Start)
		assert.Equal(t, uint32(3), running.Events)
		assert.Zero(t, running.Usual, "the earlier weeks had no events in that hour")
		assert.Equal(t, uint32(5), before.Events)
		assert.InDelta(t, 4, before.Usual, 1e-9, "the mean of 6 and 2")
		assert.Zero(t, d[0].Events)
		one, err := pages.ReadDay(f.st, p, now)
		assert.Equal(t, d, one)
		return err
	}))
	assert.Equal(t, 1, seen)

	// A page of less than a week has no usual hour.
	f = newFixture(t)
	f.receive(at, 4)
	p := f.page(page)
	d, err := pages.ReadDay(f.st, p, at)
	require.NoError(t, err)
	assert.Equal(t, pages.Hour{Start: at.Truncate(time.Hour), Events: 4}, d[pages.DayHours-1])
}
