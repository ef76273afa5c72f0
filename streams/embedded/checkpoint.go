package embedded

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/pagestream/pagestream/internal/disk"
)

// ErrOther is returned when a checkpoint is of another stream than there is.
var ErrOther = errors.New("the checkpoint is of another stream")

// ErrNewer is returned when the files of a stream have messages after a checkpoint that nobody can store again.
var ErrNewer = errors.New("the files of the stream are newer than the checkpoint and what could be stored again")

// Checkpoints make durable what a server without syncs has written of a stream, and remove after a power cut what
// may have gaps. They rely on what nats-server does with its files: see [Mark].
//
// The server reports no sync, and reading a file back only shows what is in memory. So the whole file system is
// synced, with a descriptor that is open since the start, which is told of each failed write since.
type Checkpoints struct {
	file, dir, stream string

	mu   sync.Mutex
	root *os.File // of the server's directory
	last checkpoint
}

// checkpoint is the content of the file.
type checkpoint struct {
	// Created is when the stream was created.
	Created time.Time `json:"created"`
	Mark
}

// OpenCheckpoints returns the checkpoints of a stream of the server in dir. They are kept in a file. The caller must
// close them. The server need not run yet.
func OpenCheckpoints(file, dir, stream string) (*Checkpoints, error) {
	c := &Checkpoints{file: file, dir: dir, stream: stream}
	b, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("read checkpoint: %w", err)
	default:
		if err := json.Unmarshal(b, &c.last); err != nil {
			return nil, fmt.Errorf("read checkpoint %s: %w", file, err)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open checkpoints: %w", err)
	}
	if c.root, err = os.Open(dir); err != nil {
		return nil, fmt.Errorf("open checkpoints: %w", err)
	}
	return c, nil
}

// Seq returns the sequence of the last event of the checkpoint, 0 if there is none.
func (c *Checkpoints) Seq() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last.Seq
}

// Cut removes from the files of a stopped server what was written after the checkpoint, and reports whether there was
// anything. What is removed has to be stored again: first and last are the first and the last sequence that can be. If
// first is later than what follows the checkpoint, a later checkpoint was lost, and that is the place instead. [ErrNewer]
// is returned if there is a message after the checkpoint and after last, [ErrOther] if the stream is another one or is
// gone, [ErrOlder] if its files end before the checkpoint. Nothing is removed then, or if there is no checkpoint, but
// copies of blocks that a crash has left.
func (c *Checkpoints) Cut(first, last uint64) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := removeCopies(c.dir, c.stream); err != nil {
		return false, err
	}
	if c.last.Created.IsZero() {
		return false, nil
	}
	created, err := Created(c.dir, c.stream)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && !created.Equal(c.last.Created):
		return false, ErrOther
	case err != nil:
		return false, err
	}
	newest, err := newestOf(c.dir, c.stream)
	if err != nil {
		return false, err
	}
	if last = max(last, c.last.Seq); newest > last {
		return false, fmt.Errorf("the stream has event %d, and those after %d can't be stored again: %w", newest, last, ErrNewer)
	}
	if err := c.overwriteAgain(); err != nil {
		return false, err
	}
	mark := c.last.Mark
	if first > mark.Seq+1 {
		if mark, err = MarkAfter(c.dir, c.stream, first-1); err != nil {
			return false, err
		}
	}
	return Cut(c.dir, c.stream, mark)
}

// Forget removes the checkpoint, durably, until the next Take: nothing is cut then. It is for what stores messages that
// nobody can store again after a crash.
func (c *Checkpoints) Forget() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := os.Remove(c.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove checkpoint: %w", err)
	}
	if err := disk.SyncDir(filepath.Dir(c.file)); err != nil {
		return fmt.Errorf("remove checkpoint: %w", err)
	}
	c.last = checkpoint{}
	return nil
}

// Take makes durable what is in the files of the stream, and returns the sequence of the last event that is. An event
// that was acknowledged may be missing: the server writes it some milliseconds later.
func (c *Checkpoints) Take() (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	created, err := Created(c.dir, c.stream)
	if err != nil {
		return 0, err
	}
	before := c.last.Mark
	if !created.Equal(c.last.Created) {
		before = Mark{}
	}
	mark, err := MarkOf(c.dir, c.stream, before)
	if err != nil {
		return 0, err
	}
	if err := disk.SyncAll(c.root, c.dir); err != nil {
		return 0, err
	}
	return mark.Seq, c.write(checkpoint{Created: created, Mark: mark})
}

// write replaces the checkpoint.
func (c *Checkpoints) write(next checkpoint) error {
	b, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("encode checkpoint: %w", err)
	}
	if err := replace(c.file, b); err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	c.last = next
	return nil
}

// replace writes a file and its directory, durably.
func replace(path string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return disk.Replace(path, b)
}

// Close closes the checkpoints.
func (c *Checkpoints) Close() error {
	if err := c.root.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("close checkpoints: %w", err)
	}
	return nil
}
