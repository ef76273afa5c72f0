// Package journal stores records in files, in order and synced, until they are stored elsewhere.
//
// A [Journal] has one writer. Each group of records is written and synced before Append returns, so what was
// appended survives a power cut. Groups are in segments: files of a fixed size that are written with zeros
// beforehand, because syncing a file that does not grow takes half the time.
package journal

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/pagestream/pagestream/internal/disk"
)

// DefaultSegment is the default size of a segment, in bytes.
const DefaultSegment = 8 << 20

// Errors of a journal.
var (
	// ErrDamaged is returned when bytes of a journal were changed after they had been synced. What follows
	// them can't be trusted.
	ErrDamaged = errors.New("the journal is damaged")
	// ErrSequence is returned when the records to append do not follow the last one.
	ErrSequence = errors.New("the records do not follow the last one of the journal")
	// ErrFailed is returned when a write failed and its bytes could not be removed yet. Append tries to
	// remove them first.
	ErrFailed = errors.New("the journal could not be written")
)

// Record is one record. Its sequence is one more than that of the record before.
type Record struct {
	Seq  uint64
	Data []byte
}

// Options configure a [Journal]. Dir is required.
type Options struct {
	// Dir is the directory of the journal, which is made if it does not exist.
	Dir string
	// Segment is the size of a segment, by default [DefaultSegment]. A larger group gets a larger segment.
	Segment int64
	// Logger discards everything by default.
	Logger *slog.Logger
}

// Journal is an open journal. One process may have it open at a time; the caller sees to that.
type Journal struct {
	opts Options

	// writing is held by what writes files.
	writing sync.Mutex
	file    *os.File // of the last segment; nil before the first Append and after Rotate
	size    int64    // of file
	buf     []byte
	failed  bool // the bytes after the last segment's end may be a group that was not appended
	spare   spare

	mu       sync.Mutex
	segments []*segment // in order
	last     uint64     // the last sequence
	closed   bool
}

// segment is a file of the journal.
type segment struct {
	path        string
	first, last uint64 // last is first-1 while it has no record
	end         int64  // where its last group ends
}

const suffix = ".journal"

// Open opens the journal of a directory. The end of a group that was being written when the process or the
// machine stopped is removed: Append had not returned for it. [ErrDamaged] is returned when anything else
// can't be read.
func Open(o Options) (*Journal, error) {
	o.Segment = cmp.Or(max(o.Segment, 0), DefaultSegment)
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	j := &Journal{opts: o}
	j.spare.path = filepath.Join(o.Dir, "next")
	if err := j.load(); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	return j, nil
}

// load reads the segments that there are.
func (j *Journal) load() error {
	entries, err := os.ReadDir(j.opts.Dir) // sorted by name, so by sequence
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), suffix) {
			continue
		}
		if err := j.add(e.Name(), e == last(entries)); err != nil {
			return err
		}
	}
	return j.loadNext()
}

// add reads a segment, which follows the others. Only the last one may end with a group that was being written.
func (j *Journal) add(file string, last bool) error {
	first, err := strconv.ParseUint(strings.TrimSuffix(file, suffix), 10, 64)
	if err != nil || first == 0 {
		return fmt.Errorf("%s: %w", file, ErrDamaged)
	}
	s := &segment{path: filepath.Join(j.opts.Dir, file), first: first, last: first - 1}
	if len(j.segments) > 0 && first != j.last+1 {
		return fmt.Errorf("%s begins with record %d instead of %d: %w", file, first, j.last+1, ErrDamaged)
	}
	torn, err := s.scan()
	if err != nil {
		return err
	}
	if torn > 0 {
		if !last {
			return fmt.Errorf("%s at byte %d: %w", file, s.end, ErrDamaged)
		}
		j.opts.Logger.Info("the end of the journal was being written when it stopped", "bytes", torn)
		if err := truncate(s.path, s.end); err != nil {
			return err
		}
	}
	j.segments, j.last = append(j.segments, s), s.last
	return nil
}

