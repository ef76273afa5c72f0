// Package erasures keeps the list of erasures in a file outside the data directory.
//
// A backup has what was erased after it was made. A restore of it needs the list, which
// therefore is in no backup of the data and outlives the data directory: one line of
// JSON for each erasure, with hashes in place of the ids of persons. A line is on disk
// before anything is erased.
package erasures

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/internal/disk"
)

var (
	// ErrFile is returned when a line of an erasures file can't be read.
	ErrFile = errors.New("this is not an erasures file of pagestream, or it is damaged")
	// ErrExists is returned when the copy of an erasures file exists already.
	ErrExists = errors.New("the file exists already; move it away")
)

// maxLine is the longest line in bytes. Those that are written have some 300.
const maxLine = 64 << 10

// File is an erasures file. It is safe for concurrent use in one process. Create it with
// [Open].
type File struct {
	path string
	mu   sync.Mutex
}

// Open returns the erasures file at path. It is created with the first erasure, for the
// owner only.
func Open(path string) *File { return &File{path: path} }

// Append adds erasures. They are on disk when it returns.
func (f *File) Append(list ...meta.Erasure) error {
	if err := f.append(list); err != nil {
		return fmt.Errorf("write erasures file: %w", err)
	}
	return nil
}

func (f *File) append(list []meta.Erasure) (err error) {
	var lines []byte
	for _, e := range list {
		b, err := json.Marshal(e)
		if err != nil {
			return err
		}
		lines = append(append(lines, b...), '\n')
	}
	if len(lines) == 0 {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
		return err
	}
	out, err := os.OpenFile(f.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if err := out.Chmod(0o600); err != nil {
		return err
	}
	end, err := complete(out)
	if err != nil {
		return err
	}
	// What follows the last complete line is of a crash: that erasure was not begun.
	if err := out.Truncate(end); err != nil {
		return err
	}
	if _, err := out.WriteAt(lines, end); err != nil {
		return err
	}
	if err := out.Sync(); err != nil {
		return err
	}
	return disk.SyncDir(filepath.Dir(f.path))
}

// complete returns the offset after the last complete line.
func complete(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	size := info.Size()
	tail := make([]byte, min(size, maxLine))
	if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil {
		return 0, err
	}
	i := bytes.LastIndexByte(tail, '\n')
	if i < 0 && size > int64(len(tail)) {
		return 0, ErrFile
	}
	return size - int64(len(tail)) + int64(i) + 1, nil
}

// List returns the erasures in the file, none if there is no file.
func (f *File) List() ([]meta.Erasure, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	list, err := Read(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return list, err
}

// Merge adds the erasures that the file does not have.
func (f *File) Merge(list []meta.Erasure) error {
	have, err := f.List()
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, e := range have {
		known[key(e)] = true
	}
	var more []meta.Erasure
	for _, e := range list {
		if !known[key(e)] {
			more = append(more, e)
		}
	}
	return f.Append(more...)
}

// Complete adds the recorded erasures of contacts that the file does not have: those of other nodes. The line of an
// erasure of this node is of the time of its record or before, and no earlier record of the contact is between the two.
// A record of [domain.NoPage] belongs to that of the contact's page, if there is one of the same time, or to any line.
func (f *File) Complete(records []meta.Erasure) error {
	have, err := f.List()
	if err != nil {
		return err
	}
	type person struct {
		page domain.PageID
		hash string
	}
	lines, last := map[person][]time.Time{}, map[person]time.Time{}
	for _, e := range have {
		lines[person{e.Page, e.Contact}] = append(lines[person{e.Page, e.Contact}], e.Time)
		lines[person{domain.NoPage, e.Contact}] = append(lines[person{domain.NoPage, e.Contact}], e.Time)
	}
	slices.SortFunc(records, func(a, b meta.Erasure) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(b.Page, a.Page)) // no page is the last one
	})
	var more []meta.Erasure
	for _, r := range records {
		who := person{r.Page, r.Contact}
		before := last[who]
		last[who], last[person{domain.NoPage, r.Contact}] = r.Time, r.Time
		if r.Time.After(before) && !slices.ContainsFunc(lines[who], func(at time.Time) bool {
			return at.After(before) && !at.After(r.Time)
		}) {
			more = append(more, r)
		}
	}
	return f.Append(more...)
}

// key identifies an erasure.
func key(e meta.Erasure) string {
	b, _ := json.Marshal(e) // all of its fields can be encoded
	return string(b)
}

// Read returns the erasures in the file at path. It fails with [ErrFile].
func Read(path string) (list []meta.Erasure, err error) {
	in, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read erasures file: %w", err)
	}
	defer in.Close()
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	for n := 1; lines.Scan(); n++ {
		var e meta.Erasure
		err := json.Unmarshal(lines.Bytes(), &e)
		if err == nil && !e.Time.IsZero() && (e.Page != "" && e.Contact != "") != (e.Admin != nil) {
			list = append(list, e)
			continue
		}
		if !lines.Scan() && lines.Err() == nil && !ended(in) {
			return list, nil // a line that was cut by a crash
		}
		return nil, fmt.Errorf("%s, line %d: %w", path, n, ErrFile)
	}
	if lines.Err() != nil {
		return nil, fmt.Errorf("%s: %w", path, ErrFile)
	}
	return list, nil
}

// ended reports whether the file ends with a complete line.
func ended(f *os.File) bool {
	info, err := f.Stat()
	if err != nil {
		return true
	}
	end, err := complete(f)
	return err != nil || end == info.Size()
}

// Copy writes the erasures to a new file, for the owner only: an empty one if there are
// none. It fails with [ErrExists].
func (f *File) Copy(to string) (err error) {
	list, err := f.List()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s: %w", to, ErrExists)
	}
	if err != nil {
		return fmt.Errorf("copy erasures file: %w", err)
	}
	err = errors.Join(out.Chmod(0o600), out.Close())
	if err != nil {
		return fmt.Errorf("copy erasures file: %w", err)
	}
	return Open(to).Append(list...)
}
