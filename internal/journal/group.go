package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
)

// A group is, in little endian:
//
//	magic   4 bytes
//	length  4 bytes   of the records
//	count   4 bytes   of records
//	first   8 bytes   the sequence of the first record
//	crc     4 bytes   CRC-32C of the records
//	header  4 bytes   CRC-32C of length, count, first and crc
//	records           each with its length in 4 bytes before it
//	mark    1 byte    not zero
//
// Neither the first byte nor the last is zero: so a sector that was not written, which is all zeros, is told
// from one that was.
const (
	magic      = "\xb5PSj"
	headerSize = 28
	mark       = 0x5b
	// sector is the size of what a disk writes as a whole, or a multiple of it.
	sector = 512
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendGroup appends the bytes of a group to b.
func appendGroup(b []byte, records []Record) []byte {
	start := len(b)
	b = append(b, magic...)
	b = append(b, make([]byte, headerSize-len(magic))...)
	for _, r := range records {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(r.Data)))
		b = append(b, r.Data...)
	}
	h := b[start : start+headerSize]
	binary.LittleEndian.PutUint32(h[4:], uint32(len(b)-start-headerSize))
	binary.LittleEndian.PutUint32(h[8:], uint32(len(records)))
	binary.LittleEndian.PutUint64(h[12:], records[0].Seq)
	binary.LittleEndian.PutUint32(h[20:], crc32.Checksum(b[start+headerSize:], castagnoli))
	binary.LittleEndian.PutUint32(h[24:], crc32.Checksum(h[4:24], castagnoli))
	return append(b, mark)
}

// sizeOf returns the size of the group with the header at the beginning of b, false if there is no whole header.
func sizeOf(b []byte) (int64, bool) {
	if len(b) < headerSize || string(b[:4]) != magic ||
		crc32.Checksum(b[4:24], castagnoli) != binary.LittleEndian.Uint32(b[24:]) {
		return 0, false
	}
	return headerSize + int64(binary.LittleEndian.Uint32(b[4:])) + 1, true
}

// group is a group of a segment.
type group struct {
	first   uint64
	count   uint32
	records []byte
}

var errNoGroup = errors.New("no group")

// readGroup returns the group at the beginning of b, and its size. errNoGroup is returned when there is no
// whole one.
func readGroup(b []byte) (g group, size int64, err error) {
	size, ok := sizeOf(b)
	if !ok || int64(len(b)) < size || b[size-1] != mark {
		return g, 0, errNoGroup
	}
	g = group{
		first: binary.LittleEndian.Uint64(b[12:]), count: binary.LittleEndian.Uint32(b[8:]),
		records: b[headerSize : size-1],
	}
	if crc32.Checksum(g.records, castagnoli) != binary.LittleEndian.Uint32(b[20:]) {
		return g, 0, errNoGroup
	}
	return g, size, nil
}

// each calls f with the records of the group from a sequence on.
func (g group) each(from uint64, f func(Record) error) error {
	b := g.records
	for i := range g.count {
		if len(b) < 4 || uint64(len(b)-4) < uint64(binary.LittleEndian.Uint32(b)) {
			return fmt.Errorf("record %d: %w", g.first+uint64(i), ErrDamaged)
		}
		n := 4 + binary.LittleEndian.Uint32(b)
		if seq := g.first + uint64(i); seq >= from {
			if err := f(Record{Seq: seq, Data: b[4:n:n]}); err != nil {
				return err
			}
		}
		b = b[n:]
	}
	return nil
}

// scan finds the last record and the end of a segment. It returns how many bytes of a group that was not
// written as a whole follow the end. [ErrDamaged] is returned when there is anything else.
func (s *segment) scan() (torn int, err error) {
	b, err := os.ReadFile(s.path)
	if err != nil {
		return 0, err
	}
	return s.parse(b)
}

// parse is scan of the bytes of the segment's file.
func (s *segment) parse(b []byte) (torn int, err error) {
	for at := int64(0); at < int64(len(b)); {
		g, size, err := readGroup(b[at:])
		if err != nil {
			rest := bytes.TrimRight(b[at:], "\x00")
			if len(rest) > 0 && !tornAt(b, int(at)) {
				return 0, fmt.Errorf("%s at byte %d, after record %d: %w", s.path, at, s.last, ErrDamaged)
			}
			return len(rest), nil
		}
		if g.first != s.last+1 {
			return 0, fmt.Errorf("%s at byte %d: record %d follows %d: %w", s.path, at, g.first, s.last, ErrDamaged)
		}
		s.last += uint64(g.count)
		at += size
		s.end = at
	}
	return 0, nil
}

// tornAt reports whether the bytes at a place are a group that was not written as a whole, and that was the
// last one. A disk writes whole sectors, in any order, and a segment had only zeros before: so a sector of
// the group has only zeros, or its part in a sector that it shares with the group before. A group that was
// written as a whole and changed later has no such sector.
//
// No group follows a torn one, because a group is written after the one before it was synced.
func tornAt(b []byte, at int) bool {
	if follows(b[at:]) {
		return false
	}
	end := max(len(bytes.TrimRight(b, "\x00")), at+headerSize)
	if size, ok := sizeOf(b[at:]); ok {
		end = max(end, at+int(size))
	}
	for at < end {
		next := min(end, (at/sector+1)*sector)
		if at >= len(b) || len(bytes.Trim(b[at:min(next, len(b))], "\x00")) == 0 {
			return true
		}
		at = next
	}
	return false
}

// follows reports whether a whole group follows after the beginning of b.
func follows(b []byte) bool {
	for at := 1; at < len(b); at++ {
		i := bytes.Index(b[at:], []byte(magic))
		if i < 0 {
			return false
		}
		at += i
		if _, _, err := readGroup(b[at:]); err == nil {
			return true
		}
	}
	return false
}

// Read calls f with the records from a sequence on, in order, up to the last one that was appended before the
// call. The data is valid during the call only. An error of f ends it and is returned unchanged. [ErrDamaged]
// is returned when a record can't be read.
func (j *Journal) Read(from uint64, f func(Record) error) error {
	j.mu.Lock()
	var list []segment
	for _, s := range j.segments {
		if s.last >= from && s.last >= s.first {
			list = append(list, *s)
		}
	}
	j.mu.Unlock()
	for _, s := range list {
		if err := s.read(from, f); err != nil {
			return err
		}
	}
	return nil
}

// read reads the records of a segment up to s.end.
func (s *segment) read(from uint64, f func(Record) error) error {
	b := make([]byte, s.end)
	file, err := os.Open(s.path)
	if err != nil {
		return fmt.Errorf("read journal: %w", err)
	}
	_, err = io.ReadFull(file, b)
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("read journal: %w", err)
	}
	for at, next := int64(0), s.first; at < s.end; {
		g, size, err := readGroup(b[at:])
		if err != nil || g.first != next {
			return fmt.Errorf("%s at byte %d, record %d: %w", s.path, at, next, ErrDamaged)
		}
		if err := g.each(from, f); err != nil {
			return err
		}
		at, next = at+size, next+uint64(g.count)
	}
	return nil
}
