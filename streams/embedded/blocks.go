package embedded

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pagestream/pagestream/internal/disk"
)

// ErrOlder is returned when the files of a stream end before a mark: they are of another time than the mark.
var ErrOlder = errors.New("the files of the stream end before the mark")

// Mark is a place in the files of a stream, after a whole message. The server keeps a stream in blocks, which are
// numbered files, and adds messages to the last one.
type Mark struct {
	// Block is the number of the file, and Offset the place in it, in bytes.
	Block  uint64 `json:"block"`
	Offset int64  `json:"offset"`
	// Seq is the sequence of the last message before that place.
	Seq uint64 `json:"seq"`
}

// What a block consists of, as nats-server writes it (server/filestore.go): records, each with its length in 4 bytes,
// its sequence in 8, its time in 8, the length of the subject in 2, and at the end a checksum of 8. Bits of the
// length and the sequence have meanings of their own.
const (
	recordMin     = 30
	lengthMask    = 1<<31 - 1 // without the bit of messages that have headers
	erasedBit     = 1 << 63
	tombstoneBit  = 1 << 62
	compressed    = "cmp" // what a compressed block begins with
	blockSuffix   = ".blk"
	stateFile     = "index.db"
	metaFile      = "meta.inf"
	globalAccount = "$G"
)

func streamDir(dir, stream string) string {
	return filepath.Join(dir, "jetstream", globalAccount, "streams", stream)
}

// Created returns when the stream in the files of a server was created, as [jetstream.StreamInfo] has it. The
// error wraps [fs.ErrNotExist] if there is no such stream.
func Created(dir, stream string) (time.Time, error) {
	b, err := os.ReadFile(filepath.Join(streamDir(dir, stream), metaFile))
	if err != nil {
		return time.Time{}, fmt.Errorf("read the files of the stream: %w", err)
	}
	var meta struct {
		Created time.Time `json:"created"`
	}
	if err := json.Unmarshal(b, &meta); err != nil {
		return time.Time{}, fmt.Errorf("read %s of the stream: %w", metaFile, err)
	}
	return meta.Created, nil
}

// MarkOf returns the place after the last message that the server has written to its files, which need not be
// synced. before is the mark of an earlier call, or zero: the files are read from there. A running server may
// have messages that it has not written yet.
func MarkOf(dir, stream string, before Mark) (Mark, error) {
	blocks, err := blocksOf(dir, stream)
	if err != nil {
		return Mark{}, err
	}
	out := Mark{}
	for i, n := range slices.Backward(blocks) {
		m := Mark{Block: n}
		if n == before.Block {
			m = before
		}
		if m, err = m.forward(dir, stream); err != nil && n == before.Block {
			m, err = Mark{Block: n}.forward(dir, stream) // it was written anew
		}
		if err != nil {
			return Mark{}, err
		}
		if i == len(blocks)-1 {
			out = m
		}
		if m.Seq > 0 {
			out.Seq = m.Seq
			return out, nil
		}
	}
	return out, nil
}

// blocksOf returns the numbers of a stream's blocks, in order.
func blocksOf(dir, stream string) (out []uint64, err error) {
	entries, err := os.ReadDir(filepath.Join(streamDir(dir, stream), "msgs"))
	if err != nil {
		return nil, fmt.Errorf("read the files of the stream: %w", err)
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), blockSuffix)
		if n, err := strconv.ParseUint(name, 10, 64); ok && err == nil {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out, nil
}

func (m Mark) path(dir, stream string) string {
	return filepath.Join(streamDir(dir, stream), "msgs", strconv.FormatUint(m.Block, 10)+blockSuffix)
}

// MarkAfter returns the place after the last message up to a sequence. [ErrOlder] is returned if there is none. It reads
// the blocks that have later messages.
func MarkAfter(dir, stream string, seq uint64) (Mark, error) {
	blocks, err := blocksOf(dir, stream)
	if err != nil {
		return Mark{}, err
	}
	for _, n := range slices.Backward(blocks) {
		out := Mark{}
		_, err := Mark{Block: n}.each(dir, stream, func(m Mark) {
			if m.Seq <= seq {
				out = m
			}
		})
		if err != nil || out.Block > 0 {
			return out, err
		}
	}
	return Mark{}, ErrOlder
}

// forward returns the mark after the last whole record of its block.
func (m Mark) forward(dir, stream string) (Mark, error) { return m.each(dir, stream, func(Mark) {}) }

// each calls f with the mark after each message of the block after m, and returns the mark after the last whole record.
func (m Mark) each(dir, stream string, f func(Mark)) (Mark, error) {
	file, err := os.Open(m.path(dir, stream))
	if err != nil {
		return m, fmt.Errorf("read a block of the stream: %w", err)
	}
	defer file.Close()
	return m.records(file, func(after Mark, _ []byte) { f(after) })
}

