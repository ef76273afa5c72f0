package embedded

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
// The server may be about to compress a block, of which it has read what was overwritten since. So Overwrite returns a
// sequence of each block that it has changed and that was not compressed. When the server has answered a request for
// that message, which waits for the block, call Overwrite again, until it returns none.
//
// It is safe while the server runs: the server never writes a message again that it has deleted, and it appends to a
// block or replaces the file, but changes nothing in it. Only a message that is deleted securely would be written from
// the server's memory with the whole block, and with what was overwritten: nothing else may delete from the stream.
func (c *Checkpoints) Overwrite(ctx context.Context, created time.Time, deleted []uint64) (busy []uint64, err error) {
	blocks, err := c.blocksWith(deleted)
	if err != nil {
		return nil, err
	}
	wanted := make(map[uint64]bool, len(deleted))
	for _, seq := range deleted {
		wanted[seq] = true
	}
	// The last block, to which the server adds, is the last one here, too: what is put on record of it stays.
	for _, block := range slices.Backward(blocks) {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("overwrite deleted messages: %w", err)
		}
		last, err := c.overwriteIn(block, created, wanted)
		if err != nil {
			return nil, fmt.Errorf("overwrite deleted messages: %w", err)
		}
		if last > 0 {
			busy = append(busy, last)
		}
	}
	return busy, errors.Join(c.removeDamaged(), disk.SyncAll(c.root, c.dir))
}

// blocksWith returns the blocks that may have one of the sequences, the last one first.
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
	compressed, err := isCompressed(f)
	if err != nil {
		return 0, err
	}
	var r io.Reader = f
	if compressed {
		b, err := firstChunk(f)
		if err != nil {
			return 0, err
		}
		r = bytes.NewReader(b)
	}
	records := bufio.NewReader(r)
	for {
		head, err := records.Peek(12)
		if err != nil {
			return 0, nil //nolint:nilerr // the block ends here
		}
		if seq, message := seqOf(head); message {
			return seq, nil
		}
		if _, err := records.Discard(int(max(recordMin, lengthOf(head)))); err != nil {
			return 0, nil //nolint:nilerr // the block ends here
		}
	}
}

// overwriteIn overwrites those of the messages that are in one block. If there are any, and the block is not compressed,
// it returns the sequence of the block's last message, otherwise 0.
func (c *Checkpoints) overwriteIn(block uint64, created time.Time, wanted map[uint64]bool) (last uint64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now, err := Created(c.dir, c.stream); err != nil || !now.Equal(created) {
		return 0, cmp.Or(err, ErrOther)
	}
	if err := c.overwriteAgain(); err != nil { // a call before this one may have failed
		return 0, err
	}
	f, err := os.OpenFile(Mark{Block: block}.path(c.dir, c.stream), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	b, compressed, err := contentOf(f, 0)
	if err != nil {
		return 0, err
	}
	sums, err := sumsOf(c.stream, block)
	if err != nil {
		return 0, err
	}
	records, last, err := sums.recordsOf(block, b, wanted)
	switch {
	case err != nil || len(records) == 0:
		return 0, err
	case compressed:
		return 0, sums.write(f, b, true, records)
	}
	// What is put on record stays there until the next call, when the server can't have half of it any more.
	if err := c.begin(overwrites{created, records}); err != nil {
		return 0, err
	}
	return last, sums.write(f, b, false, records)
}

// recordsOf returns those records of a block that are to be overwritten, and the sequence of its last message.
func (s sums) recordsOf(block uint64, b []byte, wanted map[uint64]bool) (out []overwrite, last uint64, err error) {
	end, err := Mark{Block: block}.records(b, func(after Mark, b []byte) {
		if seq, _ := seqOf(b); wanted[seq] && !s.erased(b) {
			after.Seq = seq
			out = append(out, overwrite{after, int64(len(b)), slices.Clone(b[len(b)-sumSize:])})
		}
	})
	return out, end.Seq, err
}

// begin puts on record which records of a block are to be overwritten.
func (c *Checkpoints) begin(list overwrites) error {
	b, err := json.Marshal(list)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	return replace(c.overwritesFile(), b)
}

// write overwrites records of a block, which has the content b, durably. A compressed block is replaced.
func (s sums) write(f *os.File, b []byte, compressed bool, records []overwrite) error {
	for _, r := range records {
		at := b[r.Offset-r.Size : r.Offset]
		s.erase(r, at)
		if compressed {
			continue
		}
		if _, err := f.WriteAt(at, r.Offset-r.Size); err != nil {
			return err
		}
	}
	if !compressed {
		return f.Sync()
	}
	b, err := compress(b)
	if err != nil {
		return err
	}
	return disk.Replace(f.Name(), b)
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
	if created.Equal(list.Created) && len(list.Records) > 0 {
		if err := c.complete(list.Records); err != nil {
			return fmt.Errorf("overwrite deleted messages: %w", err)
		}
	}
	return os.Remove(c.overwritesFile())
}

// complete overwrites records of one block, unless something else is in their places.
func (c *Checkpoints) complete(records []overwrite) error {
	f, err := os.OpenFile(records[0].path(c.dir, c.stream), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	b, compressed, err := contentOf(f, 0)
	if err != nil {
		return err
	}
	sums, err := sumsOf(c.stream, records[0].Block)
	if err != nil {
		return err
	}
	var same []overwrite
	for _, r := range records {
		if r.Offset > int64(len(b)) {
			continue // the block has become shorter
		}
		if has := b[r.Offset-r.Size : r.Offset]; sums.half(r, has) && !sums.erased(has) {
			same = append(same, r)
		}
	}
	if len(same) == 0 {
		return nil
	}
	return sums.write(f, b, compressed, same)
}

// half reports whether b may be the record, of which each byte is the old or the new one.
func (s sums) half(r overwrite, b []byte) bool {
	seq, message := seqOf(b)
	if !message || seq != r.Seq || lengthOf(b) != r.Size {
		return false
	}
	erased := make([]byte, r.Size)
	s.erase(r, erased)
	for i, sum := range b[r.Size-sumSize:] {
		if sum != r.Sum[i] && sum != erased[int(r.Size)-sumSize+i] {
			return false
		}
	}
	return true
}

// erase makes b the record of an erased message, as the server writes it: nothing is left but its size and sequence.
func (s sums) erase(r overwrite, b []byte) {
	clear(b)
	binary.LittleEndian.PutUint32(b, uint32(r.Size))
	binary.LittleEndian.PutUint64(b[4:], r.Seq|erasedBit)
	copy(b[r.Size-sumSize:], s.of(b))
}

// erased reports whether a record is that of an erased message. The server may have read the record while it was being
// overwritten: then its checksum is of neither.
func (s sums) erased(b []byte) bool {
	return binary.LittleEndian.Uint64(b[4:])&erasedBit != 0 && s.valid(b)
}
