package journal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// data returns the data of a record, of a length that depends on its sequence.
func data(seq uint64) []byte {
	return []byte(strings.Repeat(fmt.Sprintf("record %d ", seq), 1+int(seq*37%150)))
}

func records(from, n uint64) (out []Record) {
	for seq := from; seq < from+n; seq++ {
		out = append(out, Record{seq, data(seq)})
	}
	return out
}

func open(t testing.TB, dir string, segment int64) *Journal {
	t.Helper()
	j, err := Open(Options{Dir: dir, Segment: segment})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, j.Close()) })
	return j
}

// requireHas asserts that the journal has exactly the records of a range.
func requireHas(t require.TestingT, j *Journal, first, last uint64) {
	next := first
	require.NoError(t, j.Read(first, func(r Record) error {
		require.Equal(t, next, r.Seq)
		require.Equal(t, data(next), r.Data)
		next++
		return nil
	}))
	require.Equal(t, last, next-1)
	gotFirst, gotLast := j.Range()
	require.LessOrEqual(t, gotFirst, first)
	require.Equal(t, last, gotLast)
}

func segments(t testing.TB, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	require.NoError(t, err)
	return names
}

func TestRecordsAreReadBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, dir, 8<<10)
	for seq := uint64(1); seq <= 200; seq += 4 {
		require.NoError(t, j.Append(records(seq, 4)))
	}
	requireHas(t, j, 1, 200)
	requireHas(t, j, 57, 200)
	require.Greater(t, len(segments(t, dir)), 3)
	require.ErrorIs(t, j.Append(records(202, 1)), ErrSequence)
	stop := errors.New("stop")
	require.ErrorIs(t, j.Read(3, func(Record) error { return stop }), stop)
	require.NoError(t, j.Close())
	require.ErrorIs(t, j.Append(records(201, 1)), os.ErrClosed)

	again := open(t, dir, 8<<10)
	requireHas(t, again, 1, 200)
	require.NoError(t, again.Append(records(201, 3)))
	requireHas(t, again, 1, 203)
}

func TestDropRemovesWholeSegments(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, dir, 4<<10)
	require.NoError(t, j.Begin(100))
	require.NoError(t, j.Append(records(101, 5)))
	require.NoError(t, j.Append(records(106, 30)), "larger than a segment")
	require.NoError(t, j.Drop(105))
	first, _ := j.Range()
	require.Equal(t, uint64(106), first)
	require.NoError(t, j.Drop(135))
	requireHas(t, j, 106, 135)
	require.NoError(t, j.Rotate())
	require.NoError(t, j.Drop(134))
	requireHas(t, j, 106, 135)
	require.NoError(t, j.Drop(135))
	require.Len(t, segments(t, dir), 1, "its name keeps the place")
	first, last := j.Range()
	require.Equal(t, uint64(136), first)
	require.Equal(t, uint64(135), last)
	require.NoError(t, j.Close())
	j = open(t, dir, 4<<10)
	first, last = j.Range()
	require.Equal(t, uint64(136), first)
	require.Equal(t, uint64(135), last)
	require.NoError(t, j.Append(records(136, 2)))
	requireHas(t, j, 136, 137)
	require.NoError(t, j.Rotate())
	require.NoError(t, j.Rotate(), "again, without a record")
	require.Len(t, segments(t, dir), 2)
	require.NoError(t, j.Close())

	require.NoError(t, os.WriteFile(filepath.Join(dir, "next"), []byte("half a file"), 0o600))
	again := open(t, dir, 4<<10)
	requireHas(t, again, 136, 137)
	require.NoFileExists(t, filepath.Join(dir, "next"))
	require.NoError(t, again.Begin(7))
	require.NoError(t, again.Append(records(8, 1)))
	requireHas(t, again, 8, 8)
	require.Len(t, segments(t, dir), 1)
}