// records calls f with each message's record of the block after m, and with the mark after it, and returns the mark after
// the last whole record. The error wraps [errors.ErrUnsupported] if the block is compressed.
func (m Mark) records(file *os.File, f func(after Mark, record []byte)) (Mark, error) {
	info, err := file.Stat()
	if err != nil {
		return m, fmt.Errorf("read a block of the stream: %w", err)
	}
	if info.Size() < m.Offset {
		return m, ErrOlder
	}
	b := make([]byte, info.Size()-m.Offset)
	n, err := file.ReadAt(b, m.Offset)
	if err != nil && n < len(b) {
		return m, fmt.Errorf("read a block of the stream: %w", err)
	}
	if m.Offset == 0 && strings.HasPrefix(string(b[:min(len(b), len(compressed))]), compressed) {
		return m, fmt.Errorf("block %d of the stream is compressed: %w", m.Block, errors.ErrUnsupported)
	}
	for len(b) >= recordMin {
		size := lengthOf(b)
		if size < recordMin {
			return m, fmt.Errorf("block %d of the stream has no record at byte %d: %w", m.Block, m.Offset, ErrOlder)
		}
		if size > int64(len(b)) {
			break
		}
		record := b[:size]
		b, m.Offset = b[size:], m.Offset+size
		if seq, message := seqOf(record); message {
			m.Seq = max(m.Seq, seq)
			f(m, record)
		}
	}
	return m, nil
}

// lengthOf returns how many bytes the record that begins with b has.
func lengthOf(b []byte) int64 { return int64(binary.LittleEndian.Uint32(b) & lengthMask) }

// seqOf returns the sequence of the message whose record begins with b, which may be overwritten. It reports false if
// the record is no message.
func seqOf(b []byte) (seq uint64, message bool) {
	seq = binary.LittleEndian.Uint64(b[4:])
	return seq &^ erasedBit, seq&tombstoneBit == 0
}

// Cut removes what a stopped server wrote after a mark, durably, and reports whether there was anything. After a
// power cut the files have all of it, or parts with gaps. [ErrOlder] is returned, and nothing is removed, if they end
// before the mark. A block that the server has written anew since, as it does after erasures, stays whole: the server
// syncs such a block.
func Cut(dir, stream string, m Mark) (bool, error) {
	blocks, err := blocksOf(dir, stream)
	if err != nil {
		return false, err
	}
	if len(blocks) == 0 && m.Block == 0 { // the stream had no message yet
		return false, nil
	}
	if len(blocks) == 0 || blocks[len(blocks)-1] < m.Block {
		return false, fmt.Errorf("block %d: %w", m.Block, ErrOlder)
	}
	shorter, err := m.truncate(dir, stream, blocks[len(blocks)-1] > m.Block)
	if err != nil {
		return false, err
	}
	later := slices.DeleteFunc(blocks, func(n uint64) bool { return n <= m.Block })
	for _, n := range slices.Backward(later) { // what remains after a crash has no gap
		if err := os.Remove(Mark{Block: n}.path(dir, stream)); err != nil {
			return false, fmt.Errorf("remove a block of the stream: %w", err)
		}
	}
	if !shorter && len(later) == 0 {
		return false, nil
	}
	msgs := filepath.Dir(m.path(dir, stream))
	// The server's summary of its blocks may be of messages that are removed. It makes another from the blocks.
	if err := os.Remove(filepath.Join(msgs, stateFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("remove the summary of the stream: %w", err)
	}
	return true, disk.SyncDir(msgs)
}

// truncate ends the mark's block at the mark, and reports whether it was longer.
func (m Mark) truncate(dir, stream string, complete bool) (bool, error) {
	path := m.path(dir, stream)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if complete && errors.Is(err, fs.ErrNotExist) {
		return false, nil // all of its messages were erased
	}
	if err != nil {
		return false, fmt.Errorf("open a block of the stream: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return false, fmt.Errorf("open a block of the stream: %w", err)
	}
	begin := make([]byte, len(compressed))
	if n, _ := f.ReadAt(begin, 0); string(begin[:n]) == compressed {
		return false, nil
	}
	switch {
	case info.Size() < m.Offset && !complete:
		return false, fmt.Errorf("block %d has %d bytes of %d: %w", m.Block, info.Size(), m.Offset, ErrOlder)
	case info.Size() <= m.Offset:
		return false, nil
	}
	if err := f.Truncate(m.Offset); err != nil {
		return false, fmt.Errorf("end a block of the stream: %w", err)
	}
	if err := f.Sync(); err != nil {
		return false, fmt.Errorf("end a block of the stream: %w", err)
	}
	return true, nil
}
