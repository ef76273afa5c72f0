package dev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/export"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/server"
	"github.com/pagestream/pagestream/config"
	"github.com/pagestream/pagestream/domain/messenger"
	"github.com/pagestream/pagestream/internal/disk"
	"github.com/pagestream/pagestream/streams"
)

// The rhythm of a page that falls silent. A page is silent compared with its own rhythm, and for no
// longer than the server has listened to it, so that only a busy page is silent within a minute.
const (
	// pastDays is how far its history goes back: more than two weeks, so that each hour of the week has
	// a rate of its own. The history ends pastGap before the start.
	pastDays = 15
	pastGap  = 3 * time.Hour
	// pastEvery is the time between two events, busyEvery that at the hour of the week of the start.
	pastEvery = 30 * time.Minute
	busyEvery = 1500 * time.Millisecond
	// busyAhead is how long the busy time lasts at least after the start.
	busyAhead = 10 * time.Minute
)

// pastFile is the name of the file with the events of the past until they are imported.
const pastFile = "past.ndjson"

// importPast gives a new installation the history of the pages that fall silent, as if it had been moved
// here: it writes their events to an export and imports it. An installation that has data is left as it
// is, unless an earlier import was interrupted.
func importPast(ctx context.Context, dir string, cfg config.Config, m *fakeMeta, o server.Options) error {
	file := filepath.Join(dir, pastFile)
	_, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(cfg.Data.Dir); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		lines, err := past(m.graph, m.seed, time.Now())
		if err != nil {
			return err
		}
		if err := disk.Replace(file, lines); err != nil {
			return fmt.Errorf("write past events: %w", err)
		}
	} else if err != nil {
		return fmt.Errorf("find past events: %w", err)
	}
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("open past events: %w", err)
	}
	defer f.Close()
	err = server.Offline(ctx, o, func(off *operate.Offline) error {
		_, err := off.Import(ctx, f, 0, nil)
		return err
	})
	if err != nil {
		return fmt.Errorf("import past events: %w", err)
	}
	return os.Remove(file)
}

// past returns the export of an installation that received the silent pages until pastGap before now.
func past(g *fakegraph.Graph, seed uint64, now time.Time) ([]byte, error) {
	times := pastTimes(now)
	var out bytes.Buffer
	seq := uint64(0)
	for _, s := range Shops() {
		if s.Trouble != Silent {
			continue
		}
		bodies, err := g.Past(appID, s.ID, seed, times)
		if err != nil {
			return nil, err
		}
		for i, body := range bodies {
			for _, e := range messenger.Split(body, messenger.Options{App: app, AppID: appID}).Events {
				seq++
				line, err := export.Event(streams.Stored{Event: e, Seq: seq, At: times[i]})
				if err != nil {
					return nil, fmt.Errorf("encode past event: %w", err)
				}
				out.Write(line)
				out.WriteByte('\n')
			}
		}
	}
	return out.Bytes(), nil
}

// pastTimes returns the times of a silent page's events, in order: a few through all days, and very many
// at the hour of the week of now.
func pastTimes(now time.Time) []time.Time {
	var times []time.Time
	every := func(step time.Duration, from, to time.Time) {
		for at := from; at.Before(to); at = at.Add(step) {
			times = append(times, at)
		}
	}
	now = now.UTC()
	every(pastEvery, now.AddDate(0, 0, -pastDays), now.Add(-pastGap))
	from, to := now.Truncate(time.Hour), now.Add(busyAhead).Truncate(time.Hour).Add(time.Hour)
	for _, days := range []int{-14, -7} {
		every(busyEvery, from.AddDate(0, 0, days), to.AddDate(0, 0, days))
	}
	slices.SortFunc(times, time.Time.Compare)
	return times
}