// TestEachSectorMayBeMissing cuts the power while the last group is written: any set of its sectors may be on
// the disk.
func TestEachSectorMayBeMissing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		dir := t.TempDir()
		j, err := Open(Options{Dir: dir, Segment: 64 << 10})
		require.NoError(rt, err)
		n := rapid.Uint64Range(1, 20).Draw(rt, "records before")
		require.NoError(rt, j.Append(records(1, n)))
		before := j.segments[0].end
		require.NoError(rt, j.Append(records(n+1, rapid.Uint64Range(1, 20).Draw(rt, "records"))))
		end := j.segments[0].end
		_, last := j.Range()
		require.NoError(rt, j.Close())
		path := segments(t, dir)[0]
		b, err := os.ReadFile(path)
		require.NoError(rt, err)
		missing := false
		for at := before; at < end; {
			next := min(end, (at/sector+1)*sector)
			if rapid.Bool().Draw(rt, "missing") {
				missing = true
				clear(b[at:next])
			}
			at = next
		}
		require.NoError(rt, os.WriteFile(path, b, 0o600))
		again, err := Open(Options{Dir: dir, Segment: 64 << 10})
		require.NoError(rt, err)
		if missing {
			last = n
		}
		requireHas(rt, again, 1, last)
		require.NoError(rt, again.Append(records(last+1, 3)))
		requireHas(rt, again, 1, last+3)
		require.NoError(rt, again.Close())
	})
}

// TestNoByteMayChange changes each byte of a journal in turn: what was synced is never taken for what was being
// written.
func TestNoByteMayChange(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, dir, 8<<10)
	require.NoError(t, j.Append(records(1, 1)))
	require.NoError(t, j.Append(records(2, 2)))
	require.NoError(t, j.Append(records(4, 1)))
	end := j.segments[0].end
	require.NoError(t, j.Close())
	path := segments(t, dir)[0]
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	for at := range end {
		b := bytes.Clone(whole)
		b[at] ^= byte(1 << (at % 8))
		require.NoError(t, os.WriteFile(path, b, 0o600))
		_, err := Open(Options{Dir: dir})
		require.ErrorIs(t, err, ErrDamaged, "byte %d", at)
		kept, err := os.ReadFile(path)
		require.NoError(t, err)
		require.True(t, bytes.Equal(b, kept), "nothing is removed")
	}
}

func TestAMissingSegmentIsDamage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, dir, 2<<10)
	for seq := uint64(1); seq <= 20; seq++ {
		require.NoError(t, j.Append(records(seq, 1)))
	}
	require.NoError(t, j.Close())
	names := segments(t, dir)
	require.Greater(t, len(names), 2)
	require.NoError(t, os.Truncate(names[0], j.segments[0].end-1))
	_, err := Open(Options{Dir: dir})
	require.ErrorIs(t, err, ErrDamaged)
	require.NoError(t, os.Remove(names[1]))
	_, err = Open(Options{Dir: dir})
	require.ErrorIs(t, err, ErrDamaged)
}

