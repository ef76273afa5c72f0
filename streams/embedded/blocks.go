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
	// Block is the number of the file, and Offset the place in it, in bytes, before it is compressed.
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

// removeCopies removes what a crash has left of a block that was being replaced, by the server or by [disk.Replace]:
// nothing would be erased from it.
func removeCopies(dir, stream string) error {
	msgs := filepath.Join(streamDir(dir, stream), "msgs")
	entries, err := os.ReadDir(msgs)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the files of the stream: %w", err)
	}
	for _, e := range entries {
		name := e.Name()
		if strings.HasSuffix(name, blockSuffix+".tmp") || strings.HasPrefix(name, ".") && strings.Contains(name, blockSuffix) {
			if err := os.Remove(filepath.Join(msgs, name)); err != nil {
				return fmt.Errorf("remove a copy of a block: %w", err)
			}
		}
	}
	return nil
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
		_, err := Mark{Block: n}.each(dir, stream, func(m Mark, _ []byte) {
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

// newestOf returns the sequence of the last message that can be read, 0 if there is none. After a power cut there may be
// anything else behind the last mark.
func newestOf(dir, stream string) (uint64, error) {
	blocks, err := blocksOf(dir, stream)
	if err != nil {
		return 0, err
	}
	for _, n := range slices.Backward(blocks) {
		records, _, err := readable(dir, stream, n, true)
		if err != nil {
			return 0, err
		}
		m, err := Mark{Block: n}.records(records, func(Mark, []byte) {})
		if err != nil || m.Seq > 0 {
			return m.Seq, err
		}
	}
	return 0, nil
}

// forward returns the mark after the last whole record of its block.
func (m Mark) forward(dir, stream string) (Mark, error) {
	return m.each(dir, stream, func(Mark, []byte) {})
}

// Has reports whether match returns true for the subject of a message in the files of a stream. An erased message has no
// subject. A running server may have messages that it has not written yet.
func Has(dir, stream string, match func(subject string) bool) (found bool, err error) {
	blocks, err := blocksOf(dir, stream)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	for _, n := range blocks {
		_, blockErr := Mark{Block: n}.each(dir, stream, func(_ Mark, record []byte) {
			found = found || match(subjectOf(record))
		})
		err = errors.Join(err, blockErr)
	}
	return found, err
}

// each calls f with each message's record in the block after m, and with the mark after it, and returns the mark after
// the last whole record.
func (m Mark) each(dir, stream string, f func(after Mark, record []byte)) (Mark, error) {
	file, err := os.Open(m.path(dir, stream))
	if err != nil {
		return m, fmt.Errorf("read a block of the stream: %w", err)
	}
	defer file.Close()
	b, _, err := contentOf(file, m.Offset)
	if err != nil {
		return m, err
	}
	return m.records(b, f)
}

// records calls f with each message's record in b, which is what the block has after m, and with the mark after it, and
// returns the mark after the last whole record.
func (m Mark) records(b []byte, f func(after Mark, record []byte)) (Mark, error) {
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

// contentOf returns the records of a block from an offset on, and whether the file is compressed. The offset is then that
// of the records. [ErrOlder] is returned if they end before it.
func contentOf(f *os.File, from int64) (records []byte, compressed bool, err error) {
	if compressed, err = isCompressed(f); err != nil {
		return nil, false, err
	}
	begin := from
	if compressed {
		begin = 0
	}
	info, err := f.Stat()
	if err != nil {
		return nil, compressed, fmt.Errorf("read a block of the stream: %w", err)
	}
	if info.Size() < begin {
		return nil, compressed, ErrOlder
	}
	b := make([]byte, info.Size()-begin)
	n, err := f.ReadAt(b, begin)
	if err != nil && n < len(b) {
		return nil, compressed, fmt.Errorf("read a block of the stream: %w", err)
	}
	if !compressed {
		return b, false, nil
	}
	if b, err = decompress(b); err != nil {
		return nil, true, err
	}
	if int64(len(b)) < from {
		return nil, true, ErrOlder
	}
	return b[from:], true, nil
}

// lengthOf returns how many bytes the record that begins with b has.
func lengthOf(b []byte) int64 { return int64(binary.LittleEndian.Uint32(b) & lengthMask) }

// seqOf returns the sequence of the message whose record begins with b, which may be overwritten. It reports false if
// the record is no message.
func seqOf(b []byte) (seq uint64, message bool) {
	seq = binary.LittleEndian.Uint64(b[4:])
	return seq &^ erasedBit, seq&tombstoneBit == 0
}

// subjectOf returns the subject of a message's record, empty if it is erased or damaged.
func subjectOf(record []byte) string {
	rest := record[subjectAt:]
	return string(rest[:min(int(binary.LittleEndian.Uint16(record[20:])), len(rest))])
}

// Cut removes what a stopped server wrote after a mark, durably, and reports whether there was anything. After a
// power cut the files have all of it, or parts with gaps. [ErrOlder] is returned, and nothing is removed, if they end
// before the mark. A block that the server has written anew since, as it does after erasures and when it compresses one,
// stays whole: the server syncs such a block.
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
	changed, err := m.truncate(dir, stream, blocks[len(blocks)-1] > m.Block)
	if err != nil {
		return false, err
	}
	next, _ := slices.BinarySearch(blocks, m.Block+1)
	blocks, later := blocks[:next], blocks[next:]
	if len(blocks) > 0 { // the server would append to a compressed one
		larger, err := Mark{Block: blocks[next-1]}.decompress(dir, stream)
		if err != nil {
			return false, err
		}
		changed = changed || larger
	}
	for _, n := range slices.Backward(later) { // what remains after a crash has no gap
		if err := os.Remove(Mark{Block: n}.path(dir, stream)); err != nil {
			return false, fmt.Errorf("remove a block of the stream: %w", err)
		}
	}
	if !changed && len(later) == 0 {
		return false, nil
	}
	return true, removeSummary(dir, stream)
}

// removeSummary removes the server's summary of its blocks, which may be of messages that were removed, and makes that
// and the names of the blocks durable. The server makes another from the blocks.
func removeSummary(dir, stream string) error {
	msgs := filepath.Join(streamDir(dir, stream), "msgs")
	if err := os.Remove(filepath.Join(msgs, stateFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the summary of the stream: %w", err)
	}
	return disk.SyncDir(msgs)
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
	if compressed, err := isCompressed(f); compressed || err != nil {
		return false, err
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

// decompress writes the mark's block anew, if it is compressed, and reports whether it was. Of a damaged one there is then
// what can be read.
func (m Mark) decompress(dir, stream string) (bool, error) {
	path := m.path(dir, stream)
	f, err := os.Open(path)
	if err != nil {
		return false, fmt.Errorf("open a block of the stream: %w", err)
	}
	defer f.Close()
	if compressed, err := isCompressed(f); !compressed || err != nil {
		return false, err
	}
	records, _, err := readable(dir, stream, m.Block, false)
	if err != nil {
		return false, err
	}
	return true, disk.Replace(path, records)
}
