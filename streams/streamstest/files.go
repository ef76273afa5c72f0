package streamstest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/stretchr/testify/require"
)

// Tick waits until a file that is written now gets a later time of modification than the file at path has: the
// clock of files advances in steps of some milliseconds.
func Tick(t testing.TB, path string) {
	t.Helper()
	before, err := os.Stat(path)
	require.NoError(t, err)
	probe := filepath.Join(t.TempDir(), "probe")
	Eventually(t, Limit, func() error {
		require.NoError(t, os.WriteFile(probe, nil, 0o600))
		now, err := os.Stat(probe)
		require.NoError(t, err)
		if !now.ModTime().After(before.ModTime()) {
			return fmt.Errorf("it is still %s", now.ModTime())
		}
		return nil
	})
}

// WriteAt overwrites a part of a file, which keeps its inode.
func WriteAt(path string, at int64, b []byte) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, at)
	return errors.Join(err, f.Close())
}

// Circle makes each branch page of a bbolt file its own child.
func Circle(path string) error {
	b, err := os.ReadFile(path)
	for at := 2 * 4096; at < len(b); at += 4096 {
		if binary.NativeEndian.Uint16(b[at+8:]) == 1 {
			for i := range int(binary.NativeEndian.Uint16(b[at+10:])) {
				binary.NativeEndian.PutUint64(b[at+16+16*i+8:], uint64(at/4096))
			}
		}
	}
	return errors.Join(err, WriteAt(path, 0, b))
}

// FilesWith returns the paths of the files below directories whose content matches, as [ReadBlock] returns it. A program
// that runs renames and deletes files meanwhile, and what they had may be in a file that was read before: FilesWith begins
// again if a file was gone. The test fails if there are no files.
func FilesWith(t testing.TB, match func(content []byte) bool, dirs ...string) (found []string) {
	t.Helper()
	files := 0
	Eventually(t, Limit, func() error {
		found, files = nil, 0
		for _, dir := range dirs {
			err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
				if err != nil || e.IsDir() {
					return err
				}
				files++
				content, err := ReadBlock(path)
				if err == nil && match(content) {
					found = append(found, path)
				}
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	require.NotZero(t, files, "no file is below %q", dirs)
	return found
}

// Has returns a match for [FilesWith] that finds any of the texts.
func Has(texts ...string) func(content []byte) bool {
	return func(content []byte) bool {
		return slices.ContainsFunc(texts, func(text string) bool { return bytes.Contains(content, []byte(text)) })
	}
}

// ReadBlock reads a file as [os.ReadFile] does, and decompresses it if it is a block of a stream that the server has
// compressed.
func ReadBlock(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	rest, compressed := bytes.CutPrefix(b, []byte("cmp\x01"))
	if err != nil || !compressed {
		return b, err
	}
	_, n := binary.Uvarint(rest)
	if n <= 0 || len(rest) < n+8 {
		return nil, fmt.Errorf("%s has no valid head", path)
	}
	records, err := io.ReadAll(s2.NewReader(bytes.NewReader(rest[n : len(rest)-8])))
	return append(records, rest[len(rest)-8:]...), err
}
