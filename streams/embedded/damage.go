package embedded

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/minio/highwayhash"

	"github.com/pagestream/pagestream/internal/disk"
)

// damagedDir has the blocks that [Checkpoints.Mend] has replaced, beside the others.
const damagedDir = "damaged"

// headersBit of a record's length says that the message has headers. The subject follows the record's first 22 bytes,
// then the length of the headers in 4 bytes if there are any.
const (
	headersBit  = 1 << 31
	subjectAt   = 22
	headersSize = 4
)

// Damaged returns the blocks that have bytes which the disk has changed, by the checksums of all messages: the server
// skips such a message in silence, and reads nothing of a compressed block. It reads the whole stream, about a gigabyte of
// messages a second. The server may run.
func (c *Checkpoints) Damaged(ctx context.Context) (damaged []uint64, err error) {
	blocks, err := blocksOf(c.dir, c.stream)
	if err != nil {
		return nil, err
	}
	for i, block := range blocks {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("look for damage in the stream's files: %w", err)
		}
		_, whole, err := c.read(block, i == len(blocks)-1)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // the server has just removed it
			return nil, err
		}
		if err == nil && !whole {
			damaged = append(damaged, block)
		}
	}
	return damaged, nil
}

// Mend replaces blocks of a stopped server that are damaged by what can be read of them, and returns their numbers. What
// can't be read is lost: the server would not start with such a block if it is compressed. The damaged file is kept
// until the next erasure, in the folder "damaged" of the stream.
func (c *Checkpoints) Mend() (mended []uint64, err error) {
	blocks, err := blocksOf(c.dir, c.stream)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for i, block := range blocks {
		records, whole, err := c.read(block, i == len(blocks)-1)
		if err != nil {
			return mended, err
		}
		if whole {
			continue
		}
		if err := c.putAside(block, records); err != nil {
			return mended, fmt.Errorf("mend block %d of the stream: %w", block, err)
		}
		mended = append(mended, block)
	}
	if len(mended) == 0 {
		return nil, nil
	}
	return mended, errors.Join(c.moved(), removeSummary(c.dir, c.stream))
}

// moved replaces the checkpoint by one of the same sequence after blocks were replaced by shorter ones: its place in the
// block is another.
func (c *Checkpoints) moved() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last.Created.IsZero() {
		return nil
	}
	mark, err := MarkAfter(c.dir, c.stream, c.last.Seq)
	if errors.Is(err, ErrOlder) { // nothing up to there can be read
		var blocks []uint64
		if blocks, err = blocksOf(c.dir, c.stream); err == nil && len(blocks) > 0 {
			mark = Mark{Block: blocks[0]}
		}
	}
	if err != nil {
		return fmt.Errorf("find the checkpoint again: %w", err)
	}
	mark.Seq = c.last.Seq
	return c.write(checkpoint{Created: c.last.Created, Mark: mark})
}

// putAside keeps a block, and puts another with these records in its place, or none.
func (c *Checkpoints) putAside(block uint64, records []byte) error {
	path := Mark{Block: block}.path(c.dir, c.stream)
	kept := filepath.Join(streamDir(c.dir, c.stream), damagedDir)
	if err := os.MkdirAll(kept, 0o700); err != nil {
		return err
	}
	if err := os.Link(path, filepath.Join(kept, filepath.Base(path))); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if len(records) == 0 {
		return os.Remove(path)
	}
	return disk.Replace(path, records)
}

// read returns the records of a block that can be read, and whether these are all. The end of the last block may be a
// record that the server is writing.
func (c *Checkpoints) read(block uint64, last bool) (records []byte, whole bool, err error) {
	c.mu.Lock() // nothing is overwritten meanwhile
	defer c.mu.Unlock()
	return readable(c.dir, c.stream, block, last)
}

func readable(dir, stream string, block uint64, last bool) (records []byte, whole bool, err error) {
	b, err := os.ReadFile(Mark{Block: block}.path(dir, stream))
	if err != nil {
		return nil, false, fmt.Errorf("read a block of the stream: %w", err)
	}
	sums, err := sumsOf(stream, block)
	if err != nil {
		return nil, false, err
	}
	records, whole = sums.readable(b, last)
	return records, whole, nil
}

// readable returns the records in the file of a block that can be read, and whether these are all, see Checkpoints.read.
func (s sums) readable(b []byte, last bool) (records []byte, whole bool) {
	parts, whole := chunksOf(b)
	if parts == nil {
		parts, whole = [][]byte{b}, true
	} else {
		last = false
	}
	for _, part := range parts {
		for at := 0; at < len(part); {
			next := s.next(part, at)
			if next > at {
				whole = whole && last && next == len(part)
			}
			if next == len(part) {
				break
			}
			at = next + int(lengthOf(part[next:]))
			records = append(records, part[next:at]...)
		}
	}
	return records, whole
}

// sums checks the checksums of a block's records.
type sums struct{ hash *highwayhash.Digest64 }

func sumsOf(stream string, block uint64) (sums, error) {
	key := sha256.Sum256(fmt.Appendf(nil, "%s-%d", stream, block))
	hash, err := highwayhash.NewDigest64(key[:])
	if err != nil {
		return sums{}, fmt.Errorf("make checksum: %w", err)
	}
	return sums{hash}, nil
}

// next returns where the first valid record of b begins, not before at, or the end of b.
func (s sums) next(b []byte, at int) int {
	for ; at+recordMin <= len(b); at++ {
		size := lengthOf(b[at:])
		if size < recordMin || size > int64(len(b)-at) || !plausible(b[at:]) {
			continue
		}
		record := b[at : at+int(size)]
		if s.valid(record) {
			return at
		}
	}
	return len(b)
}

// plausible reports whether what b begins with may be the sequence and time of a message. It spares most checksums of
// bytes that are none.
func plausible(b []byte) bool {
	seq := binary.LittleEndian.Uint64(b[4:]) &^ (erasedBit | tombstoneBit)
	return seq < 1<<48 && binary.LittleEndian.Uint64(b[12:]) < 1<<63
}

// valid reports whether a record has the checksum that it should have.
func (s sums) valid(record []byte) bool {
	sum := s.of(record)
	return sum != nil && bytes.Equal(sum, record[len(record)-sumSize:])
}

// of returns the checksum that a record should have, nil if it can't be one. The server leaves out the lengths.
func (s sums) of(record []byte) []byte {
	subject := int(binary.LittleEndian.Uint16(record[20:]))
	end := len(record) - sumSize
	rest := subjectAt + subject
	if binary.LittleEndian.Uint32(record)&headersBit != 0 {
		rest += headersSize
	}
	if rest > end {
		return nil
	}
	s.hash.Reset()
	_, _ = s.hash.Write(record[4:20])
	_, _ = s.hash.Write(record[subjectAt : subjectAt+subject])
	_, _ = s.hash.Write(record[rest:end])
	return s.hash.Sum(nil)
}

// removeDamaged removes what Mend has kept, since nothing is erased from it.
func (c *Checkpoints) removeDamaged() error {
	if err := os.RemoveAll(filepath.Join(streamDir(c.dir, c.stream), damagedDir)); err != nil {
		return fmt.Errorf("remove damaged blocks: %w", err)
	}
	return nil
}