// loadNext removes the file that was made for the next segment. If it has records after the others, it is a segment:
// groups are written when it has its name, but a disk may lose the name in a power cut, although it has reported it as
// written. Then it gets the name again.
func (j *Journal) loadNext() error {
	b, err := os.ReadFile(j.spare.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	g, _, err := readGroup(b)
	if err != nil || g.first <= j.last {
		return os.Remove(j.spare.path)
	}
	file := fileOf(g.first)
	j.opts.Logger.Warn("the disk has lost the name of the journal's last segment, which it has now again", "segment", file)
	if err := j.name(file); err != nil {
		return err
	}
	j.dropEmpty(g.first)
	return j.add(file, true)
}

// fileOf returns the name of the segment whose first record has a sequence.
func fileOf(first uint64) string { return fmt.Sprintf("%020d%s", first, suffix) }

// name gives the file for the next segment its name, durably, in place of an empty segment of that name.
func (j *Journal) name(file string) error {
	if err := os.Rename(j.spare.path, filepath.Join(j.opts.Dir, file)); err != nil {
		return err
	}
	return disk.SyncDir(j.opts.Dir)
}

// dropEmpty forgets the last segment if it is the empty one in whose place is another now.
func (j *Journal) dropEmpty(first uint64) {
	if n := len(j.segments); n > 0 && j.segments[n-1].first == first {
		j.segments = j.segments[:n-1]
	}
}

// last returns the last segment of a directory.
func last(entries []os.DirEntry) os.DirEntry {
	for _, e := range slices.Backward(entries) {
		if strings.HasSuffix(e.Name(), suffix) {
			return e
		}
	}
	return nil
}

// truncate ends a file at size, durably.
func truncate(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Sync(), f.Close())
}

// Range returns the first and the last sequence that the journal has. If it has no record, first is one more
// than last, and last is 0 or where records were dropped.
func (j *Journal) Range() (first, last uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.segments) == 0 {
		return j.last + 1, j.last
	}
	return j.segments[0].first, j.last
}

// Begin removes all records, and sets the sequence that the next one follows.
func (j *Journal) Begin(after uint64) error {
	j.writing.Lock()
	defer j.writing.Unlock()
	if err := j.closeFile(); err != nil {
		return fmt.Errorf("begin journal: %w", err)
	}
	j.mu.Lock()
	for _, s := range slices.Backward(j.segments) { // what remains after a crash has no gap
		if err := os.Remove(s.path); err != nil {
			j.mu.Unlock()
			return fmt.Errorf("begin journal: %w", err)
		}
	}
	j.segments, j.last, j.failed = nil, after, false
	j.mu.Unlock()
	if _, err := j.room(0, after+1); err != nil {
		return fmt.Errorf("begin journal: %w", err)
	}
	return nil
}

// Size returns how many bytes of groups the journal has.
func (j *Journal) Size() (n int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range j.segments {
		n += s.end
	}
	return n
}

