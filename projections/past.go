package projections

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// pastPattern is the pattern of the file names of [Past].
const pastPattern = "past-*.db"

// PastOptions select the events to fold. JS and Dir are required.
type PastOptions struct {
	JS jetstream.JetStream
	// Stream is the stream's name.
	Stream string
	// Dir is the directory of the scratch file.
	Dir string
	// Filters select events by subject, Keep by their content; nil selects all.
	Filters []string
	Keep    func(streams.Stored) bool
	// Seq is the last sequence to fold. Events that were stored after Time are left
	// out. Zero means no bound.
	Seq  uint64
	Time time.Time
	// Dedup is as in [RunnerOptions].
	Dedup Index
}

// Past folds the events up to a point into a scratch file, calls read with the file
// and with the last sequence folded (0 for none), and removes the file. Events that
// were erased since are not in it. It takes as long as it takes to read the
// filtered events.
func Past(ctx context.Context, p Projection, o PastOptions, read func(v Viewer, seq uint64) error) (err error) {
	f, err := os.CreateTemp(o.Dir, pastPattern)
	if err != nil {
		return fmt.Errorf("create scratch file: %w", err)
	}
	path := f.Name()
	if err := errors.Join(f.Close(), os.Remove(path)); err != nil {
		return fmt.Errorf("create scratch file: %w", err)
	}
	s, err := store.Open(path, store.Options{NoSync: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close(), removeFile(path)) }()
	a := &applier{projection: p, dedup: o.Dedup, part: store.PartSize}
	to := func(_ context.Context, do func(*store.Store) (store.Meta, error)) error {
		_, err := do(s)
		return err
	}
	var last uint64
	options := streams.ReadOptions{Stream: o.Stream, To: o.Seq, Filters: o.Filters}
	_, err = streams.Replay(ctx, o.JS, options, func(list []streams.Replayed) error {
		var batch []*streams.Replayed
		for _, e := range list {
			if e.Malformed != nil || o.Keep != nil && !o.Keep(e.Stored) || !o.Time.IsZero() && e.At.After(o.Time) {
				continue
			}
			batch = append(batch, &streams.Replayed{Stored: e.Stored})
			last = e.Seq
		}
		if len(batch) == 0 {
			return nil
		}
		return a.apply(ctx, to, 0, batch)
	})
	if err != nil {
		return fmt.Errorf("fold past events for %s: %w", p.Name(), err)
	}
	return read(s, last)
}

// RemovePast removes the scratch files of [Past] that a killed process left in dir.
func RemovePast(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, pastPattern))
	for _, path := range left {
		err = errors.Join(err, removeFile(path))
	}
	return err
}
