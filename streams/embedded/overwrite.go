package embedded

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/minio/highwayhash"

	"github.com/pagestream/pagestream/internal/disk"
)

// overwrites is the content of the file that says which records are being overwritten. A power cut may leave a record
// that is half the old one, by which the server would end the block; so the next start writes it again.
type overwrites struct {
	Created time.Time   `json:"created"` // of the stream
	Records []overwrite `json:"records"`
}

// overwrite is the place of one record. The mark is after it.
type overwrite struct {
	Mark
	Size int64 `json:"size"`
	// Sum is the checksum that the record had.
	Sum []byte `json:"sum"`
}

const sumSize = highwayhash.Size64

func (c *Checkpoints) overwritesFile() string {
	return filepath.Join(filepath.Dir(c.file), "overwrite")
}

// Overwrite replaces the bytes of messages that the server has deleted, as the server does itself when it deletes a
// message securely, for which it writes the whole block anew. A message that is in no file is skipped. It is durable
// when Overwrite returns. The server must have written the messages to its files: see Take. [ErrOther] is returned if
// the stream was not created at that time: it has other messages with these sequences.
//
// It is safe while the server runs: the server never writes a message again that it has deleted, and it appends to a
// block or replaces the file, but changes nothing in it. Only a message that is deleted securely would be written from
// the server's memory with the whole block, and with what was overwritten: nothing else may delete from the stream.
func (c *Checkpoints) Overwrite(ctx context.Context, created time.Time, deleted []uint64) error {
	blocks, err := c.blocksWith(deleted)
	if err != nil {
		return err
	}
	wanted := make(map[uint64]bool, len(deleted))
	for _, seq := range deleted {
		wanted[seq] = true
	}
	for _, block := range blocks {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("overwrite deleted messages: %w", err)
		}
		if err := c.overwriteIn(block, created, wanted); err != nil {
			return fmt.Errorf("overwrite deleted messages: %w", err)
		}
	}
	return disk.SyncAll(c.root, c.dir)
}

// blocksWith returns the blocks that may have one of the sequences.
func (c *Checkpoints) blocksWith(seqs []uint64) (out []uint64, err error) {
	blocks, err := blocksOf(c.dir, c.stream)
	if err != nil {
		return nil, err
	}
	seqs = slices.Sorted(slices.Values(seqs))
	for i, end := len(blocks)-1, len(seqs); i >= 0 && end > 0; i-- {
		first, err := firstOf(Mark{Block: blocks[i]}.path(c.dir, c.stream))
		switch {
		case errors.Is(err, fs.ErrNotExist) || err == nil && first == 0: // the server has just removed or replaced it
			continue
		case err != nil:
			return nil, err
		}
		begin, _ := slices.BinarySearch(seqs[:end], first)
		if begin < end {
			out, end = append(out, blocks[i]), begin
		}
	}
	return out, nil
}

// firstOf returns the sequence of the first message in a block, 0 if there is none.
func firstOf(path string) (uint64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("read a block of the stream: %w", err)
	}
	defer f.Close()
	for at := int64(0); ; {
		var head [12]byte
		if _, err := f.ReadAt(head[:], at); err != nil {
			return 0, nil //nolint:nilerr // the block ends here
		}
		if seq, message := seqOf(head[:]); message {
			return seq, nil
		}
		at += max(recordMin, lengthOf(head[:]))
	}
}

// overwriteIn overwrites those of the messages that are in one block.
func (c *Checkpoints) overwriteIn(block uint64, created time.Time, wanted map[uint64]bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now, err := Created(c.dir, c.stream); err != nil || !now.Equal(created) {
		return cmp.Or(err, ErrOther)
	}
	if err := c.overwriteAgain(); err != nil { // a call before this one may have failed
		return err
	}
	f, err := os.OpenFile(Mark{Block: block}.path(c.dir, c.stream), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	records, err := c.begin(f, block, created, wanted)
	if err != nil || len(records) == 0 {
		return err
	}
	for _, r := range records {
		b, err := r.erased(c.stream)
		if err != nil {
			return err
		}
		if _, err := f.WriteAt(b, r.Offset-r.Size); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Remove(c.overwritesFile())
}

// begin puts on record which records of a block are to be overwritten, and returns them.
func (c *Checkpoints) begin(f *os.File, block uint64, created time.Time, wanted map[uint64]bool) ([]overwrite, error) {
	list := overwrites{Created: created}
	_, err := Mark{Block: block}.records(f, func(after Mark, b []byte) {
		seq, _ := seqOf(b)
		if wanted[seq] && binary.LittleEndian.Uint64(b[4:])&erasedBit == 0 {
			after.Seq = seq
			list.Records = append(list.Records, overwrite{after, int64(len(b)), slices.Clone(b[len(b)-sumSize:])})
		}
	})
	if err != nil || len(list.Records) == 0 {
		return nil, err
	}
	b, err := json.Marshal(list)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return list.Records, replace(c.overwritesFile(), b)
}

// overwriteAgain completes what an earlier call may have begun. A record is left alone if its place has another now.
func (c *Checkpoints) overwriteAgain() error {
	b, err := os.ReadFile(c.overwritesFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var list overwrites
	if err == nil {
		err = json.Unmarshal(b, &list)
	}
	if err != nil {
		return fmt.Errorf("read which messages are being overwritten: %w", err)
	}
	created, err := Created(c.dir, c.stream)
	if err != nil {
		return err
	}
	for _, r := range list.Records {
		if !created.Equal(list.Created) {
			break
		}
		if err := r.writeAgain(c.dir, c.stream); err != nil {
			return fmt.Errorf("overwrite deleted messages: %w", err)
		}
	}
	return os.Remove(c.overwritesFile())
}

// erased returns the record of an erased message, as the server writes it: nothing is left but its size and sequence.
func (o overwrite) erased(stream string) ([]byte, error) {
	b := make([]byte, o.Size)
	binary.LittleEndian.PutUint32(b, uint32(o.Size))
	binary.LittleEndian.PutUint64(b[4:], o.Seq|erasedBit)
	key := sha256.Sum256(fmt.Appendf(nil, "%s-%d", stream, o.Block))
	sum, err := highwayhash.NewDigest64(key[:])
	if err != nil {
		return nil, fmt.Errorf("make checksum: %w", err)
	}
	// The server leaves out the length and that of the subject, which is 0.
	_, _ = sum.Write(b[4:20])
	_, _ = sum.Write(b[22 : o.Size-sumSize])
	return sum.Sum(b[:o.Size-sumSize]), nil
}

// writeAgain overwrites the record, unless something else is in its place.
func (o overwrite) writeAgain(dir, stream string) error {
	f, err := os.OpenFile(o.path(dir, stream), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	has := make([]byte, o.Size)
	if _, err := f.ReadAt(has, o.Offset-o.Size); err != nil {
		return nil //nolint:nilerr // the block has become shorter
	}
	erased, err := o.erased(stream)
	if err != nil {
		return err
	}
	seq, message := seqOf(has)
	same := message && seq == o.Seq && lengthOf(has) == o.Size
	for i, b := range has[o.Size-sumSize:] { // each byte may be the old or the new one
		same = same && (b == o.Sum[i] || b == erased[int(o.Size)-sumSize+i])
	}
	if !same {
		return nil
	}
	if _, err := f.WriteAt(erased, o.Offset-o.Size); err != nil {
		return err
	}
	return f.Sync()
}