// TestARenameThatIsLost takes from the last segment the name that it got before it had records, as a disk may in a power
// cut that has reported the name as written.
func TestARenameThatIsLost(t *testing.T) {
	t.Parallel()
	// unnamed returns the directory of a journal with the records 101 to 104, and the path of the segment from 103 on,
	// which is "next".
	unnamed := func(t *testing.T) (dir, next string) {
		dir = t.TempDir()
		j := open(t, dir, 4<<10)
		require.NoError(t, j.Begin(100))
		require.NoError(t, j.Append(records(101, 2)))
		require.NoError(t, j.Rotate())
		require.NoError(t, j.Append(records(103, 2)))
		require.NoError(t, j.Close())
		next = filepath.Join(dir, "next")
		require.NoError(t, os.Rename(segments(t, dir)[1], next))
		return dir, next
	}
	t.Run("records", func(t *testing.T) {
		t.Parallel()
		dir, next := unnamed(t)
		j := open(t, dir, 4<<10)
		requireHas(t, j, 101, 104)
		require.NoFileExists(t, next)
		require.NoError(t, j.Append(records(105, 1)))
		require.NoError(t, j.Close())
		requireHas(t, open(t, dir, 4<<10), 101, 105)
	})
	t.Run("in place of an empty segment", func(t *testing.T) {
		t.Parallel()
		dir, _ := unnamed(t)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "00000000000000000103"+suffix), make([]byte, 4<<10), 0o600))
		requireHas(t, open(t, dir, 4<<10), 101, 104)
		require.Len(t, segments(t, dir), 2)
	})
	t.Run("the first segment", func(t *testing.T) {
		t.Parallel()
		dir, _ := unnamed(t)
		require.NoError(t, os.Remove(segments(t, dir)[0]))
		requireHas(t, open(t, dir, 4<<10), 103, 104)
	})
	t.Run("a group that was not written as a whole", func(t *testing.T) {
		t.Parallel()
		dir, next := unnamed(t)
		require.NoError(t, os.Truncate(next, 40))
		requireHas(t, open(t, dir, 4<<10), 101, 102)
		require.NoFileExists(t, next)
	})
	t.Run("both names", func(t *testing.T) {
		t.Parallel()
		dir, next := unnamed(t)
		require.NoError(t, os.Link(next, filepath.Join(dir, "00000000000000000103"+suffix)))
		requireHas(t, open(t, dir, 4<<10), 101, 104)
		require.NoFileExists(t, next)
	})
	t.Run("a segment is missing before it", func(t *testing.T) {
		t.Parallel()
		dir, _ := unnamed(t)
		require.NoError(t, os.Remove(segments(t, dir)[0]))
		other := t.TempDir()
		j := open(t, other, 4<<10)
		require.NoError(t, j.Append(records(1, 9)))
		require.NoError(t, j.Close())
		require.NoError(t, os.CopyFS(dir, os.DirFS(other)))
		for range 2 {
			_, err := Open(Options{Dir: dir})
			require.ErrorIs(t, err, ErrDamaged)
		}
	})
}

// TestAFailedWriteLeavesNothing makes a write fail, and writes other records with the same sequences.
func TestAFailedWriteLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, first := range []bool{true, false} {
		dir := t.TempDir()
		j := open(t, dir, 64<<10)
		after := uint64(0)
		if !first {
			require.NoError(t, j.Append(records(1, 3)))
			after = 3
		} else {
			_, err := j.room(100, 1)
			require.NoError(t, err)
		}
		require.NoError(t, j.file.Close())
		require.Error(t, j.Append(records(after+1, 2)))
		j.file = nil
		require.NoError(t, j.Append(records(after+1, 5)))
		requireHas(t, j, 1, after+5)
		require.NoError(t, j.Close())
		requireHas(t, open(t, dir, 64<<10), 1, after+5)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(appendGroup(nil, records(1, 3)))
	f.Add(appendGroup(appendGroup(nil, records(1, 1)), records(2, 2)))
	f.Add(append([]byte(magic), make([]byte, 600)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := segment{path: "fuzz", first: 1}
		torn, err := s.parse(b)
		if err != nil {
			require.ErrorIs(t, err, ErrDamaged)
		}
		require.LessOrEqual(t, s.end+int64(torn), int64(len(b)))
		again := segment{path: "fuzz", first: 1}
		torn, err = again.parse(b[:s.end])
		require.NoError(t, err)
		require.Zero(t, torn)
		require.Equal(t, s, again)
	})
}

func BenchmarkAppend(b *testing.B) {
	for _, n := range []uint64{1, 16, 64} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			j, err := Open(Options{Dir: b.TempDir()})
			require.NoError(b, err)
			group := make([]Record, n)
			payload := bytes.Repeat([]byte("x"), 1200)
			seq := uint64(0)
			for b.Loop() {
				for i := range group {
					seq++
					group[i] = Record{seq, payload}
				}
				if err := j.Append(group); err != nil {
					b.Fatal(err)
				}
				if seq%20_000 < n {
					if err := j.Drop(seq); err != nil {
						b.Fatal(err)
					}
				}
			}
			require.NoError(b, j.Close())
		})
	}
}