// Append writes and syncs the records as one group. They must follow the last record without a gap, else
// [ErrSequence] is returned. After any other error none of them are in the journal, or they are removed by
// the next Append before it writes. The data is not kept. It must not be called concurrently.
func (j *Journal) Append(records []Record) error {
	if len(records) == 0 {
		return nil
	}
	j.writing.Lock()
	defer j.writing.Unlock()
	j.mu.Lock()
	after, closed := j.last, j.closed
	j.mu.Unlock()
	if closed {
		return fmt.Errorf("append to journal: %w", os.ErrClosed)
	}
	if j.failed {
		if err := j.repair(); err != nil {
			return fmt.Errorf("append to journal: %w: %w", ErrFailed, err)
		}
	}
	for i, r := range records {
		if r.Seq != after+1+uint64(i) {
			return fmt.Errorf("append record %d after %d: %w", r.Seq, after+uint64(i), ErrSequence)
		}
	}
	j.buf = appendGroup(j.buf[:0], records)
	s, err := j.room(int64(len(j.buf)), after+1)
	if err != nil {
		return fmt.Errorf("append to journal: %w", err)
	}
	_, err = j.file.WriteAt(j.buf, s.end)
	if err == nil {
		err = disk.SyncData(j.file)
	}
	if cap(j.buf) > keepBuffer {
		defer func() { j.buf = nil }()
	}
	if err != nil {
		j.failed = true
		return fmt.Errorf("append to journal: %w", err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	s.end += int64(len(j.buf))
	s.last = after + uint64(len(records))
	j.last = s.last
	return nil
}

// keepBuffer is the largest buffer that is kept for the next group, in bytes.
const keepBuffer = 4 << 20

// room returns the segment for a group of size bytes, and makes a new one if the last is too small.
func (j *Journal) room(size int64, first uint64) (*segment, error) {
	if j.file != nil {
		if s := j.segments[len(j.segments)-1]; s.end+size <= j.size {
			return s, nil
		}
		if err := j.closeFile(); err != nil {
			return nil, err
		}
	}
	f, err := j.spare.take(max(j.opts.Segment, size))
	if err != nil {
		return nil, fmt.Errorf("make segment: %w", err)
	}
	s := &segment{path: filepath.Join(j.opts.Dir, fileOf(first)), first: first, last: first - 1}
	if err := j.name(fileOf(first)); err != nil {
		return nil, errors.Join(fmt.Errorf("make segment: %w", err), f.Close())
	}
	j.file, j.size = f, max(j.opts.Segment, size)
	j.mu.Lock()
	j.dropEmpty(first)
	j.segments = append(j.segments, s)
	j.mu.Unlock()
	j.spare.prepare(j.opts.Segment)
	return s, nil
}

func (j *Journal) closeFile() error {
	if j.file == nil {
		return nil
	}
	err := j.file.Close()
	j.file = nil
	return err
}

// repair removes a group that could not be written. The next one goes into a new segment.
func (j *Journal) repair() error {
	s := j.segments[len(j.segments)-1]
	if err := errors.Join(j.closeFile(), truncate(s.path, s.end)); err != nil {
		return err
	}
	j.failed = false
	return nil
}

// Rotate begins a new segment, so that Drop can remove all records that there are. The name of the new one keeps the
// place.
func (j *Journal) Rotate() error {
	j.writing.Lock()
	defer j.writing.Unlock()
	if j.failed {
		if err := j.repair(); err != nil {
			return fmt.Errorf("end segment: %w: %w", ErrFailed, err)
		}
	}
	j.mu.Lock()
	last := j.last
	empty := len(j.segments) > 0 && j.segments[len(j.segments)-1].first == last+1
	j.mu.Unlock()
	if empty {
		return nil
	}
	if err := j.closeFile(); err != nil {
		return fmt.Errorf("end segment: %w", err)
	}
	if _, err := j.room(0, last+1); err != nil {
		return fmt.Errorf("begin segment: %w", err)
	}
	return nil
}

// Drop removes the segments of which all records are up to a sequence. The last segment stays: see Rotate.
func (j *Journal) Drop(upto uint64) error {
	j.writing.Lock()
	defer j.writing.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	removed := false
	for len(j.segments) > 0 {
		s := j.segments[0]
		if s.last > upto || len(j.segments) == 1 {
			break
		}
		if err := os.Remove(s.path); err != nil {
			return fmt.Errorf("drop segment: %w", err)
		}
		j.segments, removed = j.segments[1:], true
	}
	if !removed {
		return nil
	}
	if err := disk.SyncDir(j.opts.Dir); err != nil {
		return fmt.Errorf("drop segment: %w", err)
	}
	return nil
}

// Close closes the journal. It is idempotent.
func (j *Journal) Close() error {
	j.writing.Lock()
	defer j.writing.Unlock()
	j.mu.Lock()
	j.closed = true
	j.mu.Unlock()
	if err := errors.Join(j.closeFile(), j.spare.close()); err != nil {
		return fmt.Errorf("close journal: %w", err)
	}
	return nil
}
