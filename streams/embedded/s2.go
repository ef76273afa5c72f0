package embedded

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/s2"

	"github.com/pagestream/pagestream/internal/disk"
)

// What a compressed block consists of, as nats-server writes it: these four bytes, the length of the records as a varint,
// an S2 stream of the records without their last 8 bytes, and these. The server compresses a block when it begins the
// next one, and adds nothing to it then.
const (
	compressedHead = "cmp\x01"
	compressedTail = sumSize
)

// errDamaged is returned when a compressed block can't be read.
var errDamaged = errors.New("a block of the stream is damaged; type: pagestream recover")

// blockMax bounds what is read of a compressed block, in bytes. The server's largest blocks have 8 MiB and one message.
const blockMax = 128 << 20

// isCompressed reports whether the file of a block is compressed.
func isCompressed(f *os.File) (bool, error) {
	head := make([]byte, len(compressedHead))
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("read a block of the stream: %w", err)
	}
	return string(head[:n]) == compressedHead, nil
}

// sizeOf returns how many bytes the records of a compressed block have.
func sizeOf(f *os.File) (int64, error) {
	b := make([]byte, len(compressedHead)+binary.MaxVarintLen64)
	n, _ := f.ReadAt(b, 0)
	records, k := binary.Uvarint(b[min(n, len(compressedHead)):n])
	if k <= 0 || records > blockMax {
		return 0, errDamaged
	}
	return int64(records), nil
}

// storedIn returns how many bytes the files below a directory occupy on the disk, and how many without compression. What
// can't be counted is left out.
func storedIn(dir string) (used, stored int64) {
	used = disk.Used(dir)
	stored = used
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && filepath.Ext(path) == blockSuffix {
			stored += savedIn(path)
		}
		return nil
	})
	return used, stored
}

// savedIn returns how many bytes the compression of a block saves.
func savedIn(path string) int64 {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	if compressed, _ := isCompressed(f); !compressed {
		return 0
	}
	size, err := sizeOf(f)
	info, statErr := f.Stat()
	if err != nil || statErr != nil {
		return 0
	}
	return max(0, size-info.Size())
}

// decompress returns the records of a compressed block. The error says what to do if it is damaged.
func decompress(b []byte) ([]byte, error) {
	parts, whole := chunksOf(b)
	if !whole {
		return nil, errDamaged
	}
	return parts[0], nil
}

// firstChunk returns the first records of a compressed block.
func firstChunk(f *os.File) ([]byte, error) {
	b := make([]byte, s2Within+8+s2ChunkMax)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read a block of the stream: %w", err)
	}
	b = b[:n]
	begin := beginOf(b)
	if begin < 0 {
		return nil, errDamaged
	}
	data, size := chunkAt(b[begin+len(s2Begin):], make([]byte, s2ChunkMax))
	if size == 0 {
		return nil, errDamaged
	}
	return data, nil
}

// An S2 stream begins with s2Begin, and consists of chunks of up to a megabyte of records: the type in a byte, the length
// in 3, and of one with data a checksum in 4. https://github.com/google/snappy/blob/main/framing_format.txt
const (
	s2Begin        = "\xff\x06\x00\x00S2sTwO"
	s2Compressed   = 0
	s2Uncompressed = 1
	s2ChunkMax     = 4 << 20
	// s2Within is within how many bytes a stream begins in a block.
	s2Within = len(compressedHead) + binary.MaxVarintLen64 + len(s2Begin)
)

// beginOf returns where the S2 stream of a block begins, -1 if the block has none.
func beginOf(b []byte) int { return bytes.Index(b[:min(s2Within, len(b))], []byte(s2Begin)) }

// chunksOf returns the parts of a compressed block's records that can be decompressed, and whether these are all. It
// returns nil if the block is not compressed.
func chunksOf(b []byte) (parts [][]byte, whole bool) {
	begin := beginOf(b)
	if begin < 0 || len(b) < begin+len(s2Begin)+compressedTail {
		return nil, false
	}
	records, end := 0, len(b)-compressedTail
	buf := make([]byte, s2ChunkMax)
	var part []byte
	for at := begin + len(s2Begin); at < end; {
		data, size := chunkAt(b[at:end], buf)
		if size == 0 { // look for the next chunk that is whole
			if len(part) > 0 {
				parts, part = append(parts, part), nil
			}
			at++
			continue
		}
		part = append(part, data...)
		records += len(data)
		at += size
	}
	part = append(part, b[end:]...)
	head := binary.AppendUvarint([]byte(compressedHead), uint64(records+compressedTail))
	return append(parts, part), bytes.Equal(head, b[:begin])
}

// chunkAt returns the data of the chunk that b begins with, and its size; 0 if there is none, or a damaged one. It uses
// buf.
func chunkAt(b, buf []byte) (data []byte, size int) {
	if len(b) < 8 {
		return nil, 0
	}
	kind, length := b[0], int(b[1])|int(b[2])<<8|int(b[3])<<16
	if kind > s2Uncompressed || length < 4 || length > len(b)-4 {
		return nil, 0
	}
	data = b[8 : 4+length]
	if kind == s2Compressed {
		n, err := s2.DecodedLen(data)
		if err != nil || n > len(buf) {
			return nil, 0
		}
		if data, err = s2.Decode(buf, data); err != nil {
			return nil, 0
		}
	}
	sum := crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))
	if sum = (sum>>15 | sum<<17) + 0xa282ead8; sum != binary.LittleEndian.Uint32(b[4:]) {
		return nil, 0
	}
	return data, 4 + length
}

// compress returns the compressed block with these records.
func compress(records []byte) ([]byte, error) {
	b := bytes.NewBuffer(binary.AppendUvarint([]byte(compressedHead), uint64(len(records))))
	w := s2.NewWriter(b)
	body := len(records) - compressedTail
	_, err := w.Write(records[:body])
	if err := errors.Join(err, w.Close()); err != nil {
		return nil, fmt.Errorf("compress a block of the stream: %w", err)
	}
	return append(b.Bytes(), records[body:]...), nil
}
